//! The server under test: a process in a temporary folder.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::attempt::Meter;
use crate::caller::Target;
use crate::wire;

/// What one row or token costs, in dollars: tenths of a cent, so that cost is their number with the point moved.
const PRICE: &str = "0.001";

/// The server. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Server {
    binary: PathBuf,
    folder: TempDir,
    child: Option<Child>,
    key: String,
    data: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    /// Starts on an empty folder and deploys the guest `meter`, with a price on its model's rows, and `builtin:chat`, with
    /// a price on its model's output tokens.
    pub(crate) fn start(binary: &Path, root: &Path) -> anyhow::Result<Self> {
        let binary = binary.canonicalize().with_context(|| format!("{}: build it first", binary.display()))?;
        let folder = tempfile::tempdir()?;
        let mut child = spawn(&binary, folder.path())?;
        let ready = ready(&mut child)?;
        let key = ready["admin_key"].as_str().context("the admin key")?.to_owned();
        let (data, admin) = (address(&ready["data"])?, address(&ready["admin"])?);
        let server = Self { binary, folder, child: Some(child), key, data, admin };

        server.add_model("rows", &root.join("tests/fixtures/models/rows.onnx"), Meter::Rows)?;
        let wasm = std::fs::read(root.join("tests/fixtures/guests/target/wasm32-wasip2/release/meter.wasm"))?;
        let stored = server.api("PUT", "/projects/default/artifacts", &wasm)?;
        let spec = json!({ "handler": { "digest": stored["digest"] }, "models": { "rows": "rows" } });
        server.api("POST", "/projects/default/deployments/meter", spec.to_string().as_bytes())?;

        server.add_model("tiny", &root.join("examples/models/tiny-chat-genai"), Meter::OutputTokens)?;
        let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" } });
        server.api("POST", "/projects/default/deployments/chat", spec.to_string().as_bytes())?;
        Ok(server)
    }

    fn add_model(&self, name: &str, path: &Path, meter: Meter) -> anyhow::Result<()> {
        let added = Command::new(&self.binary)
            .args(["models", "add", name])
            .arg(path)
            .env("MAYFLY_URL", format!("http://{}", self.admin))
            .env("MAYFLY_KEY", &self.key)
            .output()?;
        ensure!(added.status.success(), "models add: {}", String::from_utf8_lossy(&added.stderr));
        let price = json!({ "model": name, "meter": meter.name(), "amount": PRICE, "per": 1 });
        self.api("POST", "/prices", price.to_string().as_bytes())?;
        Ok(())
    }

    pub(crate) fn target(&self) -> Target {
        Target { address: self.data, key: self.key.clone() }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts on the same folder (killing first, should it run).
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let mut child = spawn(&self.binary, self.folder.path())?;
        let ready = ready(&mut child)?;
        (self.data, self.admin) = (address(&ready["data"])?, address(&ready["admin"])?);
        self.child = Some(child);
        Ok(())
    }

    /// Starts, and kills before it need be ready.
    pub(crate) fn restart_and_kill_after(&mut self, delay: Duration) -> anyhow::Result<()> {
        self.kill()?;
        self.child = Some(spawn(&self.binary, self.folder.path())?);
        std::thread::sleep(delay);
        self.kill()
    }

    /// A control-plane request; its answer must be a success.
    pub(crate) fn api(&self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Value> {
        let bearer = format!("Bearer {}", self.key);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let path = format!("/api/v1{path}");
        let mut answer = wire::send(self.admin, method, &path, &headers, body, &mut false)?;
        let text = answer.whole().context("the answer broke off")?;
        ensure!(answer.status < 300, "{method} {path}: {} {}", answer.status, String::from_utf8_lossy(&text));
        serde_json::from_slice(&text).with_context(|| format!("{method} {path}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn spawn(binary: &Path, folder: &Path) -> anyhow::Result<Child> {
    Command::new(binary)
        .args(["serve", "--json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))
}

fn ready(child: &mut Child) -> anyhow::Result<Value> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("the server printed {line:?} instead of where it listens"))
}

fn address(url: &Value) -> anyhow::Result<SocketAddr> {
    url.as_str().and_then(|url| url.strip_prefix("http://")).and_then(|url| url.parse().ok()).context("an address")
}
