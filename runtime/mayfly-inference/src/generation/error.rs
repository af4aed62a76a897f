//! Why a generation did not start, or ended early.

use super::OptionError;
use crate::{LoadError, WorkerError};

/// A generation could not start, or failed. Nothing more is owed than what its account was told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GenerationError {
    /// A sampling option or constraint is not possible. The caller's fault.
    #[error(transparent)]
    Option(OptionError),
    /// Prompt and new tokens do not fit into the model's context; nothing ran.
    #[error(
        "the prompt has {prompt} tokens and up to {max_tokens} new ones were asked for; the model's context is {context} tokens"
    )]
    ContextOverflow {
        /// Tokens of the prompt.
        prompt: u32,
        /// New tokens asked for.
        max_tokens: u32,
        /// The model's context.
        context: u32,
    },
    /// The package is no decoder that can generate here.
    #[error("this model cannot generate text")]
    NotADecoder,
    /// As many sequences wait for this model as may; nothing ran.
    #[error("the model's queue is full ({waiting} sequences are waiting, at most {limit} may)")]
    Busy {
        /// Waiting now.
        waiting: u32,
        /// `generation_waiting_max`.
        limit: u32,
    },
    /// As many constraints wait to be compiled as may; nothing ran.
    #[error("{limit} constraints wait to be compiled, and no more may")]
    BusyCompiling {
        /// `generation_waiting_max`.
        limit: u32,
    },
    /// Prompt and new tokens of all choices are more than this node ever keeps for one model; nothing ran.
    #[error("the request needs room for {tokens} tokens of attention state; this host has room for {limit}")]
    NeverFits {
        /// Tokens needed.
        tokens: u64,
        /// Tokens there can be.
        limit: u64,
    },
    /// The model could not be had; nothing ran.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The process for its tenant's own models.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Its deadline passed or its call was cancelled.
    #[error("the generation was stopped at its deadline")]
    Stopped,
    /// Nobody read it for too long.
    #[error("the generation was ended because nobody read it")]
    Stalled,
    /// Ours: ONNX Runtime or this host failed.
    #[error("the generation failed: {0}")]
    Failed(String),
}

impl From<OptionError> for GenerationError {
    fn from(error: OptionError) -> Self {
        Self::Option(error)
    }
}
