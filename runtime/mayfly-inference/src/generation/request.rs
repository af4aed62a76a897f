//! What a generation is asked for.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::option::{check_logprobs, check_stops};
use super::{Constraint, OptionError, Sampling};

/// One request: a prompt and one or more choices of what follows.
#[derive(Debug, Clone)]
pub struct GenerationRequest {
    /// Token ids, at least one, each below the vocabulary.
    pub prompt: Vec<u32>,
    /// How to continue it.
    pub options: GenerationOptions,
    /// Independent continuations, at least one. They share the prompt's attention state.
    pub choices: u32,
    /// Whose it is, for fairness between owners.
    pub owner: u128,
    /// Whose earlier prompts may lend it their attention state; none reuses nothing and leaves nothing.
    pub reuse: Option<[u8; 32]>,
    /// It is stopped then.
    pub deadline: Instant,
    /// It is stopped when this is cancelled.
    pub cancel: CancellationToken,
    /// Who is told what was used.
    pub account: Arc<dyn GenerationAccount>,
}

/// How to continue a prompt.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// New tokens for each choice, at least one. Prompt and new tokens must fit into the model's context.
    pub max_tokens: u32,
    /// Texts that end a choice; they are not given out. None of them is empty.
    pub stop: Vec<String>,
    /// Go on after the model's own end tokens.
    pub ignore_eos: bool,
    /// Give log probabilities, with that many of the likeliest tokens at each place.
    pub logprobs: Option<u32>,
    /// What the text must look like.
    pub constraint: Option<Constraint>,
}

impl GenerationOptions {
    /// Checks all that can be checked without the prompt and without building the constraint. `vocab` is the number of
    /// tokens the model knows.
    ///
    /// # Errors
    /// [`OptionError::Range`], which names the option.
    pub fn check(&self, vocab: u32) -> Result<(), OptionError> {
        self.sampling.check(vocab)?;
        check_stops(&self.stop)?;
        check_logprobs(self.logprobs)
    }
}

/// Told what a generation uses, while it runs. Called on the engine's thread: must not block.
pub trait GenerationAccount: Send + Sync + Debug {
    /// The prompt is about to run: `fresh` tokens of it are computed, `cached` come from a reused prefix. Called once
    /// for a generation, whatever its choices, or never if it ended before.
    fn input(&self, fresh: u32, cached: u32);

    /// That many more tokens were accepted.
    fn output(&self, tokens: u32);

    /// The model ran for that long on behalf of this generation: its share of a step that several ran in.
    fn ran(&self, time: Duration);
}
