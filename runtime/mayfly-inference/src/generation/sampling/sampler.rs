//! The sampler of one sequence.

use super::Sampling;
use super::choose::{Candidate, Chooser, top};
use super::penalties::Penalties;
use super::random::Random;
use super::scan::{Weighing, forbid, largest, largest_allowed};
use crate::generation::constraint::Mask;

/// Chooses one sequence's tokens. Allocates nothing from step to step, except the list of likeliest tokens if asked for.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    penalties: Penalties,
    chooser: Chooser,
    random: Random,
    logprobs: Option<usize>,
    likeliest: Vec<Candidate>,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sampled {
    /// Its id.
    pub(crate) token: u32,
    /// Its natural log probability after penalties, bias and mask, before temperature and truncation. 0 if not asked
    /// for.
    pub(crate) logprob: f32,
    /// The likeliest tokens at this place, the likeliest first: as many as were asked for, fewer if fewer are allowed.
    pub(crate) top: Vec<(u32, f32)>,
    /// False if no token had a usable logit: the model's run went wrong, and the token means nothing.
    pub(crate) usable: bool,
}

impl Sampler {
    /// The sampler of choice number `choice`. `sampling` has passed [`Sampling::check`]; `logprobs` is how many of the
    /// likeliest tokens to name.
    pub(crate) fn new(sampling: &Sampling, choice: u32, logprobs: Option<u32>, prompt: &[u32]) -> Self {
        Self {
            penalties: Penalties::new(sampling, prompt),
            chooser: Chooser::new(sampling),
            random: Random::new(sampling.seed, choice),
            logprobs: logprobs.map(|count| count as usize),
            likeliest: Vec::new(),
        }
    }

    /// Chooses the next token and counts it as generated. `logits` is the row of one position and is changed; tokens not
    /// in `mask`, and those behind it, are never chosen.
    pub(crate) fn sample(&mut self, logits: &mut [f32], mask: Option<&Mask>) -> Sampled {
        self.penalties.apply(logits);
        let quick = self.chooser.is_greedy() && self.logprobs.is_none();
        let largest = match mask {
            Some(mask) if quick => largest_allowed(logits, mask.words()),
            Some(mask) => {
                forbid(logits, mask.words());
                largest(logits)
            }
            None => largest(logits),
        };
        let Some((first, max)) = largest else {
            return Sampled { token: 0, logprob: 0.0, top: Vec::new(), usable: false };
        };
        let first = u32::try_from(first).expect("a vocabulary has fewer than 2^32 tokens");
        // One infinite logit is all of the distribution.
        let token = if self.chooser.is_greedy() || max.is_infinite() {
            first
        } else {
            self.chooser.draw(logits, max, &mut self.random)
        };
        self.penalties.record(token);
        let (logprob, top) = match self.logprobs {
            Some(count) => self.log_probabilities(logits, max, token, count),
            None => (0.0, Vec::new()),
        };
        Sampled { token, logprob, top, usable: true }
    }

    fn log_probabilities(&mut self, logits: &[f32], max: f32, token: u32, count: usize) -> (f32, Vec<(u32, f32)>) {
        let log_sum = Weighing::plain(max).sum(logits).ln();
        #[expect(clippy::cast_possible_truncation, reason = "log probabilities are given as f32")]
        let of = |logit: f32| match max.is_infinite() {
            true if logit == max => 0.0,
            true => f32::NEG_INFINITY,
            false => (f64::from(logit - max) - log_sum) as f32,
        };
        top(logits, count, &mut self.likeliest);
        let top = self.likeliest.iter().map(|candidate| (candidate.token, of(candidate.logit))).collect();
        (of(logits[token as usize]), top)
    }
}
