//! Python servers as peers: the same model behind HTTP, batching on. One runs in its own turns only: LitServe takes a tenth of a
//! core when it has nothing to do, which the others' rounds would pay.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::Bench;
use crate::embeddings::same;
use crate::load::Request;
use crate::wire::Wire;

const PATH: &str = "/v1/embeddings";

/// A server that `tests/bench/run.sh` installs.
#[derive(Debug)]
pub(crate) struct Kind {
    name: &'static str,
    /// Its folder in `target/bench-peers`, which is its package's name.
    package: &'static str,
    /// In `tests/bench`; called with the model's folder, a port and the number of threads. It ends by itself when its
    /// standard input does: it has workers of its own, which a kill would leave behind.
    script: &'static str,
    batches: &'static str,
    /// A path that answers with 200 once it serves.
    ready: &'static str,
    request: fn(&str) -> Value,
    /// Where an answer has its vector.
    vector: &'static str,
}

pub(crate) const LITSERVE: Kind = Kind {
    name: "LitServe",
    package: "litserve",
    script: "litserve.py",
    batches: "batches of up to 32 within 5 ms",
    ready: "/health",
    request: |text| json!({ "model": "embed", "input": text }),
    vector: "/data/0/embedding",
};

pub(crate) const BENTOML: Kind = Kind {
    name: "BentoML",
    package: "bentoml",
    script: "bentoml_service.py",
    batches: "adaptive batches of up to 32",
    ready: "/readyz",
    request: |text| json!({ "input": [text] }),
    vector: "/0",
};

/// One that is there. Dropping it ends all of its processes.
#[derive(Debug)]
pub(crate) struct Python {
    kind: &'static Kind,
    child: Child,
    address: SocketAddr,
    version: String,
}

impl Python {
    /// Starts it and checks that it gives `text` the vector `expected`.
    pub(crate) fn start(
        bench: &Bench,
        kind: &'static Kind,
        model: &Path,
        threads: usize,
        text: &str,
        expected: &[f32],
    ) -> anyhow::Result<Self> {
        let Kind { name, package, .. } = kind;
        let python = bench.root.join(format!("target/bench-peers/{package}/bin/python"));
        ensure!(python.exists(), "{name} is not there: run tests/bench/run.sh");
        let ask = format!(
            "from importlib.metadata import version as v; print('{name}', v('{package}'), 'on onnxruntime', v('onnxruntime'))"
        );
        let version = Command::new(&python).args(["-c", &ask]).output()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(&python)
            .arg(bench.root.join("tests/bench").join(kind.script))
            .arg(model)
            .args([address.port().to_string(), threads.to_string()])
            .env("ORT_DISABLE_TELEMETRY", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let mut peer = Self { kind, child, address, version };
        peer.wait()?;
        peer.check(text, expected)?;
        peer.signal(Signal::STOP)?;
        Ok(peer)
    }

    /// Its turn: it runs until this goes.
    pub(crate) fn turn(&self) -> anyhow::Result<Turn<'_>> {
        self.signal(Signal::CONT)?;
        Ok(Turn(self))
    }

    /// To all of its processes: they are a group.
    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process_group(Pid::from_child(&self.child), signal)
            .with_context(|| format!("signalling {}", self.kind.name))
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            match Wire::connect(self.address, "").and_then(|mut wire| wire.call("GET", self.kind.ready, b"")) {
                Ok(answer) if answer.status == 200 => return Ok(()),
                _ if begun.elapsed() > Duration::from_secs(60) => bail!("{} does not answer", self.kind.name),
                _ => thread::sleep(Duration::from_millis(100)),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended: {status}", self.kind.name);
            }
        }
    }

    fn check(&self, text: &str, expected: &[f32]) -> anyhow::Result<()> {
        let body = (self.kind.request)(text).to_string();
        let answer = Wire::connect(self.address, "")?.call("POST", PATH, body.as_bytes())?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 200, "{} answered {}: {text}", self.kind.name, answer.status);
        let answer: Value = serde_json::from_str(&text)?;
        let vector = answer.pointer(self.kind.vector).context("no vector")?;
        same(&serde_json::from_value::<Vec<f32>>(vector.clone())?, expected)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A request for the vector of `text`.
    pub(crate) fn request(&self, text: &str) -> Request {
        Request::post(PATH, "", &(self.kind.request)(text).to_string())
    }

    /// Its name and version, and the library's.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn batches(&self) -> &'static str {
        self.kind.batches
    }
}

/// See [`Python::turn`].
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Python);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // One that has ended is found out by its next request.
        let _ = self.0.signal(Signal::STOP);
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.signal(Signal::CONT);
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
