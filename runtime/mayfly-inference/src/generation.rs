//! Text from decoder models: continuous batching over one session and one set of KV buffers per model.
//!
//! [`crate::Inference::generate`] starts a generation; [`Generation`] gives its chunks. An engine is one thread
//! (`generation/engine.rs`) that asks the scheduler what to run next, runs it (`generation/runner.rs`) over KV buffers
//! in reserved address space or in a GPU's memory (`generation/kv.rs`), samples each row and hands its tokens to whoever reads. What a token
//! costs is the business of the [`GenerationAccount`] that comes with the request; who may start how much is decided
//! above this crate.

mod chunk;
mod constraint;
mod device;
mod engine;
mod error;
mod kv;
mod option;
mod prepare;
mod request;
mod runner;
mod sampling;
mod stream;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]
mod tests;
mod text;
mod turns;
mod vocabulary;

pub use chunk::{Chunk, ChunkToken, Finish, GenerationUsage, TopToken};
pub use constraint::Constraint;
pub(crate) use engine::{AHEAD_MAX, Engine, EngineLimits, NotTaken, Rejected, check_device, start};
pub use error::GenerationError;
pub use option::OptionError;
pub(crate) use prepare::{check, job};
pub use request::{GenerationAccount, GenerationOptions, GenerationRequest};
pub use sampling::Sampling;
pub use stream::Generation;
pub(crate) use stream::{Maker, Shared};
pub(crate) use turns::Turns;
pub(crate) use vocabulary::Vocabulary;

use std::time::Duration;

use mayfly_types::Digest;

use crate::Device;

/// How busy one engine is, for gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLoad {
    /// The package.
    pub digest: Digest,
    /// Where it runs.
    pub device: Device,
    /// Sequences that hold a slot.
    pub active: u32,
    /// Slots of the engine.
    pub slots: u32,
    /// Sequences that wait for one.
    pub waiting: u32,
    /// Tokens of KV in use, set aside for active sequences or kept for reuse.
    pub kv_tokens: u64,
    /// The most there may be.
    pub kv_tokens_max: u64,
    /// Bytes of attention state and logits.
    pub state_bytes: u64,
    /// Prompt chunks and decode steps since its load.
    pub steps: u64,
    /// Decode steps alone.
    pub decode_steps: u64,
    /// Rows of all decode steps: one token of one sequence each.
    pub decode_rows: u64,
    /// Inside ONNX Runtime since its load.
    pub run: Duration,
    /// Awake since its load; what it is more than `run` is this host's own work.
    pub busy: Duration,
}
