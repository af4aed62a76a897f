//! The parent's side of loading a package in a child process: limits, pipes, an end in any case.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::copies::Draft;

const OUTPUT_BYTES_MAX: u64 = 4 << 20;
const POLL: Duration = Duration::from_millis(10);

/// What a child may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChildLimits<'a> {
    pub(crate) timeout: Duration,
    pub(crate) bytes_max: u64,
    /// ONNX Runtime's library for the child.
    pub(crate) ort_dylib: Option<&'a Path>,
}

/// What a child is to do.
pub(crate) struct ChildWork<'a> {
    /// The package.
    pub(crate) folder: &'a Path,
    pub(crate) limits: ChildLimits<'a>,
    /// The copy to make after the load.
    pub(crate) copy: Option<&'a Draft>,
    /// Asked again and again; false ends the child.
    pub(crate) wanted: &'a dyn Fn() -> bool,
}

/// What a child said, and why it failed if it did.
pub(crate) struct Heard {
    pub(crate) stdout: Vec<u8>,
    pub(crate) ended: Result<(), String>,
    /// It was ended because its time was over.
    pub(crate) too_long: bool,
}

/// Runs `child` with `__probe-model`: it loads the package, says what it saw, and then makes the copy if one is wanted.
pub(crate) fn first_load(child: &Path, work: &ChildWork<'_>) -> io::Result<Heard> {
    let ChildWork { folder, limits, copy, wanted } = *work;
    let folder = folder.canonicalize()?;
    // CPU time adds up over threads, so it only backs the wall clock below.
    let seconds =
        limits.timeout.as_secs().saturating_add(1).saturating_mul(thread::available_parallelism()?.get() as u64);
    let mut command = Command::new(child);
    command
        .arg("__probe-model")
        .arg(&folder)
        .args(["--bytes-max", &limits.bytes_max.to_string()])
        .args(["--seconds-max", &seconds.to_string()]);
    if let Some(draft) = copy {
        command.arg("--copy-to").arg(draft.folder());
        command.args(["--copy-file-bytes-max", &draft.file_bytes_max().to_string()]);
    }
    command
        .env_clear()
        .envs(kept_environment(limits.ort_dylib))
        .env("ORT_DISABLE_TELEMETRY", "1")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = Running(command.spawn()?);
    let stdout = drain(running.0.stdout.take());
    let stderr = drain(running.0.stderr.take());
    let end = running.wait(limits.timeout, wanted)?;
    // A child that ended has closed its ends; one that was killed took its whole group along.
    drop(running);
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    let too_long = matches!(end, End::TooLong);
    let ended = match end {
        End::TooLong => Err(format!("it took longer than {} s", limits.timeout.as_secs_f32())),
        End::Unwanted => Err("nobody wants it any more".to_owned()),
        End::Exit(status) if status.success() => Ok(()),
        End::Exit(status) => Err(match status.signal() {
            Some(signal) => format!("the library died of signal {signal} (out of memory, or the model makes it crash)"),
            None => said(&stderr, &folder),
        }),
    };
    Ok(Heard { stdout, ended, too_long })
}

/// Only what finding the library needs.
fn kept_environment(ort_dylib: Option<&Path>) -> Vec<(&'static str, OsString)> {
    let mut kept: Vec<_> = ["MAYFLY_ORT_DYLIB", "MAYFLY_HOME", "XDG_DATA_HOME", "HOME"]
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
        .collect();
    if let Some(dylib) = ort_dylib {
        kept.retain(|(name, _)| *name != "MAYFLY_ORT_DYLIB");
        kept.push(("MAYFLY_ORT_DYLIB", dylib.to_owned().into_os_string()));
    }
    kept
}

/// The last line on standard error, without this host's paths.
fn said(stderr: &[u8], folder: &Path) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason was given");
    let line = line.replace(&*folder.to_string_lossy(), "the package");
    line.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// A child that does not outlive what it is for.
struct Running(Child);

enum End {
    Exit(ExitStatus),
    TooLong,
    Unwanted,
}

impl Running {
    fn wait(&mut self, timeout: Duration, wanted: &dyn Fn() -> bool) -> io::Result<End> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(End::Exit(status));
            }
            if began.elapsed() >= timeout {
                return Ok(End::TooLong);
            }
            if !wanted() {
                return Ok(End::Unwanted);
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None))
            && let Some(pid) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            // Not yet waited for, so the id is still its own; it leads its group.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

/// Reads on another thread, so that neither pipe fills up; what is past the bound is read and dropped.
fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut kept);
            let _ = io::copy(&mut pipe, &mut io::sink());
        }
        kept
    })
}
