//! From a request to a job: everything checked before anything runs, and what is slow to make made off the engine.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::chunk::GenerationUsage;
use super::engine::{Choice, Job, Rejected};
use super::sampling::Sampler;
use super::stream::Shared;
use super::text::TextStream;
use super::{GenerationError, GenerationRequest, OptionError};
use crate::{DecoderInfo, LoadError, Package, TokenizerError};

/// Choices of one request.
const CHOICES_MAX: u32 = 128;

/// Where the engine's thread answers whether it took a job.
pub(crate) type Answer = oneshot::Receiver<Result<(), Rejected>>;

/// Checks `request` against `decoder`.
pub(crate) fn check(decoder: &DecoderInfo, request: &GenerationRequest) -> Result<(), GenerationError> {
    let GenerationRequest { prompt, options, choices, .. } = request;
    options.check(decoder.vocab)?;
    if !(1..=CHOICES_MAX).contains(choices) {
        return Err(OptionError::range("n", choices, format!("from 1 to {CHOICES_MAX}")).into());
    }
    if options.max_tokens == 0 {
        return Err(OptionError::range("max_tokens", 0, "at least 1").into());
    }
    if prompt.is_empty() {
        return Err(OptionError::range("prompt", "empty", "at least one token").into());
    }
    if let Some(token) = prompt.iter().find(|token| **token >= decoder.vocab) {
        let given = format!("with the token {token}");
        return Err(OptionError::range("prompt", given, format!("of tokens below {}", decoder.vocab)).into());
    }
    let (length, max_tokens) = (u32::try_from(prompt.len()).unwrap_or(u32::MAX), options.max_tokens);
    if length.saturating_add(max_tokens) > decoder.context {
        return Err(GenerationError::ContextOverflow { prompt: length, max_tokens, context: decoder.context });
    }
    Ok(())
}

/// Makes the job of a checked request; `first` names its sequences. Blocking: may load the tokenizer, and compiles the
/// constraint.
pub(crate) fn job(
    package: &Package,
    request: GenerationRequest,
    first: u64,
) -> Result<(Box<Job>, Answer), GenerationError> {
    let GenerationRequest { prompt, options, choices, owner, reuse, deadline, cancel, account } = request;
    let table = match package.token_table() {
        Ok(table) => Arc::clone(table),
        Err(TokenizerError::Failed { detail }) => return Err(LoadError::Failed { detail }.into()),
        Err(TokenizerError::None | TokenizerError::Invalid(_)) => return Err(GenerationError::NotADecoder),
    };
    let constraint = options.constraint.as_ref();
    let matcher = constraint.map(|constraint| package.grammar()?.matcher(constraint)).transpose()?;
    let choice = |number| Choice {
        sampler: Sampler::new(&options.sampling, number, options.logprobs, &prompt),
        matcher: matcher.clone(),
        text: TextStream::new(Arc::clone(&table), &options.stop),
    };
    let made = (0..choices).map(choice).collect();
    let usage = GenerationUsage { prompt_tokens: prompt.len() as u64, ..GenerationUsage::default() };
    let (reply, answer) = oneshot::channel();
    let job = Job {
        shared: Arc::new(Shared::new(first, choices, usage)),
        choices: made,
        prompt: prompt.into(),
        max_tokens: options.max_tokens,
        ignore_eos: options.ignore_eos,
        table,
        owner,
        reuse,
        deadline,
        cancel,
        account,
        reply,
    };
    Ok((Box::new(job), answer))
}

impl Job {
    /// For another attempt, on another engine.
    pub(crate) fn again(&mut self) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.reply = reply;
        answer
    }
}
