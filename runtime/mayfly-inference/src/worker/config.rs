//! Settings of the processes that run tenants' own models.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What happens where this system cannot give the whole sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxPolicy {
    /// The server does not start with workers it cannot lock in.
    #[default]
    Required,
    /// Workers run with what there is; what is missing is said at start.
    BestEffort,
}

/// Settings of tenants' worker processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Processes at once, one for each tenant (and device). While all of them work, one more tenant's call is refused.
    pub processes_max: u32,
    /// A process without work for this long is ended, and all its memory goes back.
    pub idle_ms: u64,
    /// Memory of one process: the weights of its models, attention state, prompts in the making. Half of it may be attention
    /// state.
    pub memory_bytes_max: u64,
    /// Bytes of inputs and outputs on their way between the server and one process, and of tokens that wait for their
    /// readers.
    pub shared_bytes_max: u64,
    /// Threads that work on one run. 0 takes half the cores.
    pub intra_op_threads: u16,
    /// Runs, prompts and generations that one process has at once, those that wait included; one more is refused.
    pub runs_max: u32,
    /// Models loaded at once in one process.
    pub sessions_max: u32,
    /// Time for a process to start.
    pub start_ms_max: u64,
    /// A run that goes on this long past its deadline ends with its process; so does a generation that goes on this long
    /// after it was to end.
    pub stop_ms_max: u64,
    /// After a crash calls are refused for this long; twice as long after each crash that follows.
    pub pause_ms_min: u64,
    /// The longest such pause.
    pub pause_ms_max: u64,
    /// What happens where this system cannot give the whole sandbox.
    pub sandbox: SandboxPolicy,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            processes_max: 16,
            idle_ms: 60_000,
            memory_bytes_max: 4 << 30,
            shared_bytes_max: 256 << 20,
            intra_op_threads: 0,
            runs_max: 64,
            sessions_max: 16,
            start_ms_max: 10_000,
            stop_ms_max: 2_000,
            pause_ms_min: 250,
            pause_ms_max: 30_000,
            sandbox: SandboxPolicy::Required,
        }
    }
}

impl WorkerConfig {
    /// `intra_op_threads`, resolved: the server and other tenants need cores too.
    pub(super) fn threads(&self) -> u16 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match self.intra_op_threads {
            0 => u16::try_from(cores.div_ceil(2)).unwrap_or(u16::MAX),
            threads => threads,
        }
    }

    /// All problems at once, each as a sentence that names the key.
    ///
    /// # Errors
    /// One text for each problem.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let mut within = |name: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                problems.push(format!("workers.{name} must be from {least} to {most}"));
            }
        };
        within("processes_max", self.processes_max.into(), 1, 4096);
        within("idle_ms", self.idle_ms, 1, 1 << 40);
        within("memory_bytes_max", self.memory_bytes_max, 64 << 20, 1 << 46);
        within("shared_bytes_max", self.shared_bytes_max, 1 << 20, 1 << 40);
        within("intra_op_threads", self.intra_op_threads.into(), 0, 1024);
        within("runs_max", self.runs_max.into(), 1, 1024);
        within("sessions_max", self.sessions_max.into(), 1, 1024);
        within("start_ms_max", self.start_ms_max, 100, 600_000);
        within("stop_ms_max", self.stop_ms_max, 10, 600_000);
        within("pause_ms_min", self.pause_ms_min, 1, 600_000);
        within("pause_ms_max", self.pause_ms_max, self.pause_ms_min, 3_600_000);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// What [`crate::Inference`] needs to start workers.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The limits.
    pub config: WorkerConfig,
    /// What is started as a worker.
    pub child: WorkerChild,
    /// Where each worker's view of its packages is kept: on the file system of the packages, on this node, only for this.
    pub folder: PathBuf,
}

/// What is started as a worker.
#[derive(Debug, Clone)]
pub enum WorkerChild {
    /// The binary that is its own worker (`__worker`).
    Program(PathBuf),
    /// No process, and no sandbox: for those who try what the server believes and have no time for a process each time.
    #[doc(hidden)]
    False(FalseWorker),
}

impl From<PathBuf> for WorkerChild {
    fn from(program: PathBuf) -> Self {
        Self::Program(program)
    }
}

/// Speaks for a worker on a thread of the server's own process.
#[doc(hidden)]
#[derive(Clone)]
pub struct FalseWorker(Arc<dyn Fn(OwnedFd) + Send + Sync>);

impl FalseWorker {
    /// `speak` is given a worker's end of the socket. It has to return once the other end is gone.
    pub fn new(speak: impl Fn(OwnedFd) + Send + Sync + 'static) -> Self {
        Self(Arc::new(speak))
    }

    pub(super) fn speak(&self, socket: OwnedFd) {
        (self.0)(socket);
    }
}

impl fmt::Debug for FalseWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FalseWorker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_problems_come_together() {
        assert_eq!(WorkerConfig::default().validate(), Ok(()));
        let bad = WorkerConfig { processes_max: 0, runs_max: 5000, pause_ms_max: 1, ..WorkerConfig::default() };
        let problems = bad.validate().expect_err("three keys are out of range");
        assert!(problems.len() == 3 && problems[0].starts_with("workers.processes_max "), "{problems:?}");
    }

    #[test]
    fn some_thread_works() {
        assert!(WorkerConfig::default().threads() >= 1);
        assert_eq!(WorkerConfig { intra_op_threads: 3, ..WorkerConfig::default() }.threads(), 3);
    }
}
