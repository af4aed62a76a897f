//! Why there is no text, and what that is for the caller of the handler.

use std::fmt;

use crate::bindings::mayfly::inference::generation as wit;

/// Why a generation did not start or go on. Becomes a [`crate::Error`] with a fitting status with `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The prompt, an option or the model is not fit for this; the text names what. 400.
    Invalid(String),
    /// The prompt and the tokens asked for do not fit the model's context. 400, code `context_length_exceeded`.
    ContextOverflow {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// New tokens asked for.
        max_tokens: u32,
        /// What the model can hold, both together.
        context: u32,
    },
    /// A limit of the tenant, the project, the deployment or the key. 429, or 402 where it is about money.
    Limited {
        /// Which limit, and the way out.
        message: String,
        /// When to try again, in milliseconds; none if waiting does not help.
        retry_after_ms: Option<u64>,
        /// Whether it is about money.
        money: bool,
    },
    /// The host has too much to do; nothing was run or charged. 429, code `model_busy`.
    Busy(String),
    /// The call is over (its deadline has passed, its caller has left, or its response has ended), or nobody read the
    /// stream for too long. 504.
    Stopped,
    /// The host's fault. 500.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(text) | Self::Busy(text) | Self::Failed(text) | Self::Limited { message: text, .. } => {
                f.write_str(text)
            }
            Self::ContextOverflow { prompt_tokens, max_tokens, context } => write!(
                f,
                "this model's maximum context length is {context} tokens; the prompt has {prompt_tokens} and {max_tokens} \
                 more were asked for. Shorten the prompt or ask for fewer tokens"
            ),
            Self::Stopped => f.write_str(
                "the generation was stopped: the call's deadline has passed, its caller has left, or nobody read it for too long",
            ),
        }
    }
}

impl std::error::Error for Error {}

impl From<wit::Error> for Error {
    fn from(error: wit::Error) -> Self {
        match error {
            wit::Error::Invalid(text) => Self::Invalid(text),
            wit::Error::ContextOverflow(wit::Overflow { prompt_tokens, max_tokens, context }) => {
                Self::ContextOverflow { prompt_tokens, max_tokens, context }
            }
            wit::Error::Limited(wit::Limited { message, retry_after_ms, money }) => {
                Self::Limited { message, retry_after_ms, money }
            }
            wit::Error::Busy(text) => Self::Busy(text),
            wit::Error::Stopped => Self::Stopped,
            wit::Error::Failed(text) => Self::Failed(text),
        }
    }
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        let (status, code) = match &error {
            Error::Invalid(_) => (400, "invalid_request"),
            Error::ContextOverflow { .. } => (400, "context_length_exceeded"),
            // The host knows the refusal and gives the caller the limit's own answer, with its retry time.
            Error::Limited { money: true, .. } => (402, "insufficient_quota"),
            Error::Limited { money: false, .. } => (429, "rate_limit_exceeded"),
            Error::Busy(_) => (429, "model_busy"),
            Error::Stopped => (504, "model_timeout"),
            Error::Failed(text) if text.starts_with("unavailable") => (503, "model_unavailable"),
            Error::Failed(_) => (500, "model_failed"),
        };
        Self::new(status, code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_a_status() {
        let check = |error: wit::Error, status: u16, code: &str| {
            let error = crate::Error::from(Error::from(error));
            assert_eq!((error.status(), error.code()), (status, code));
            assert!(!error.message().is_empty());
        };
        let limited =
            |money| wit::Error::Limited(wit::Limited { message: "a limit".into(), retry_after_ms: Some(2), money });
        check(wit::Error::Invalid("temperature is NaN".into()), 400, "invalid_request");
        let overflow = wit::Overflow { prompt_tokens: 9, max_tokens: 8, context: 16 };
        check(wit::Error::ContextOverflow(overflow), 400, "context_length_exceeded");
        check(limited(true), 402, "insufficient_quota");
        check(limited(false), 429, "rate_limit_exceeded");
        check(wit::Error::Busy("busy: 3 wait".into()), 429, "model_busy");
        check(wit::Error::Stopped, 504, "model_timeout");
        check(wit::Error::Failed("broken".into()), 500, "model_failed");
    }

    #[test]
    fn an_overflow_tells_the_counts() {
        let text = Error::ContextOverflow { prompt_tokens: 900, max_tokens: 200, context: 1024 }.to_string();
        assert!(text.contains("1024") && text.contains("900") && text.contains("200"), "{text}");
    }
}
