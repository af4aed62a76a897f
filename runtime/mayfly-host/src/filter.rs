//! Filters of generated text: what a deployment's owner keeps from its handler, and so from its callers.
//!
//! A filter sees the text of each choice in order, in the pieces in which it is generated, and says how far it may be
//! passed on. Holding back what is not clear yet and ending a choice are the business of `nn/generation/filtered.rs`.

mod blocked;

use std::fmt::Debug;
use std::sync::Arc;

use mayfly_types::FilterSpec;

use self::blocked::BlockedTexts;

/// A filter of one revision, shared by its calls.
pub trait TextFilter: Debug + Send + Sync {
    /// The filter of one more text.
    fn begin(&self) -> Box<dyn ChoiceFilter>;
}

/// The filter of one choice's text. Called between the pieces of a stream, so it must be quick and must not block.
pub trait ChoiceFilter: Debug + Send {
    /// Takes the text's next piece. Nothing more comes after a verdict that ends the choice.
    fn push(&mut self, piece: &str) -> Verdict;

    /// The text is over: what waited for more of it is decided.
    fn finish(&mut self) -> Verdict;
}

/// How far a text may be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Bytes from the text's beginning, whole characters; never less than they were.
    pub clear: usize,
    /// Whether the text ends there: what comes behind is never passed on.
    pub ends: bool,
}

/// The revision's filter cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("the filter of blocked texts could not be built")]
pub struct FilterError(#[from] aho_corasick::BuildError);

/// The filter that a revision asks for; none if it asks for none.
///
/// # Errors
/// [`FilterError`]; not for what [`FilterSpec::validate`] lets pass.
pub fn text_filter(spec: &FilterSpec) -> Result<Option<Arc<dyn TextFilter>>, FilterError> {
    if spec.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(BlockedTexts::new(&spec.block)?)))
}
