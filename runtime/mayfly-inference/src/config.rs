//! Settings of the inference side of a node.

use std::path::PathBuf;
use std::time::Duration;

use mayfly_scheduler::batching::{Settings, Team};
use serde::{Deserialize, Serialize};

use crate::Device;
use crate::residency::models_bytes;
use crate::worker::GenerationBounds;

/// Less holds no model worth the name.
const RESIDENT_BYTES_LEAST: u64 = 1 << 20;

/// Beside the first: each has a thread and working memory of its own.
const SESSIONS_BESIDE_DERIVED_MAX: usize = 8;

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
    /// Rows that runs of different callers may make together in one run of a graph. What one caller gives is never cut.
    pub batch_rows_max: u32,
    /// Rows times positions of such a run, padding included.
    pub batch_positions_max: u64,
    /// How long a run waits for company when its model is free. 0 never waits: what is there runs.
    pub batch_delay_us: u64,
    /// Runs known to take no longer than this are done on the thread that asks. 0 never.
    pub inline_us_max: u64,
    /// Sessions loaded at once, on each device.
    pub sessions_max: u32,
    /// Sessions of one model for runs, on the CPU: beside the first, whose runs use all threads, others that share the
    /// threads out while there is enough to do for all of them. 0 takes one for each core, at most 8, and the first; 1 is
    /// one for all.
    pub sessions_per_model_max: u16,
    /// Bytes of memory for models on the CPU, attention state of generation included; pages of mapped files count only for
    /// the question whether a model fits at all. 0 takes 60 % of the machine's memory or of the process's control group.
    pub resident_bytes_max: u64,
    /// Bytes for models on the GPU. 0 sets no limit.
    pub cuda_bytes_max: u64,
    /// Bytes that models which are kept loaded, for their deployments (`scale.min_warm`) or by the operator's pins, may take
    /// on each device, attention state of generation at its bound included. 0 keeps none.
    pub pinned_bytes_max: u64,
    /// A load that has not begun after this is refused, be it for want of room or behind others.
    pub load_wait_ms_max: u64,
    /// Callers that wait for models to be loaded, on each device; one more is refused.
    pub loads_waiting_max: u32,
    /// The most bytes that the outputs of one run may take, as predicted from its inputs.
    pub output_bytes_max: u64,
    /// Runs work in large pages of memory where the system gives such.
    pub large_pages: bool,
    /// Keep, for each model on the CPU, a copy with its weights packed for this node, where there is a folder for them.
    pub prepack: bool,
    /// Sequences that one decoder generates at once.
    pub generation_slots: u32,
    /// The most bytes of attention state that one decoder may hold, prompts kept for reuse included; never more than half
    /// of the memory for models, from which it is set aside.
    pub generation_kv_bytes_max: u64,
    /// Sequences waiting for one decoder, and constraints waiting to be compiled; one more is refused.
    pub generation_waiting_max: u32,
    /// Prompt tokens in one run. Less are taken while others would wait too long for their next token.
    pub generation_prefill_chunk_max: u32,
    /// A generation that is ahead of its reader and of which nothing is read for this long is ended.
    pub generation_stall_ms: u64,
    /// Constraints (JSON schemas, grammars) compiled at once, at most half of them of one tenant. 0 takes half the cores.
    pub constraint_compiles_max: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ort_dylib: None,
            intra_op_threads: 0,
            session_idle_ms: 300_000,
            session_stay_ms_min: 10_000,
            queue_runs_max: 256,
            batch_rows_max: 64,
            batch_positions_max: 8192,
            batch_delay_us: 0,
            inline_us_max: 100,
            sessions_max: 256,
            sessions_per_model_max: 0,
            resident_bytes_max: 0,
            cuda_bytes_max: 0,
            pinned_bytes_max: 0,
            load_wait_ms_max: 15_000,
            loads_waiting_max: 4096,
            output_bytes_max: 1 << 30,
            large_pages: true,
            prepack: true,
            generation_slots: 16,
            generation_kv_bytes_max: 4 << 30,
            generation_waiting_max: 256,
            generation_prefill_chunk_max: 256,
            generation_stall_ms: 30_000,
            constraint_compiles_max: 0,
        }
    }
}

impl Config {
    /// `intra_op_threads`, resolved. The library would count the cores its own way, and wrong in containers.
    pub(crate) fn threads(&self) -> usize {
        match self.intra_op_threads {
            0 => cores(),
            threads => threads.into(),
        }
    }

    /// Limits of each executor's queue and of what is joined.
    pub(crate) fn batching(&self) -> Settings {
        Settings {
            runs_max: self.queue_runs_max as usize,
            rows_max: self.batch_rows_max,
            positions_max: self.batch_positions_max,
            delay: Duration::from_micros(self.batch_delay_us),
        }
    }

    /// `inline_us_max`, none for 0.
    pub(crate) fn inline(&self) -> Option<Duration> {
        (self.inline_us_max > 0).then(|| Duration::from_micros(self.inline_us_max))
    }

    /// How `sessions_per_model_max` sessions share out the threads of one.
    pub(crate) fn team(&self) -> Team {
        let sessions = match self.sessions_per_model_max {
            0 if cores() == 1 => 1,
            0 => 1 + cores().min(SESSIONS_BESIDE_DERIVED_MAX),
            sessions => sessions.into(),
        };
        Team::new(self.threads(), sessions)
    }

    /// `resident_bytes_max`, resolved.
    pub fn resident_bytes(&self) -> u64 {
        match self.resident_bytes_max {
            0 => models_bytes(),
            bytes => bytes,
        }
    }

    /// `generation_kv_bytes_max` on `device`, resolved: one engine's attention state leaves room for its weights.
    pub(crate) fn generation_kv_bytes(&self, device: Device) -> u64 {
        let models = match device {
            Device::Cpu => self.resident_bytes(),
            Device::Cuda if self.cuda_bytes_max == 0 => u64::MAX,
            Device::Cuda => self.cuda_bytes_max,
        };
        self.generation_kv_bytes_max.min(models / 2)
    }

    /// `constraint_compiles_max`, resolved: at least one.
    pub(crate) fn constraint_compiles(&self) -> usize {
        match self.constraint_compiles_max {
            0 => cores().div_ceil(2),
            compiles => compiles.into(),
        }
    }

    /// What of the limits of generation holds in a process of a tenant's own, too.
    pub(crate) fn generation_bounds(&self) -> GenerationBounds {
        GenerationBounds {
            slots: self.generation_slots,
            kv_bytes_max: self.generation_kv_bytes_max,
            waiting_max: self.generation_waiting_max,
            prefill_chunk_max: self.generation_prefill_chunk_max,
            stall_ms: self.generation_stall_ms,
            constraint_compiles_max: self.constraint_compiles_max,
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
        if self.batch_rows_max == 0 {
            problems.push("inference.batch_rows_max must be at least 1; 1 joins nothing".to_owned());
        }
        if self.batch_positions_max == 0 {
            problems.push("inference.batch_positions_max must be at least 1; 1 joins nothing".to_owned());
        }
        if self.batch_delay_us > 1_000_000 {
            problems.push("inference.batch_delay_us must be at most 1000000 (a second)".to_owned());
        }
        if self.inline_us_max > 10_000 {
            problems.push("inference.inline_us_max must be at most 10000: other calls wait meanwhile".to_owned());
        }
        if self.sessions_max == 0 {
            problems.push("inference.sessions_max must be at least 1".to_owned());
        }
        if self.sessions_per_model_max > 1024 {
            problems.push("inference.sessions_per_model_max must be at most 1024".to_owned());
        }
        if self.intra_op_threads > 1024 {
            problems.push("inference.intra_op_threads must be at most 1024".to_owned());
        }
        if self.resident_bytes_max != 0 && self.resident_bytes_max < RESIDENT_BYTES_LEAST {
            problems.push(format!("inference.resident_bytes_max must be 0 or at least {RESIDENT_BYTES_LEAST}"));
        }
        if self.pinned_bytes_max > self.resident_bytes() {
            problems.push(format!(
                "inference.pinned_bytes_max = {} must be at most what models may take here at all, {} (inference.resident_bytes_max)",
                self.pinned_bytes_max,
                self.resident_bytes()
            ));
        }
        if self.loads_waiting_max == 0 {
            problems.push("inference.loads_waiting_max must be at least 1".to_owned());
        }
        if self.output_bytes_max == 0 {
            problems.push("inference.output_bytes_max must be at least 1".to_owned());
        }
        let within = |least: u64, most: u64, value: u64| (least..=most).contains(&value);
        if !within(1, 256, self.generation_slots.into()) {
            problems.push("inference.generation_slots must be from 1 to 256".to_owned());
        }
        if self.generation_kv_bytes_max < 1 << 20 {
            problems.push("inference.generation_kv_bytes_max must be at least 1048576".to_owned());
        }
        if self.generation_waiting_max == 0 {
            problems.push("inference.generation_waiting_max must be at least 1".to_owned());
        }
        if !within(1, 4096, self.generation_prefill_chunk_max.into()) {
            problems.push("inference.generation_prefill_chunk_max must be from 1 to 4096".to_owned());
        }
        if self.generation_stall_ms == 0 {
            problems.push("inference.generation_stall_ms must be at least 1".to_owned());
        }
        if self.constraint_compiles_max > 1024 {
            problems.push("inference.constraint_compiles_max must be at most 1024".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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
    fn limits_of_memory() {
        let config = Config { resident_bytes_max: 1000, loads_waiting_max: 0, ..Config::default() };
        assert_eq!(config.validate().expect_err("two values are wrong").len(), 2);
        let config = Config { resident_bytes_max: 100 << 20, pinned_bytes_max: 101 << 20, ..Config::default() };
        let problems = config.validate().expect_err("more is to be kept than there may be");
        assert!(problems.len() == 1 && problems[0].starts_with("inference.pinned_bytes_max "), "{problems:?}");
        let config = Config { resident_bytes_max: 100 << 20, ..Config::default() };
        assert_eq!((config.resident_bytes(), config.generation_kv_bytes(Device::Cpu)), (100 << 20, 50 << 20));
        assert_eq!(config.generation_kv_bytes(Device::Cuda), config.generation_kv_bytes_max, "the GPU has no limit");
        let config = Config { cuda_bytes_max: 60 << 20, ..config };
        assert_eq!(config.generation_kv_bytes(Device::Cuda), 30 << 20);
        assert!(Config::default().resident_bytes() > 0);
    }

    #[test]
    fn limits_of_generation_have_ranges() {
        let check = |config: Config, names: &str| {
            let problems = config.validate().expect_err("a value is wrong");
            assert!(problems.len() == 1 && problems[0].starts_with(names), "{problems:?}");
        };
        let base = Config::default;
        check(Config { generation_slots: 0, ..base() }, "inference.generation_slots ");
        check(Config { generation_slots: 257, ..base() }, "inference.generation_slots ");
        check(Config { generation_kv_bytes_max: 1000, ..base() }, "inference.generation_kv_bytes_max ");
        check(Config { generation_waiting_max: 0, ..base() }, "inference.generation_waiting_max ");
        check(Config { generation_prefill_chunk_max: 4097, ..base() }, "inference.generation_prefill_chunk_max ");
        check(Config { generation_stall_ms: 0, ..base() }, "inference.generation_stall_ms ");
        check(Config { constraint_compiles_max: 1025, ..base() }, "inference.constraint_compiles_max ");
    }

    #[test]
    fn no_threads_named_takes_the_cores() {
        assert!(Config::default().threads() >= 1);
        assert_eq!(Config { intra_op_threads: 3, ..Config::default() }.threads(), 3);
        assert!(Config::default().constraint_compiles() >= 1);
        assert_eq!(Config { constraint_compiles_max: 3, ..Config::default() }.constraint_compiles(), 3);
    }
}
