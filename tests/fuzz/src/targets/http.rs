//! Raw bytes on the sockets of a whole server in this process. The first byte says which listener; `$ADMIN`, `$DEPLOY` and
//! `$CALL` stand for keys.
//!
//! What must hold: the server answers or closes, in time; what it says is HTTP; never 500; and a request that must work
//! works.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mayfly::config::Config;
use mayfly::server::Server;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::Target;

/// How long the server may think about bytes after which nothing comes any more.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Without a byte for so long, an input has been answered or is waited for: its sender goes.
const PAUSE: Duration = Duration::from_millis(40);
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Inputs after which requests that must work are sent.
const CHECK_EVERY: u64 = 50;

pub(crate) struct HttpTarget {
    _runtime: Runtime,
    _folder: TempDir,
    data: SocketAddr,
    admin: SocketAddr,
    /// Of the operator; fuzzed requests do not get it, so that they cannot take away what is checked.
    key: String,
    deploy: String,
    call: String,
    runs: u64,
    notes: BTreeMap<&'static str, u64>,
}

impl HttpTarget {
    pub(crate) fn new(root: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let folder = tempfile::tempdir()?;
        let mut config = Config::defaults();
        config.server.data_dir = folder.path().join("data");
        config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.admin_listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = runtime.block_on(Server::start(config))?;
        let key = server.admin_key.as_ref().context("the first start has an admin key")?.expose().to_owned();
        let (data, admin) = (server.data, server.admin);
        // It runs until the process ends.
        std::mem::forget(server);
        let mut target = Self {
            _runtime: runtime,
            _folder: folder,
            data,
            admin,
            key,
            deploy: String::new(),
            call: String::new(),
            runs: 0,
            notes: BTreeMap::new(),
        };
        target.api("POST", "/tenants", json!({ "name": "fuzz" }))?;
        target.api("POST", "/projects", json!({ "name": "fuzz", "tenant": "fuzz" }))?;
        for project in ["default", "fuzz"] {
            let wasm = super::guest(root, "hostile")?;
            let stored = target.send("PUT", &format!("/projects/{project}/artifacts"), &wasm)?;
            let limits = json!({ "deadline_ms_max": 2000, "guest_cpu_ms_max": 100 });
            let spec = json!({ "handler": { "digest": stored["digest"] }, "models": {}, "limits": limits });
            target.api("POST", &format!("/projects/{project}/deployments/h"), spec)?;
        }
        target.deploy = target.make_key("deploy")?;
        target.call = target.make_key("call")?;
        target.check().map_err(anyhow::Error::msg)?;
        Ok(target)
    }

    fn make_key(&self, scope: &str) -> anyhow::Result<String> {
        let made = self.api("POST", "/keys", json!({ "scopes": [scope], "project": "fuzz" }))?;
        Ok(made["secret"].as_str().with_context(|| format!("{made}"))?.to_owned())
    }

    fn api(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Value> {
        self.send(method, path, body.to_string().as_bytes())
    }

    /// A request on the control plane that must succeed.
    fn send(&self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Value> {
        let head = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        let answer =
            exchange(self.admin, &[head.as_bytes(), body].concat(), ANSWER_WITHIN).map_err(anyhow::Error::msg)?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(text.starts_with("HTTP/1.1 2"), "{method} {path}: {text}");
        match text.split_once("\r\n\r\n") {
            Some((_, body)) => Ok(serde_json::from_str(body).unwrap_or_default()),
            None => bail!("{method} {path}: {text}"),
        }
    }

    fn check(&self) -> Result<(), String> {
        let call = format!(
            "GET /d/default/h/status?code=201 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            self.key
        );
        let answer = exchange(self.data, call.as_bytes(), ANSWER_WITHIN)?;
        if !answer.starts_with(b"HTTP/1.1 201") {
            return Err(format!("a call that must work does not\n{}", String::from_utf8_lossy(&answer)));
        }
        let answer =
            exchange(self.admin, b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", ANSWER_WITHIN)?;
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(format!("a server that is not ready any more\n{}", String::from_utf8_lossy(&answer)));
        }
        Ok(())
    }

    fn filled_in(&self, input: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for (name, key) in [("$DEPLOY", &self.deploy), ("$CALL", &self.call)] {
            if let Some(at) = bytes.windows(name.len()).position(|window| window == name.as_bytes()) {
                bytes.splice(at..at + name.len(), key.bytes());
            }
        }
        bytes
    }
}

/// Sends all of `bytes` and reads to the end. Past `patience` without an answer, or behind one, nothing more is sent.
fn exchange(to: SocketAddr, bytes: &[u8], patience: Duration) -> Result<Vec<u8>, String> {
    let ours = |error: std::io::Error| format!("the fuzzer cannot talk to the server: {error}");
    let mut stream = TcpStream::connect(to).map_err(ours)?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(ours)?;
    let mut reader = stream.try_clone().map_err(ours)?;
    let owned = bytes.to_vec();
    // On its own thread: a server may answer and close before it has read everything.
    let writer = std::thread::spawn(move || {
        let _ = stream.write_all(&owned);
    });
    reader.set_read_timeout(Some(patience)).map_err(ours)?;
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    let mut open = true;
    let end = loop {
        match reader.read(&mut piece) {
            Ok(0) => break Ok(()),
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            // Somebody has stopped and continued the fuzzer.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break Ok(()),
            Err(error) if open && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                open = false;
                // Gone already is as good.
                let _ = reader.shutdown(Shutdown::Write);
                reader.set_read_timeout(Some(ANSWER_WITHIN)).map_err(ours)?;
            }
            Err(error) => break Err(format!("a connection that is neither answered nor closed: {error}")),
        }
        if answer.len() > ANSWER_BYTES_MAX {
            break Ok(());
        }
    };
    drop(reader);
    let _ = writer.join();
    end.map(|()| answer)
}

impl Target for HttpTarget {
    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"GET ",
            b"POST ",
            b"PUT ",
            b"DELETE ",
            b"HEAD ",
            b"OPTIONS ",
            b"CONNECT ",
            b" HTTP/1.1\r\n",
            b" HTTP/1.0\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b"host: a\r\n",
            b"authorization: Bearer $CALL\r\n",
            b"authorization: Bearer $DEPLOY\r\n",
            b"api-key: $CALL\r\n",
            b"content-length: 5\r\n",
            b"content-length: 18446744073709551616\r\n",
            b"transfer-encoding: chunked\r\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"te: trailers\r\n",
            b"expect: 100-continue\r\n",
            b"upgrade: h2c\r\n",
            b"connection: close\r\n",
            b"idempotency-key: a\r\n",
            b"/d/fuzz/h/echo",
            b"/d/fuzz/h/headers?kind=many",
            b"/d/fuzz/h/stream",
            b"/d/fuzz/h/trap-mid",
            b"/v1/chat/completions",
            b"/v1/embeddings",
            b"/v1/models",
            b"/openai/deployments/h/chat/completions?api-version=1",
            b"/v1/requests/",
            b"/api/v1/projects/fuzz/deployments/h",
            b"/api/v1/projects/fuzz/deployments/h/logs?tail=5",
            b"/api/v1/projects/fuzz/artifacts",
            b"/api/v1/projects/fuzz/models/m",
            b"/api/v1/projects/fuzz/deployments/h/estimate",
            b"/api/v1/projects/fuzz/limits",
            b"/api/v1/keys",
            b"/api/v1/usage?from=",
            b"/api/v1/requests/",
            b"/metrics",
            b"/openapi.json",
            b"{\"model\":\"h\",\"input\":\"x\"}",
            b"{\"models\":{},\"handler\":{\"builtin\":\"chat\"}}",
            b"%2e%2e/",
            b"%00",
            b"\xff\xfe",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\0\0\0\x04\0\0\0\0\0",
            b"\0\0\x04\x01\x05\0\0\0\x01\x82\x84\x86\x01",
        ]
    }

    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        let Some((&first, bytes)) = input.split_first() else { return Ok(()) };
        let to = if first % 2 == 0 { self.data } else { self.admin };
        let answer = exchange(to, &self.filled_in(bytes), PAUSE)?;
        let what = match answer.get(..12) {
            None if answer.is_empty() => "closed",
            Some(start) if start.starts_with(b"HTTP/1.") => {
                let text = String::from_utf8_lossy(&answer);
                let status = text.get(9..12).and_then(|status| status.parse::<u16>().ok());
                match status {
                    Some(200..300) => "2xx",
                    Some(500) => return Err(format!("an answer that is a fault of ours\n{text}")),
                    Some(100..600) => "other statuses",
                    _ => return Err(format!("an answer that is no HTTP\n{text:?}")),
                }
            }
            // A settings frame on stream 0 comes first.
            _ if bytes.starts_with(b"PRI * HTTP/2") && answer.get(3) == Some(&4) => "HTTP/2",
            _ => return Err(format!("an answer that is no HTTP\n{:?}", String::from_utf8_lossy(&answer))),
        };
        *self.notes.entry(what).or_default() += 1;
        self.runs += 1;
        if self.runs.is_multiple_of(CHECK_EVERY) { self.check() } else { Ok(()) }
    }

    fn seconds_max(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn notes(&self) -> BTreeMap<&'static str, u64> {
        self.notes.clone()
    }
}
