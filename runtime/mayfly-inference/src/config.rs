//! Settings of the inference side of a node.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of [`crate::Inference`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// ONNX Runtime's shared library. None searches the places that `mayfly doctor` lists.
    pub ort_dylib: Option<PathBuf>,
    /// Threads that work on one run, on each executor. 0 takes the number of cores.
    pub intra_op_threads: u16,
    /// An idle session is dropped after this.
    pub session_idle_ms: u64,
    /// A session is kept at least this long after its load.
    pub session_stay_ms_min: u64,
    /// Runs waiting for one executor; one more is refused.
    pub queue_runs_max: u32,
    /// Sessions loaded at once.
    pub sessions_max: u32,
    /// The most bytes that the outputs of one run may take, as predicted from its inputs.
    pub output_bytes_max: u64,
    /// Keep, for each model on the CPU, a copy with its weights packed for this node, where there is a folder for them.
    pub prepack: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ort_dylib: None,
            intra_op_threads: 0,
            session_idle_ms: 300_000,
            session_stay_ms_min: 10_000,
            queue_runs_max: 256,
            sessions_max: 256,
            output_bytes_max: 1 << 30,
            prepack: true,
        }
    }
}

impl Config {
    /// `intra_op_threads`, resolved. The library would count the cores its own way, and wrong in containers.
    pub(crate) fn threads(&self) -> usize {
        match self.intra_op_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads.into(),
        }
    }

    /// All problems at once, each as a sentence that names the key.
    ///
    /// # Errors
    /// One text for each problem.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        if self.queue_runs_max == 0 {
            problems.push("inference.queue_runs_max must be at least 1".to_owned());
        }
        if self.sessions_max == 0 {
            problems.push("inference.sessions_max must be at least 1".to_owned());
        }
        if self.intra_op_threads > 1024 {
            problems.push("inference.intra_op_threads must be at most 1024".to_owned());
        }
        if self.output_bytes_max == 0 {
            problems.push("inference.output_bytes_max must be at least 1".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_at_once() {
        assert_eq!(Config::default().validate(), Ok(()));
        let config = Config { queue_runs_max: 0, sessions_max: 0, intra_op_threads: 2000, ..Config::default() };
        assert_eq!(config.validate().expect_err("three values are wrong").len(), 3);
    }

    #[test]
    fn no_threads_named_takes_the_cores() {
        assert!(Config::default().threads() >= 1);
        assert_eq!(Config { intra_op_threads: 3, ..Config::default() }.threads(), 3);
    }
}
