//! What a generation gives, piece by piece.

use serde::{Deserialize, Serialize};

/// A piece of one choice: some text, the tokens it took, or the end.
///
/// `text` is always whole characters and never the beginning of a stop string that may still come, so a chunk can have
/// tokens and no text.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Which choice, counted from 0.
    pub choice: u32,
    /// Text that is ready.
    pub text: String,
    /// Tokens accepted since the choice's last chunk, stop tokens included.
    pub tokens: Vec<ChunkToken>,
    /// Set on the choice's last chunk.
    pub finish: Option<Finish>,
    /// What the whole generation has used when this chunk is given.
    pub usage: GenerationUsage,
}

/// One accepted token.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkToken {
    /// Its id.
    pub id: u32,
    /// Its bytes: not always whole characters. Empty for special tokens.
    pub bytes: Vec<u8>,
    /// Where its text ends: bytes from the beginning of its choice's text, which ends before it if a stop string took
    /// that text away. Half a character counts as one byte: its first.
    pub text_end: usize,
    /// Its natural log probability after penalties and bias, at temperature 1, before any truncation. 0 unless asked
    /// for with [`super::GenerationOptions::logprobs`].
    pub logprob: f32,
    /// The likeliest tokens at its place, the likeliest first; as many as were asked for.
    pub top: Vec<TopToken>,
}

/// One of the likeliest tokens at a place.
#[derive(Debug, Clone, PartialEq)]
pub struct TopToken {
    /// Its id.
    pub id: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// As [`ChunkToken::logprob`].
    pub logprob: f32,
}

/// Why a choice is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it, a stop string came, or a constraint has nothing more to come.
    Stop,
    /// Its token limit or the model's context is reached.
    Length,
    /// It was cancelled by its reader.
    Cancelled,
}

/// Tokens of one generation, all choices together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GenerationUsage {
    /// The prompt, once whatever the number of choices; `cached_tokens` of it came from a reused prefix.
    pub prompt_tokens: u64,
    /// See `prompt_tokens`.
    pub cached_tokens: u64,
    /// Accepted tokens, stop tokens included.
    pub completion_tokens: u64,
}
