//! What a caller asks for, and why it may be refused.

use std::sync::Arc;

/// Names one sequence; the caller chooses it, unique among the sequences that have not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// Who is served: tokens are shared fairly between owners. A tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u128);

/// Whose prefixes may be reused: KV positions go from one sequence to another only within one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReuseScope(pub [u8; 32]);

/// One sequence to generate.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Its name in every later call.
    pub id: SequenceId,
    /// Who is served.
    pub owner: Owner,
    /// Whose prefixes it may take over, and who may take over its own. `None`: only its own group.
    pub reuse: Option<ReuseScope>,
    /// The prompt's token ids; at least one.
    pub prompt: Arc<[u32]>,
    /// Tokens to generate at most; at least one.
    pub new_tokens_max: u32,
    /// The sequence ends at this time, wherever it is.
    pub deadline_ns: u64,
    /// The choices of one request have the same group, owner and prompt: the prompt is prefilled once.
    pub group: u64,
}

impl Submission {
    /// KV positions that are set aside for it.
    pub(super) fn tokens_max(&self) -> u64 {
        self.prompt.len() as u64 + u64::from(self.new_tokens_max)
    }
}

/// Why a submission was not taken. Nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many wait already; later there may be room.
    #[error("{waiting} sequences wait already, of at most {limit}")]
    QueueFull {
        /// Sequences that wait.
        waiting: u32,
        /// The limit, `waiting_max`.
        limit: u32,
    },
    /// Prompt and new tokens are more than this engine can ever hold.
    #[error("{tokens} tokens of prompt and answer, and at most {limit} can be held")]
    NeverFits {
        /// Prompt and new tokens.
        tokens: u64,
        /// The smaller of `context_max` and `kv_tokens_max`.
        limit: u64,
    },
    /// No prompt, or no token to generate.
    #[error("a sequence needs at least one token of prompt and one to generate")]
    NothingToRun,
    /// A sequence with this id has not ended yet.
    #[error("sequence {} has not ended yet", id.0)]
    Duplicate {
        /// The id.
        id: SequenceId,
    },
}
