//! How the next token is chosen from a row of logits.
//!
//! [`Sampling`] is what a caller asks for; [`Sampler`] does it, for one sequence. The order is the field's usual one:
//! repetition penalty, presence and frequency penalty, `logit_bias`, the constraint's mask, temperature, `top_k`,
//! `top_p` (of what `top_k` left), `min_p`, draw. Log probabilities are those of the distribution before temperature,
//! that is after penalties, bias and mask and before any truncation. Whether a token ends the sequence is the
//! engine's business.

mod choose;
mod penalties;
mod random;
mod sampler;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use sampler::{Sampled, Sampler};

use serde::{Deserialize, Serialize};

use super::OptionError;

/// Tokens with a bias of their own in one request.
const BIASES_MAX: usize = 1024;

/// How tokens are chosen. The default is plain sampling: temperature 1, everything else off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 to 2. 0 takes the likeliest token, the lowest id of several; the rest of the truncation is then off.
    pub temperature: f32,
    /// 0 to 1: the likeliest tokens that together reach this probability; at least one. 1 is off.
    pub top_p: f32,
    /// The likeliest tokens by number. 0 is off.
    pub top_k: u32,
    /// 0 to 1: tokens at least this likely relative to the likeliest. 0 is off.
    pub min_p: f32,
    /// Same seed, same tokens, whatever else runs. None takes a new one.
    pub seed: Option<u64>,
    /// -2 to 2: taken once from each token that was generated before. 0 is off.
    pub presence_penalty: f32,
    /// -2 to 2: taken for each time a token was generated before. 0 is off.
    pub frequency_penalty: f32,
    /// Above 0, to 10: divides positive and multiplies negative logits of tokens in the prompt or generated before. 1 is
    /// off.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens, each from -100 to 100. Several for one token add up.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
        }
    }
}

impl Sampling {
    /// Checks every parameter against its range. `vocab` is the number of tokens the model knows.
    ///
    /// # Errors
    /// [`OptionError::Range`], which names the parameter. NaN is in no range.
    pub fn check(&self, vocab: u32) -> Result<(), OptionError> {
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty <= 10.0) {
            return Err(OptionError::range("repetition_penalty", self.repetition_penalty, "above 0 and at most 10"));
        }
        if self.logit_bias.len() > BIASES_MAX {
            let given = format!("a map of {} tokens", self.logit_bias.len());
            return Err(OptionError::range("logit_bias", given, format!("at most {BIASES_MAX} tokens")));
        }
        for (token, bias) in &self.logit_bias {
            if *token >= vocab {
                let given = format!("for the token {token}");
                return Err(OptionError::range("logit_bias", given, format!("for tokens below {vocab}")));
            }
            within("logit_bias", *bias, -100.0, 100.0)?;
        }
        Ok(())
    }
}

fn within(parameter: &'static str, value: f32, least: f32, most: f32) -> Result<(), OptionError> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(OptionError::range(parameter, value, format!("from {least} to {most}")))
}
