//! A request as the engine's thread takes it: checked, with everything that is slow to make already made.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::generation::constraint::Matcher;
use crate::generation::sampling::Sampler;
use crate::generation::stream::Shared;
use crate::generation::text::{TextStream, TokenTable};
use crate::generation::{GenerationAccount, GenerationError};

/// One request with its choices.
pub(crate) struct Job {
    pub(in crate::generation) shared: Arc<Shared>,
    pub(in crate::generation) prompt: Arc<[u32]>,
    pub(in crate::generation) choices: Vec<Choice>,
    /// New tokens of each choice.
    pub(in crate::generation) max_tokens: u32,
    pub(in crate::generation) ignore_eos: bool,
    pub(in crate::generation) table: Arc<TokenTable>,
    pub(in crate::generation) owner: u128,
    pub(in crate::generation) reuse: Option<[u8; 32]>,
    pub(in crate::generation) deadline: Instant,
    pub(in crate::generation) cancel: CancellationToken,
    pub(in crate::generation) account: Arc<dyn GenerationAccount>,
    /// Whether it was taken into the queue.
    pub(in crate::generation) reply: oneshot::Sender<Result<(), Rejected>>,
}

/// What one choice is made with.
pub(in crate::generation) struct Choice {
    pub(in crate::generation) sampler: Sampler,
    pub(in crate::generation) matcher: Option<Matcher>,
    pub(in crate::generation) text: TextStream,
}

/// The thread did not take a job.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// For a reason that the caller may know.
    For(GenerationError),
    /// The engine was closed before it looked at it; there may be another.
    Closed(Box<Job>),
}

impl Job {
    /// Answers the caller.
    pub(super) fn refuse(self, error: GenerationError) {
        // Who left needs no answer.
        drop(self.reply.send(Err(Rejected::For(error))));
    }

    /// Gives it back whole: nothing of it was looked at.
    pub(super) fn give_back(mut self) {
        let (unused, _) = oneshot::channel();
        let reply = std::mem::replace(&mut self.reply, unused);
        drop(reply.send(Err(Rejected::Closed(Box::new(self)))));
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("prompt", &self.prompt.len())
            .field("choices", &self.choices.len())
            .finish_non_exhaustive()
    }
}
