//! Why a chat gave no prompt.

use serde::{Deserialize, Serialize};

use crate::TokenizerError;

/// A chat gave no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ChatError {
    /// The package has no chat template.
    #[error("this model has no chat template; give it text or tokens")]
    NoTemplate,
    /// The caller's: messages, tools or variables that no template can take.
    #[error("{0}")]
    Invalid(String),
    /// The caller's, says the template (`raise_exception`).
    #[error("the model's chat template refuses these messages: {0}")]
    Raised(String),
    /// The template did not end.
    #[error("the model's chat template takes too long on these messages (more than {limit} steps)")]
    OutOfFuel {
        /// `chat_fuel_max`, in steps of the template engine.
        limit: u64,
    },
    /// The prompt's text became too long.
    #[error("the prompt is longer than {limit} bytes")]
    TooLong {
        /// In bytes of text.
        limit: usize,
    },
    /// The prompt could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template does not work; the model's fault.
    #[error("the model's chat template could not be rendered")]
    Failed {
        /// For the log: what the template engine said.
        detail: String,
    },
}
