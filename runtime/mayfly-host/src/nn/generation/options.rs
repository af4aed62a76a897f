//! The guest's options, checked, and what the model's own configuration says where the guest says nothing.

use mayfly_inference::{Constraint as HostConstraint, DecoderInfo, GenerationOptions, Sampling};

use super::bindings::{Constraint, Error, Options};
use super::errors::{invalid, overflow};

/// New tokens of one choice where the guest names no number.
const NEW_TOKENS_DEFAULT: u32 = 4096;
/// New tokens of all choices of one generation.
const NEW_TOKENS_MAX: u32 = 1 << 18;
/// Choices of one generation.
const CHOICES_MAX: u32 = 128;

/// Options that are fit for a model, all but the number of tokens: that depends on the prompt.
#[derive(Debug)]
pub(super) struct Wanted {
    options: GenerationOptions,
    max_tokens: Option<u32>,
    pub(super) choices: u32,
}

/// Checks `options` for a model.
///
/// # Errors
/// [`Error::Invalid`], which names the option, what it is and what it may be.
pub(super) fn check(options: Options, decoder: &DecoderInfo) -> Result<Wanted, Error> {
    let choices = options.choices;
    if !(1..=CHOICES_MAX).contains(&choices) {
        return Err(invalid(format!("`choices` is {choices}; it must be from 1 to {CHOICES_MAX}")));
    }
    if options.max_tokens == Some(0) {
        return Err(invalid("`max_tokens` is 0; it must be at least 1"));
    }
    let (defaults, off) = (decoder.defaults, Sampling::default());
    let sampling = Sampling {
        temperature: options.temperature.or(defaults.temperature).unwrap_or(off.temperature),
        top_p: options.top_p.or(defaults.top_p).unwrap_or(off.top_p),
        top_k: options.top_k.or(defaults.top_k).unwrap_or(off.top_k),
        min_p: options.min_p.unwrap_or(off.min_p),
        seed: options.seed,
        presence_penalty: options.presence_penalty.unwrap_or(off.presence_penalty),
        frequency_penalty: options.frequency_penalty.unwrap_or(off.frequency_penalty),
        repetition_penalty: options
            .repetition_penalty
            .or(defaults.repetition_penalty)
            .unwrap_or(off.repetition_penalty),
        logit_bias: options.logit_bias,
    };
    let constraint = options.constraint.map(|constraint| match constraint {
        Constraint::JsonObject => HostConstraint::JsonObject,
        Constraint::JsonSchema(schema) => HostConstraint::JsonSchema(schema),
        Constraint::Regex(pattern) => HostConstraint::Regex(pattern),
        Constraint::Choice(texts) => HostConstraint::Choice(texts),
        Constraint::Grammar(grammar) => HostConstraint::Grammar(grammar),
    });
    let checked = GenerationOptions {
        sampling,
        // Replaced by `fit`.
        max_tokens: 1,
        stop: options.stop,
        ignore_eos: options.ignore_eos,
        logprobs: options.logprobs,
        constraint,
    };
    checked.check(decoder.vocab).map_err(|error| invalid(error.to_string()))?;
    Ok(Wanted { options: checked, max_tokens: options.max_tokens, choices })
}

impl Wanted {
    /// The options for a prompt of this length in a context of `context` tokens.
    ///
    /// # Errors
    /// [`Error::ContextOverflow`] if both do not fit, [`Error::Invalid`] for more tokens than one generation may make.
    pub(super) fn fit(self, prompt_tokens: u32, context: u32) -> Result<GenerationOptions, Error> {
        let left = context.saturating_sub(prompt_tokens);
        let max_tokens = self.max_tokens.unwrap_or_else(|| {
            // At least one, so that a full context is an overflow.
            left.min(NEW_TOKENS_DEFAULT).min(NEW_TOKENS_MAX / self.choices).max(1)
        });
        if max_tokens > left {
            return Err(overflow(prompt_tokens, max_tokens, context));
        }
        if u64::from(max_tokens) * u64::from(self.choices) > u64::from(NEW_TOKENS_MAX) {
            return Err(invalid(format!(
                "{} choices of up to {max_tokens} tokens are asked for; together they may have {NEW_TOKENS_MAX}",
                self.choices
            )));
        }
        Ok(GenerationOptions { max_tokens, ..self.options })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use mayfly_inference::{Batching, DecoderInputs, DecoderLayout, ElementType, GenerationDefaults};

    use super::*;
    use crate::nn::generation::bindings::Overflow;

    fn decoder() -> DecoderInfo {
        DecoderInfo {
            layout: DecoderLayout::GroupQuery,
            layers: 1,
            kv_heads: 1,
            head_size: 8,
            kv_type: ElementType::F32,
            context: 100_000,
            vocab: 300,
            inputs: DecoderInputs { ids: "ids".to_owned(), mask: None, positions: None },
            past: Vec::new(),
            present: Vec::new(),
            logits: "logits".to_owned(),
            last_position_only: false,
            eos: Vec::new(),
            bos: None,
            batching: Batching::Continuous,
            defaults: GenerationDefaults { temperature: Some(0.7), top_k: Some(20), ..GenerationDefaults::default() },
        }
    }

    fn options() -> Options {
        Options {
            max_tokens: None,
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            seed: None,
            presence_penalty: None,
            frequency_penalty: None,
            repetition_penalty: None,
            logit_bias: Vec::new(),
            stop: Vec::new(),
            choices: 1,
            logprobs: None,
            ignore_eos: false,
            constraint: None,
        }
    }

    fn fit(options: Options, prompt_tokens: u32) -> Result<u32, String> {
        let error = |error| match error {
            Error::Invalid(text) => text,
            Error::ContextOverflow(Overflow { prompt_tokens, max_tokens, context }) => {
                format!("{prompt_tokens} + {max_tokens} > {context}")
            }
            other => panic!("{other:?}"),
        };
        let wanted = check(options, &decoder()).map_err(error)?;
        Ok(wanted.fit(prompt_tokens, decoder().context).map_err(error)?.max_tokens)
    }

    #[test]
    fn the_model_s_defaults_come_before_ours() {
        let wanted = check(Options { top_k: Some(3), ..options() }, &decoder()).unwrap();
        let sampling = wanted.options.sampling;
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.7, 3, 1.0));
    }

    #[test]
    fn how_many_tokens() {
        let some = |max_tokens, choices| Options { max_tokens: Some(max_tokens), choices, ..options() };
        assert_eq!(fit(options(), 10), Ok(4096));
        assert_eq!(fit(options(), 99_990), Ok(10));
        assert_eq!(fit(Options { choices: 128, ..options() }, 10), Ok(2048));
        assert_eq!(fit(some(7, 3), 10), Ok(7));
        assert_eq!(fit(some(99_990, 1), 10), Ok(99_990));
        assert_eq!(fit(options(), 100_000), Err("100000 + 1 > 100000".to_owned()));
        assert_eq!(fit(options(), u32::MAX), Err("4294967295 + 1 > 100000".to_owned()));
        assert_eq!(fit(some(u32::MAX, 128), 10), Err("10 + 4294967295 > 100000".to_owned()));
        assert_eq!(fit(some(0, 1), 10), Err("`max_tokens` is 0; it must be at least 1".to_owned()));
        assert_eq!(
            fit(some(50_000, 6), 10),
            Err("6 choices of up to 50000 tokens are asked for; together they may have 262144".to_owned())
        );
        for choices in [0, 129, u32::MAX] {
            let error = fit(some(1, choices), 1).unwrap_err();
            assert_eq!(error, format!("`choices` is {choices}; it must be from 1 to 128"));
        }
    }
}
