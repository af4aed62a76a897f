//! Penalties for tokens that were there before, and the caller's own bias. Touches only the logits it changes.

use super::Sampling;

#[derive(Debug, Clone)]
pub(super) struct Penalties {
    presence: f32,
    frequency: f32,
    repetition: f32,
    bias: Vec<(u32, f32)>,
    /// By token; empty while no penalty is on.
    seen: Vec<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    token: u32,
    /// How often it was generated; 0 if it is only in the prompt.
    generated: f32,
}

impl Penalties {
    pub(super) fn new(sampling: &Sampling, prompt: &[u32]) -> Self {
        let mut seen = Vec::new();
        if sampling.repetition_penalty != 1.0 {
            let mut tokens = prompt.to_vec();
            tokens.sort_unstable();
            tokens.dedup();
            seen = tokens.into_iter().map(|token| Seen { token, generated: 0.0 }).collect();
        }
        Self {
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            repetition: sampling.repetition_penalty,
            bias: sampling.logit_bias.clone(),
            seen,
        }
    }

    pub(super) fn apply(&self, logits: &mut [f32]) {
        for seen in &self.seen {
            let Some(logit) = logits.get_mut(seen.token as usize) else { continue };
            if *logit > 0.0 {
                *logit /= self.repetition;
            } else {
                *logit *= self.repetition;
            }
            if seen.generated > 0.0 {
                *logit -= self.presence + self.frequency * seen.generated;
            }
        }
        for (token, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
    }

    pub(super) fn record(&mut self, token: u32) {
        if self.presence == 0.0 && self.frequency == 0.0 && self.repetition == 1.0 {
            return;
        }
        match self.seen.binary_search_by_key(&token, |seen| seen.token) {
            Ok(place) => self.seen[place].generated += 1.0,
            Err(place) => self.seen.insert(place, Seen { token, generated: 1.0 }),
        }
    }
}
