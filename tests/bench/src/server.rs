//! The binary as a process in a temporary folder.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Bench;
use crate::wire::Wire;

/// A running server. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Server {
    binary: PathBuf,
    folder: TempDir,
    settings: Vec<(String, String)>,
    child: Child,
    key: String,
    data: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    pub(crate) fn start(bench: &Bench, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let binary = bench.binary();
        let folder = tempfile::tempdir()?;
        let settings: Vec<_> = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let (child, ready) = spawn(&binary, folder.path(), &settings)?;
        let key = ready["admin_key"].as_str().context("the admin key")?.to_owned();
        let (data, admin) = (address(&ready["data"])?, address(&ready["admin"])?);
        Ok(Self { binary, folder, settings, child, key, data, admin })
    }

    /// Stops it and starts it again on the same data.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let (child, ready) = spawn(&self.binary, self.folder.path(), &self.settings)?;
        self.child = child;
        (self.data, self.admin) = (address(&ready["data"])?, address(&ready["admin"])?);
        Ok(())
    }

    pub(crate) fn connect(&self) -> anyhow::Result<Wire> {
        Wire::connect(self.data, &self.key)
    }

    /// Where calls go.
    pub(crate) fn data(&self) -> SocketAddr {
        self.data
    }

    /// The administrator's key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn connect_admin(&self) -> anyhow::Result<Wire> {
        Wire::connect(self.admin, &self.key)
    }

    pub(crate) fn add_model(&self, name: &str, package: &Path) -> anyhow::Result<()> {
        let output = Command::new(&self.binary)
            .args(["models", "add", name])
            .arg(package)
            .env("MAYFLY_URL", format!("http://{}", self.admin))
            .env("MAYFLY_KEY", &self.key)
            .output()?;
        ensure!(output.status.success(), "models add: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub(crate) fn deploy_builtin(&self, builtin: &str, name: &str, models: &[(&str, &str)]) -> anyhow::Result<()> {
        let models: serde_json::Map<_, _> =
            models.iter().map(|&(alias, model)| (alias.to_owned(), json!(model))).collect();
        deploy(&mut self.connect_admin()?, name, &json!({ "handler": { "builtin": builtin }, "models": models }))
    }

    /// The server's files.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The process's number.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Memory that is this process's alone or its share of what it shares, and its page tables, bytes.
    pub(crate) fn memory_bytes(&self) -> anyhow::Result<u64> {
        let kib = |file: &str, name: &str| -> anyhow::Result<u64> {
            let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?;
            let line = text.lines().find(|line| line.starts_with(name)).context(name.to_owned())?;
            Ok(line.split_whitespace().nth(1).context(name.to_owned())?.parse()?)
        };
        Ok((kib("smaps_rollup", "Pss:")? + kib("status", "VmPTE:")?) * 1024)
    }

    /// Resident memory, bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
        Ok(kib * 1024)
    }
}

/// Stores a component; gives its digest.
pub(crate) fn upload(admin: &mut Wire, wasm: &[u8]) -> anyhow::Result<String> {
    upload_to(admin, "default", wasm)
}

pub(crate) fn upload_to(admin: &mut Wire, project: &str, wasm: &[u8]) -> anyhow::Result<String> {
    let answer = admin.call("PUT", &format!("/api/v1/projects/{project}/artifacts"), wasm)?;
    ensure!(answer.status < 300, "upload: {}", String::from_utf8_lossy(&answer.body));
    let body: Value = serde_json::from_slice(&answer.body)?;
    body["digest"].as_str().map(str::to_owned).context("the digest")
}

pub(crate) fn deploy(admin: &mut Wire, name: &str, spec: &Value) -> anyhow::Result<()> {
    deploy_to(admin, "default", name, spec)
}

pub(crate) fn deploy_to(admin: &mut Wire, project: &str, name: &str, spec: &Value) -> anyhow::Result<()> {
    post(admin, &format!("/api/v1/projects/{project}/deployments/{name}"), spec)
}

pub(crate) fn post(admin: &mut Wire, path: &str, body: &Value) -> anyhow::Result<()> {
    let answer = admin.call("POST", path, body.to_string().as_bytes())?;
    ensure!(answer.status < 300, "POST {path}: {}", String::from_utf8_lossy(&answer.body));
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(binary: &Path, folder: &Path, settings: &[(String, String)]) -> anyhow::Result<(Child, Value)> {
    let mut child = Command::new(binary)
        .args(["serve", "--json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.join("data"))
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    let ready = serde_json::from_str(&line).with_context(|| format!("the server printed {line:?}"))?;
    Ok((child, ready))
}

fn address(url: &Value) -> anyhow::Result<SocketAddr> {
    url.as_str().and_then(|url| url.strip_prefix("http://")).and_then(|url| url.parse().ok()).context("an address")
}

/// The shared library the set-up script installed, or the one that `MAYFLY_ORT_DYLIB` names.
pub(crate) fn onnxruntime() -> anyhow::Result<PathBuf> {
    const VERSION: &str = "1.31.1";
    if let Some(library) = std::env::var_os("MAYFLY_ORT_DYLIB") {
        return Ok(library.into());
    }
    let data = std::env::var_os("MAYFLY_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("XDG_DATA_HOME").map(|data| PathBuf::from(data).join("mayfly")))
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share/mayfly")))
        .context("HOME")?;
    let library = data.join(format!("ort/{VERSION}/libonnxruntime.so.{VERSION}"));
    ensure!(library.exists(), "{} is not there: run runtime/setup.sh", library.display());
    Ok(library)
}
