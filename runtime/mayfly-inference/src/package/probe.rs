//! The first load of a package, in a child process: a model that kills the library, eats memory or never ends kills,
//! eats and keeps only that.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::Deserialize;

use super::describe::Description;
use super::import::ImportPolicy;
use super::info::TensorInfo;
use super::open::Package;
use crate::{Config, ElementType, ImportError};

const OUTPUT_BYTES_MAX: u64 = 4 << 20;
const POLL: Duration = Duration::from_millis(10);

/// The whole of the child: `args` are `FOLDER --bytes-max N --seconds-max N`, as [`crate::import`] gives them.
/// Limits this process, then calls [`probe`]. Returns the exit code.
pub fn probe_in_child(args: &[String]) -> i32 {
    let outcome = match args {
        [folder, bytes_flag, bytes, seconds_flag, seconds]
            if bytes_flag == "--bytes-max" && seconds_flag == "--seconds-max" =>
        {
            match (bytes.parse(), seconds.parse()) {
                (Ok(bytes), Ok(seconds)) => {
                    limit(bytes, seconds).and_then(|()| probe(Path::new(folder), &Config::default()))
                }
                _ => Err("the limits of the first load are not numbers".to_owned()),
            }
        }
        _ => Err("expected FOLDER --bytes-max N --seconds-max N".to_owned()),
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "standard error is how a child says why")]
            {
                eprintln!("{error}");
            }
            1
        }
    }
}

/// Memory, CPU time (of all threads together), no core file.
fn limit(bytes_max: u64, seconds_max: u64) -> Result<(), String> {
    for (resource, most) in [(Resource::As, bytes_max), (Resource::Cpu, seconds_max), (Resource::Core, 0)] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| format!("a limit of the first load could not be set: {error}"))?;
    }
    Ok(())
}

/// The child's side of [`crate::import`]: loads the package once, prints what the library says of its inputs and outputs.
/// Sets no limits: [`probe_in_child`] does.
///
/// # Errors
/// The text to print on standard error.
pub fn probe(folder: &Path, config: &Config) -> Result<(), String> {
    let package = Package::open(folder).map_err(|error| error.to_string())?;
    package.check_tokenizer()?;
    let answer = crate::session::probe_load(&package.graph_path(), config)?;
    #[expect(clippy::print_stdout, reason = "standard output is the way back to the import")]
    {
        println!("{answer}");
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Answer {
    inputs: Vec<Outlet>,
    outputs: Vec<Outlet>,
}

#[derive(Debug, Deserialize)]
struct Outlet {
    name: String,
    #[serde(rename = "type")]
    element_type: Option<ElementType>,
}

/// The parent's side: runs `child` on `folder` and compares what it saw with `description`.
pub(super) fn first_load(
    child: &Path,
    folder: &Path,
    description: &Description,
    policy: &ImportPolicy,
) -> Result<(), ImportError> {
    let folder = folder.canonicalize()?;
    // CPU time adds up over threads, so it only backs the wall clock below.
    let seconds =
        policy.probe_timeout.as_secs().saturating_add(1).saturating_mul(thread::available_parallelism()?.get() as u64);
    let mut command = Command::new(child);
    command
        .arg("__probe-model")
        .arg(&folder)
        .args(["--bytes-max", &policy.probe_bytes_max.to_string()])
        .args(["--seconds-max", &seconds.to_string()])
        .env_clear()
        .envs(kept_environment(policy))
        .env("ORT_DISABLE_TELEMETRY", "1")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = Running(command.spawn()?);
    let stdout = drain(running.0.stdout.take());
    let stderr = drain(running.0.stderr.take());
    let status = running.wait(policy.probe_timeout)?;
    // A child that ended has closed its ends; one that was killed took its whole group along.
    drop(running);
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    let Some(status) = status else {
        return Err(ImportError::Probe(format!("it took longer than {} s", policy.probe_timeout.as_secs_f32())));
    };
    if !status.success() {
        use std::os::unix::process::ExitStatusExt as _;
        let reason = match status.signal() {
            Some(signal) => format!("the library died of signal {signal} (out of memory, or the model makes it crash)"),
            None => said(&stderr, &folder),
        };
        return Err(ImportError::Probe(reason));
    }
    let answer: Answer = serde_json::from_slice(&stdout)
        .map_err(|_| ImportError::Probe("the child gave no answer that can be read".to_owned()))?;
    agree("input", &description.info.inputs, &answer.inputs, true)?;
    agree("output", &description.info.outputs, &answer.outputs, false)
}

/// What the library found must be what was checked.
fn agree(what: &str, ours: &[TensorInfo], theirs: &[Outlet], some_may_be_optional: bool) -> Result<(), ImportError> {
    for tensor in ours {
        let seen = theirs.iter().find(|outlet| outlet.name == tensor.name);
        if seen.is_none_or(|outlet| outlet.element_type != Some(tensor.element_type)) {
            return Err(ImportError::Refused(format!(
                "ONNX Runtime does not see the {what} `{}` as the file describes it",
                tensor.name
            )));
        }
    }
    // Inputs with a default value stay out of our list; the library may name them.
    if !some_may_be_optional && theirs.len() != ours.len() {
        return Err(ImportError::Refused(format!(
            "ONNX Runtime sees {} {what}s and the file describes {}",
            theirs.len(),
            ours.len()
        )));
    }
    Ok(())
}

/// Only what finding the library needs.
fn kept_environment(policy: &ImportPolicy) -> Vec<(&'static str, OsString)> {
    let mut kept: Vec<_> = ["MAYFLY_ORT_DYLIB", "MAYFLY_HOME", "XDG_DATA_HOME", "HOME"]
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
        .collect();
    if let Some(dylib) = &policy.ort_dylib {
        kept.retain(|(name, _)| *name != "MAYFLY_ORT_DYLIB");
        kept.push(("MAYFLY_ORT_DYLIB", dylib.clone().into_os_string()));
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

/// A child that does not outlive its import.
struct Running(Child);

impl Running {
    fn wait(&mut self, timeout: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if began.elapsed() >= timeout {
                return Ok(None);
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
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        kept
    })
}
