//! What can go wrong, one enum per operation. No text here contains a path of the host.

use serde::{Deserialize, Serialize};

use crate::{ChatError, TensorError};

/// ONNX Runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No shared library in any of the places looked at.
    #[error(
        "ONNX Runtime's shared library was not found; looked at: {looked}. Run runtime/setup.sh, or set MAYFLY_ORT_DYLIB to it"
    )]
    NotFound {
        /// The places, comma-separated (an operator reads this, not a tenant).
        looked: String,
    },
    /// The library is there and does not fit.
    #[error("ONNX Runtime could not be started: {0}")]
    Unusable(String),
    /// Tenants' own models are to run in processes of their own, and this system cannot lock those in.
    #[error("processes for tenants' own models cannot be locked in: {0}")]
    Sandbox(String),
}

/// A package was refused at import.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Its content is not acceptable; the text names the thing and the rule.
    #[error("{0}")]
    Refused(String),
    /// The first load, in a child process, failed, ran out of time or died.
    #[error("the model's first load failed: {0}")]
    Probe(String),
    /// Our own disk or process trouble.
    #[error("import failed on the host")]
    Io(#[from] std::io::Error),
}

/// A stored package could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file is missing or cannot be read.
    #[error("a stored model package could not be read")]
    Io(#[from] std::io::Error),
    /// The stored description is not one of ours.
    #[error("a stored model package is damaged: {0}")]
    Damaged(String),
}

/// Inputs of a run were refused before anything ran. The guest's fault, except where said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Wrong name, shape, type or value, a duplicate or a missing input.
    #[error("{0}")]
    Invalid(String),
    /// The run would need more than a limit allows.
    #[error("{0}")]
    TooLarge(String),
    /// The tensor cannot be used that way.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Models cannot be kept loaded. The way out is another one for who asked by a deploy than for who pins.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeepError {
    /// The operator set no memory aside for that.
    #[error("this host keeps no models loaded (inference.pinned_bytes_max = 0)")]
    Never,
    /// More would be kept than may be.
    #[error("{}", no_room(*needs, *kept, *limit))]
    NoRoom {
        /// Bytes that nobody keeps yet, as predicted.
        needs: u64,
        /// Bytes that others keep.
        kept: u64,
        /// `pinned_bytes_max`.
        limit: u64,
    },
    /// More sessions would be kept than half of those that there may be.
    #[error("at most {limit} models may be kept loaded, half of inference.sessions_max = {sessions_max}")]
    Sessions {
        /// The most.
        limit: usize,
        /// `sessions_max`.
        sessions_max: u32,
    },
    /// As many keep models as may.
    #[error("{limit} deployments and pins keep models loaded already")]
    TooMany {
        /// The most.
        limit: usize,
    },
    /// One of them cannot be loaded at all.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// A session could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The wanted provider is not in this library or on this machine.
    #[error("device `{device}` is not available: {reason}")]
    NoDevice {
        /// The device that was asked for.
        device: &'static str,
        /// Why it is not there.
        reason: String,
    },
    /// It is more than the host keeps in memory at all. Nothing is loaded or evicted for it.
    #[error(
        "the model needs about {} MiB of memory and this host has {} MiB for models ({setting}): use a smaller or quantized model, or ask the operator for more",
        mib(*needs), mib(*budget)
    )]
    NeverFits {
        /// Predicted bytes, those of mapped files included.
        needs: u64,
        /// The device's budget.
        budget: u64,
        /// The name of the setting that says so.
        setting: &'static str,
    },
    /// It is more than a process of its tenant's own may have. Nothing is loaded or evicted for it.
    #[error(
        "the model needs about {} MiB of memory and a process for a tenant's own models has {} MiB (workers.memory_bytes_max): use a smaller or quantized model, or ask the operator to approve this one or for more",
        mib(*needs), mib(*budget)
    )]
    NeverFitsApart {
        /// Predicted bytes, those of mapped files included.
        needs: u64,
        /// What the process has.
        budget: u64,
    },
    /// What is loaded works, is kept loaded, or stays for a while, and makes no room in time.
    #[error("the host has no room for another model right now")]
    NoRoom,
    /// As many calls wait for loads as may.
    #[error("{limit} calls wait for models to be loaded already (inference.loads_waiting_max)")]
    TooManyWait {
        /// `loads_waiting_max`.
        limit: u32,
    },
    /// ONNX Runtime refused the model; details are in the host's log.
    #[error("the model could not be loaded")]
    Failed {
        /// For the log: what the library said.
        detail: String,
    },
    /// The caller's deadline passed, or it left, while the model was loading.
    #[error("the model was not loaded within the deadline")]
    Deadline,
}

/// Rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// More than all that may be kept never fits, whoever lets go of something.
fn no_room(needs: u64, kept: u64, limit: u64) -> String {
    let (needs_mib, limit_mib) = (mib(needs), mib(limit));
    let may = "may be kept loaded on this host (inference.pinned_bytes_max)";
    match needs > limit {
        true => format!("that takes about {needs_mib} MiB, and no more than {limit_mib} MiB {may}"),
        false => {
            let kept = mib(kept);
            format!("that takes about {needs_mib} MiB more, and of the {limit_mib} MiB that {may} {kept} MiB are taken")
        }
    }
}

/// A run gave no outputs.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunError {
    /// The session could not be had; nothing ran.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The executor's queue is full; nothing ran.
    #[error("the model's queue is full ({limit} runs are waiting)")]
    QueueFull {
        /// `queue_runs_max`.
        limit: u32,
    },
    /// Deadline or cancellation. `started` tells whether the run had begun (and is owed).
    #[error("the run was stopped at its deadline")]
    Stopped {
        /// Whether ONNX Runtime had begun.
        started: bool,
    },
    /// ONNX Runtime said no in the middle: shapes that only the graph knows, mostly. The run is owed.
    #[error("the model could not compute these inputs: {0}")]
    Failed(String),
    /// Outputs are larger than a limit.
    #[error("{0}")]
    TooLarge(String),
    /// The process for its tenant's own models.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// A process of a tenant's own gave no prompt.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PromptError {
    /// As where the prompt is made in this process.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The way there, or the process.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// The process that runs one tenant's own models gave nothing. No other tenant notices.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WorkerError {
    /// It ended before the run did. What had begun is owed.
    #[error(
        "the process for this tenant's own models ended before it had answered; it can be started again in {retry_after_ms} ms"
    )]
    Crashed {
        /// From now.
        retry_after_ms: u64,
    },
    /// It has ended a moment ago, and is not started again yet. Nothing ran.
    #[error("the process for this tenant's own models has just failed; it can be started again in {retry_after_ms} ms")]
    Resting {
        /// From now.
        retry_after_ms: u64,
    },
    /// As many processes as may are at work for other tenants. Nothing ran.
    #[error("{limit} processes for tenants' own models are at work, and no more may be started")]
    NoPlace {
        /// `workers.processes_max`.
        limit: u32,
    },
    /// This host runs no such processes.
    #[error("this host has no processes for tenants' own models")]
    None,
}

impl WorkerError {
    /// When the same run can be tried again, if that is known.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Crashed { retry_after_ms } | Self::Resting { retry_after_ms } => Some(*retry_after_ms),
            Self::NoPlace { .. } | Self::None => None,
        }
    }
}

/// The tokenizer could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerError {
    /// The package carries no tokenizer.
    #[error("this model has no tokenizer")]
    None,
    /// Too much text, too many texts, or an id outside the vocabulary.
    #[error("{0}")]
    Invalid(String),
    /// The tokenizer file is damaged; details are in the host's log.
    #[error("the model's tokenizer could not be loaded")]
    Failed {
        /// For the log.
        detail: String,
    },
}
