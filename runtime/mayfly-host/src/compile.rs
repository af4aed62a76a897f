//! From bytes to stored code, in a child process with limits. This is the server's side; [`child`] is the other one.
//!
//! The server never parses what was uploaded: it hands over a path, waits, and reads one line of JSON.

mod child;

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mayfly_types::Digest;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

pub use self::child::compile_in_child;
use crate::CompileError;
use crate::engine::Inner;

/// Bytes of the child's answer and of its complaints.
const REPLY_BYTES_MAX: u64 = 1 << 20;
/// Wall-clock time beyond the CPU limit, for a busy machine.
const PATIENCE: u32 = 4;

/// What an upload is, as far as the host cares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentInfo {
    /// Interfaces it imports, with versions, sorted.
    pub imports: Vec<String>,
    /// Interfaces it exports, with versions, sorted.
    pub exports: Vec<String>,
    /// Bytes of the component.
    pub bytes: u64,
    /// Bytes of the compiled code.
    pub code_bytes: u64,
}

/// The child's one line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    /// Compiled (or, when only asked to look, looked at).
    Done(ComponentInfo),
    /// The bytes are at fault.
    Refused(String),
    /// We are.
    Failed(String),
}

/// See [`crate::Host::compile`].
pub(crate) async fn compile(inner: &Arc<Inner>, wasm: &Path, digest: Digest) -> Result<ComponentInfo, CompileError> {
    let stored = Arc::clone(&inner.stored);
    let trouble = |what: &str, error: &dyn std::fmt::Display| CompileError::Host { detail: format!("{what}: {error}") };
    // The child works in another directory.
    let wasm = &std::path::absolute(wasm).map_err(|error| trouble("finding the component", &error))?;
    let verified = Arc::clone(&stored);
    let present = tokio::task::spawn_blocking(move || verified.verified(digest))
        .await
        .map_err(|error| trouble("reading compiled code", &error))?;
    if let Ok(path) = present {
        let mut info = ask_child(inner, wasm, None).await?;
        let metadata = tokio::fs::metadata(&path).await.map_err(|error| trouble("reading compiled code", &error))?;
        info.code_bytes = metadata.len();
        return Ok(info);
    }
    let scratch = stored.scratch().map_err(|error| trouble("making a scratch file", &error))?;
    let mut info = ask_child(inner, wasm, Some(scratch.path())).await?;
    // It may want more than this pool's slots give; better told now than at the first call.
    inner.mapped.try_out(scratch.path().to_owned()).await.map_err(|error| {
        CompileError::Refused(format!("the component does not fit this host: {}", error.root_cause()))
    })?;
    info.code_bytes = tokio::task::spawn_blocking(move || stored.keep(digest, scratch))
        .await
        .map_err(|error| trouble("storing compiled code", &error))?
        .map_err(|error| trouble("storing compiled code", &error))?;
    Ok(info)
}

/// Starts the child and waits for its answer, not longer than the limits allow. Without `out` it only looks.
async fn ask_child(inner: &Inner, wasm: &Path, out: Option<&Path>) -> Result<ComponentInfo, CompileError> {
    let config = &inner.config;
    let mut command = Command::new(&inner.child);
    command.arg("__compile").arg("--in").arg(wasm);
    if let Some(out) = out {
        command.arg("--out").arg(out);
    }
    command
        .args(["--engine", inner.stored.engine()])
        .args(["--component-bytes-max", &config.component_bytes_max.to_string()])
        .args(["--bytes-max", &config.compile_bytes_max.to_string()])
        .args(["--seconds-max", &config.compile_seconds_max.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let host = |detail: String| {
        tracing::error!(detail, "a component could not be compiled");
        CompileError::Host { detail }
    };
    let mut child = command.spawn().map_err(|error| host(format!("starting the compiling child: {error}")))?;
    let time = Duration::from_secs(config.compile_seconds_max).saturating_mul(PATIENCE);
    let Ok((answer, complaints, status)) = tokio::time::timeout(time, finish(&mut child)).await else {
        return Err(CompileError::TooCostly { limit: format!("{} s", time.as_secs()) });
    };
    let status = status.map_err(|error| host(format!("waiting for the compiling child: {error}")))?;
    match serde_json::from_slice(&answer) {
        Ok(Reply::Done(info)) => Ok(info),
        Ok(Reply::Refused(text)) => Err(CompileError::Refused(text)),
        Ok(Reply::Failed(detail)) => Err(host(detail)),
        Err(_) => Err(too_costly(status, &complaints, config)
            .unwrap_or_else(|| host(format!("the compiling child ended with {status}: {}", complaints.trim_end())))),
    }
}

async fn finish(child: &mut Child) -> (Vec<u8>, String, std::io::Result<ExitStatus>) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (answer, complaints) = tokio::join!(read(stdout), read(stderr));
    let status = child.wait().await;
    (answer, String::from_utf8_lossy(&complaints).into_owned(), status)
}

/// Everything up to the bound; the rest is read and dropped, so that the writer does not hang.
async fn read(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return kept };
    // A broken pipe is the end of what there is; the exit status says the rest.
    let _short = (&mut from).take(REPLY_BYTES_MAX).read_to_end(&mut kept).await;
    let _rest = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    kept
}

/// The limit that a child without an answer ran into, if it did.
fn too_costly(status: ExitStatus, complaints: &str, config: &crate::Config) -> Option<CompileError> {
    use std::os::unix::process::ExitStatusExt;
    let memory = || CompileError::TooCostly { limit: format!("{} MiB of memory", config.compile_bytes_max >> 20) };
    match status.signal()? {
        libc::SIGXCPU => {
            Some(CompileError::TooCostly { limit: format!("{} s of CPU time", config.compile_seconds_max) })
        }
        // The kernel's own way out of memory.
        libc::SIGKILL => Some(memory()),
        libc::SIGABRT if complaints.contains("memory allocation of") => Some(memory()),
        _ => None,
    }
}
