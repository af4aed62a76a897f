//! Model packages, sessions, tensors and tokenizers. The only crate that names `ort`; no `ort` type leaves it.
//!
//! Entry points: [`Inference::start`] opens ONNX Runtime; [`import`] checks and stores a package;
//! [`Package::open`] reads a stored one; [`Package::prepare`] checks inputs and counts them;
//! [`Inference::run`] runs what was prepared, [`Inference::generate`] goes on with a prompt, and [`Inference::run_apart`] and
//! its like do so in a process of a tenant's own. Nobody below this crate is asked for a budget: callers hold
//! [`Prepared::hold_lines`] before they run.

mod chat;
mod config;
mod copies;
mod device;
mod error;
mod generation;
mod library;
mod metering;
mod package;
mod prepare;
mod residency;
mod runtime;
mod session;
mod tensor;
mod tokenizer;
mod worker;

pub use chat::{Chat, ChatError, Prompt};
pub use config::Config;
pub use copies::{Copies, CopySettings};
pub use device::Device;
pub use error::{
    ImportError, InputError, KeepError, LoadError, PackageError, PromptError, RunError, StartError, TokenizerError,
    WorkerError,
};
pub use generation::{
    Chunk, ChunkToken, Constraint, EngineLoad, Finish, Generation, GenerationAccount, GenerationError,
    GenerationOptions, GenerationRequest, GenerationUsage, OptionError, Sampling, TopToken,
};
pub use library::{LargePages, ORT_VERSION, library_places, prepare_process, settle_pages};
pub use mayfly_scheduler::residency::Fit;
pub use package::{
    Batching, DecoderInfo, DecoderInputs, DecoderLayout, DimensionInfo, GenerationDefaults, ImportPolicy, Imported,
    ModelInfo, Package, Role, RunBatching, TensorInfo, import, probe, probe_in_child,
};
pub use prepare::{Output, Prepared, RunLimits, Seen};
pub use residency::{DeviceResidency, Keep, ModelMemory, Needs, Reservation, Residency, Resident, Uses};
pub use runtime::{Caller, Inference, RunStats, RuntimeInfo};
pub use tensor::{ElementType, Tensor, TensorError};
pub use tokenizer::{EncodeOptions, Encoding};
#[doc(hidden)]
pub use worker::FalseWorker;
pub use worker::{
    SandboxPolicy, WorkerChild, WorkerConfig, WorkerLoad, WorkerSettings, WorkerState, WorkersState,
    missing_from_sandbox, run_worker,
};
