//! What the caller gets.

use serde::Serialize;

/// One answer for all inputs of a request.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) model: String,
    pub(crate) data: Vec<Classified>,
    pub(crate) usage: Usage,
}

/// One input's labels.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Classified {
    pub(crate) index: usize,
    /// The one to use: the best, unless the model's thresholds say that it is not to be trusted.
    pub(crate) label: String,
    /// The best first.
    pub(crate) results: Vec<Scored>,
}

/// A label and how sure the model is of it, 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Scored {
    pub(crate) label: String,
    pub(crate) score: f32,
}

/// What was looked at.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Usage {
    pub(crate) inputs: usize,
    /// Bytes sent in, for models of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<usize>,
    /// Tokens, for models of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_tokens: Option<usize>,
    /// The same again, as OpenAI's clients look for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_tokens: Option<usize>,
}
