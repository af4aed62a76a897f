//! What a guest is told when there is no text.

use mayfly_inference::{ChatError, GenerationError, LoadError, PromptError, TokenizerError};
use mayfly_types::{Refusal, RefusalKind};

use super::bindings::{Error, Limited, Overflow};
use crate::nn::bindings::errors::ErrorCode;
use crate::nn::errors::{NnError, without_paths};

pub(super) fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

pub(super) fn overflow(prompt_tokens: u32, max_tokens: u32, context: u32) -> Error {
    Error::ContextOverflow(Overflow { prompt_tokens, max_tokens, context })
}

/// Our own trouble; what it was stands in the host's log.
fn ours(what: &str, detail: &str) -> Error {
    tracing::error!(what, detail, "a generation failed on the host's side");
    Error::Failed(what.to_owned())
}

/// What all interfaces for models check alike: whether the call goes on, the grant, the CPU time.
impl From<NnError> for Error {
    fn from(error: NnError) -> Self {
        let text = error.text;
        match error.code {
            ErrorCode::InvalidArgument
            | ErrorCode::InvalidEncoding
            | ErrorCode::TooLarge
            | ErrorCode::NotFound
            | ErrorCode::UnsupportedOperation
            | ErrorCode::Security => Self::Invalid(text),
            ErrorCode::Timeout => Self::Stopped,
            ErrorCode::RuntimeError if error.is_closed => Self::Stopped,
            ErrorCode::RuntimeError if text.starts_with("busy") => Self::Busy(text),
            ErrorCode::RuntimeError | ErrorCode::Unknown => Self::Failed(text),
        }
    }
}

impl From<Refusal> for Error {
    fn from(Refusal { kind, message, retry_after_ms }: Refusal) -> Self {
        match kind {
            RefusalKind::Closed => Self::Stopped,
            RefusalKind::Rate | RefusalKind::NeverFits | RefusalKind::Money => {
                Self::Limited(Limited { message, retry_after_ms, money: kind == RefusalKind::Money })
            }
        }
    }
}

impl From<TokenizerError> for Error {
    fn from(error: TokenizerError) -> Self {
        NnError::from(error).into()
    }
}

impl From<ChatError> for Error {
    fn from(error: ChatError) -> Self {
        let text = error.to_string();
        match error {
            ChatError::NoTemplate
            | ChatError::Invalid(_)
            | ChatError::Raised(_)
            | ChatError::OutOfFuel { .. }
            | ChatError::TooLong { .. } => Self::Invalid(text),
            ChatError::Tokenizer(error) => error.into(),
            ChatError::Failed { detail } => ours(&text, &detail),
        }
    }
}

impl From<PromptError> for Error {
    fn from(error: PromptError) -> Self {
        match error {
            PromptError::Chat(error) => error.into(),
            PromptError::Run(error) => NnError::from(error).into(),
        }
    }
}

impl From<GenerationError> for Error {
    fn from(error: GenerationError) -> Self {
        let text = error.to_string();
        match error {
            GenerationError::Option(_) | GenerationError::NotADecoder | GenerationError::NeverFits { .. } => {
                Self::Invalid(text)
            }
            GenerationError::ContextOverflow { prompt, max_tokens, context } => overflow(prompt, max_tokens, context),
            GenerationError::Busy { .. } | GenerationError::BusyCompiling { .. } | GenerationError::Worker(_) => {
                Self::Busy(format!("busy: {text}"))
            }
            GenerationError::Load(LoadError::NoDevice { .. }) => Self::Failed(without_paths(&text)),
            GenerationError::Load(error) => NnError::from(error).into(),
            GenerationError::Stopped | GenerationError::Stalled => Self::Stopped,
            GenerationError::Failed(detail) => {
                tracing::error!(detail, "a generation failed");
                Self::Failed(without_paths(&text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mayfly_inference::WorkerError;

    use super::*;

    fn shown(error: impl Into<Error>) -> String {
        match error.into() {
            Error::Invalid(text) => format!("invalid: {text}"),
            Error::ContextOverflow(Overflow { prompt_tokens, max_tokens, context }) => {
                format!("overflow: {prompt_tokens} {max_tokens} {context}")
            }
            Error::Limited(Limited { message, retry_after_ms, money }) => {
                format!("limited: {message} {retry_after_ms:?} {money}")
            }
            Error::Busy(text) => format!("busy: {text}"),
            Error::Stopped => "stopped".to_owned(),
            Error::Failed(text) => format!("failed: {text}"),
        }
    }

    fn check(error: impl Into<Error>, expect: &str) {
        assert_eq!(shown(error), expect);
    }

    #[test]
    fn limits() {
        let refusal = |kind| Refusal { kind, message: "key k: full".to_owned(), retry_after_ms: Some(9) };
        check(refusal(RefusalKind::Rate), "limited: key k: full Some(9) false");
        check(refusal(RefusalKind::Money), "limited: key k: full Some(9) true");
        check(refusal(RefusalKind::NeverFits), "limited: key k: full Some(9) false");
        check(refusal(RefusalKind::Closed), "stopped");
    }

    #[test]
    fn the_call() {
        check(NnError::closed(), "stopped");
        check(NnError::deadline(), "stopped");
        assert!(shown(NnError::not_granted()).starts_with("invalid: no model is granted under this alias"));
    }

    #[test]
    fn the_engine() {
        check(GenerationError::ContextOverflow { prompt: 3, max_tokens: 4, context: 5 }, "overflow: 3 4 5");
        check(GenerationError::NotADecoder, "invalid: this model cannot generate text");
        assert!(shown(GenerationError::Busy { waiting: 2, limit: 2 }).starts_with("busy: busy: the model's queue"));
        check(
            GenerationError::BusyCompiling { limit: 2 },
            "busy: busy: 2 constraints wait to be compiled, and no more may",
        );
        assert!(
            shown(GenerationError::NeverFits { tokens: 9, limit: 8 }).starts_with("invalid: the request needs room")
        );
        let lost = || WorkerError::Crashed { retry_after_ms: 7 };
        let busy = "busy: busy: the process for this tenant's own models ended before it had answered";
        assert!(shown(GenerationError::Worker(lost())).starts_with(busy));
        assert!(shown(PromptError::Run(lost().into())).starts_with(busy));
        check(GenerationError::Stalled, "stopped");
        check(GenerationError::Load(LoadError::Deadline), "stopped");
        check(GenerationError::Load(LoadError::NoRoom), "busy: busy: the host has no room for another model right now");
        check(
            GenerationError::Load(LoadError::Failed { detail: "/secret/m".into() }),
            "failed: the model could not be loaded",
        );
        check(GenerationError::Failed("in /secret/m".into()), "failed: the generation failed: in …");
    }

    #[test]
    fn templates() {
        assert!(shown(ChatError::NoTemplate).starts_with("invalid: this model has no chat template"));
        assert!(shown(ChatError::Raised("roles must alternate".into())).ends_with("roles must alternate"));
        assert!(shown(ChatError::OutOfFuel { limit: 7 }).starts_with("invalid: "));
        let failed = ChatError::Failed { detail: "/secret/template:3".into() };
        check(failed, "failed: the model's chat template could not be rendered");
        check(TokenizerError::Invalid("the id 9 is not".into()), "invalid: the id 9 is not");
    }
}
