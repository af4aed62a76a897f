//! A generation as it comes.

use std::fmt;

use super::Error;
use crate::bindings::mayfly::inference::generation as wit;
use crate::bindings::wasi::io::poll;

/// One generation. Dropping it ends the work within a step.
pub struct Stream {
    inner: wit::Stream,
}

/// What was counted so far, for all choices together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, once, however many choices.
    pub prompt_tokens: u64,
    /// How many of them the host had computed before.
    pub cached_tokens: u64,
    /// Tokens accepted, forced ones and end tokens too.
    pub completion_tokens: u64,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end token, a stop text, or the constraint is fulfilled.
    Stop,
    /// `max_tokens` was reached.
    Length,
    /// By [`Stream::cancel`].
    Cancelled,
    /// The deployment's filter cut the text: `[filter]` in its `mayfly.toml`.
    ContentFilter,
}

/// One of the likeliest tokens at a place.
#[derive(Debug, Clone, PartialEq)]
pub struct TopToken {
    /// Its id in the vocabulary.
    pub id: u32,
    /// Its bytes; may be a part of a character.
    pub bytes: Vec<u8>,
    /// Its log probability.
    pub logprob: f32,
}

/// One token of the text.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id in the vocabulary.
    pub id: u32,
    /// Its bytes; may be a part of a character.
    pub bytes: Vec<u8>,
    /// Its log probability after penalties and bias, at temperature 1, before truncation. 0 unless `logprobs` asked.
    pub logprob: f32,
    /// The likeliest tokens at its place, best first.
    pub top: Vec<TopToken>,
}

/// The next piece of one of the choices.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Which choice this goes on, from 0.
    pub choice: u32,
    /// Whole characters, never a part of a stop text. May be empty.
    pub text: String,
    /// The tokens accepted since the last chunk of this choice; where the deployment has a filter, those whose text has
    /// come.
    pub tokens: Vec<Token>,
    /// Set on the last chunk of a choice.
    pub finish: Option<Finish>,
    /// What was counted so far.
    pub usage: Usage,
}

impl Stream {
    pub(crate) fn new(inner: wit::Stream) -> Self {
        Self { inner }
    }

    /// The next piece; waits for it. `None` after the last one. After [`Stream::cancel`] the choices that still ran end
    /// with [`Finish::Cancelled`].
    ///
    /// The host runs a few tokens ahead of this call and then waits for it; a handler that does not read for long is
    /// cut off.
    ///
    /// # Errors
    /// [`Error::Stopped`] once the call is over or if nobody read for too long, [`Error::Failed`] for the host's fault.
    #[expect(clippy::should_implement_trait, reason = "the outer result is the one to stop at, so `?` must reach it")]
    pub fn next(&mut self) -> Result<Option<Chunk>, Error> {
        Ok(self.inner.next()?.map(Chunk::from))
    }

    /// Ends the work within a step.
    pub fn cancel(&self) {
        self.inner.cancel();
    }

    /// What was counted so far.
    pub fn usage(&self) -> Usage {
        self.inner.usage().into()
    }
}

/// Waits until [`Stream::next`] of one or more of `streams` answers at once; gives their places in the list, of which
/// there is none only if there is no stream.
pub fn ready(streams: &[&Stream]) -> Vec<usize> {
    if streams.is_empty() {
        return Vec::new();
    }
    let pollables: Vec<poll::Pollable> = streams.iter().map(|stream| stream.inner.subscribe()).collect();
    let waiting: Vec<&poll::Pollable> = pollables.iter().collect();
    poll::poll(&waiting).into_iter().filter_map(|index| usize::try_from(index).ok()).collect()
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl From<wit::Usage> for Usage {
    fn from(usage: wit::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            completion_tokens: usage.completion_tokens,
        }
    }
}

impl From<wit::Chunk> for Chunk {
    fn from(chunk: wit::Chunk) -> Self {
        Self {
            choice: chunk.choice,
            text: chunk.text,
            tokens: chunk.tokens.into_iter().map(Token::from).collect(),
            finish: chunk.finish.map(|finish| match finish {
                wit::FinishReason::Stop => Finish::Stop,
                wit::FinishReason::Length => Finish::Length,
                wit::FinishReason::Cancelled => Finish::Cancelled,
                wit::FinishReason::ContentFilter => Finish::ContentFilter,
            }),
            usage: chunk.usage.into(),
        }
    }
}

impl From<wit::Token> for Token {
    fn from(token: wit::Token) -> Self {
        let top = |top: wit::TopToken| TopToken { id: top.id, bytes: top.bytes, logprob: top.logprob };
        Self { id: token.id, bytes: token.bytes, logprob: token.logprob, top: token.top.into_iter().map(top).collect() }
    }
}
