//! What the owner of a revision keeps out of texts that models generate for it.

use serde::{Deserialize, Serialize};

/// Blocked texts of one revision.
pub const BLOCKED_TEXTS_MAX: usize = 256;
/// Bytes of one blocked text.
pub const BLOCKED_TEXT_BYTES_MAX: usize = 256;
/// Bytes of all blocked texts of one revision: a warm deployment has them compiled in memory, which takes a few dozen
/// times as much.
pub const BLOCKED_TEXTS_BYTES_MAX: usize = 16 << 10;

/// The filter of a revision. Unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilterSpec {
    /// Generated text ends before the first of these. Found literally, whatever the case of their letters.
    pub block: Vec<String>,
}

/// A filter cannot be as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterSpecError {
    /// More texts than there may be.
    #[error("filter.block has {count} texts; it may have {BLOCKED_TEXTS_MAX}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// It would block everything.
    #[error("text {index} of filter.block is empty")]
    Empty {
        /// Its place in the list, from 0.
        index: usize,
    },
    /// One text is too long.
    #[error("text {index} of filter.block has {bytes} bytes; it may have {BLOCKED_TEXT_BYTES_MAX}")]
    TooLong {
        /// Its place in the list, from 0.
        index: usize,
        /// Its length.
        bytes: usize,
    },
    /// All texts together are too long.
    #[error("the texts of filter.block have {bytes} bytes together; they may have {BLOCKED_TEXTS_BYTES_MAX}")]
    TooLarge {
        /// Their length.
        bytes: usize,
    },
}

impl FilterSpec {
    /// Whether nothing is filtered.
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// All that is wrong with it, at once.
    ///
    /// # Errors
    /// One [`FilterSpecError`] for each.
    pub fn validate(&self) -> Result<(), Vec<FilterSpecError>> {
        let mut errors = Vec::new();
        if self.block.len() > BLOCKED_TEXTS_MAX {
            errors.push(FilterSpecError::TooMany { count: self.block.len() });
        }
        // A list of any length has an answer of bounded length.
        for (index, text) in self.block.iter().take(BLOCKED_TEXTS_MAX).enumerate() {
            match text.len() {
                0 => errors.push(FilterSpecError::Empty { index }),
                bytes if bytes > BLOCKED_TEXT_BYTES_MAX => errors.push(FilterSpecError::TooLong { index, bytes }),
                _ => {}
            }
        }
        let bytes = self.block.iter().map(String::len).sum();
        if bytes > BLOCKED_TEXTS_BYTES_MAX {
            errors.push(FilterSpecError::TooLarge { bytes });
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(block: Vec<String>) -> Vec<String> {
        let errors = FilterSpec { block }.validate().err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_may_be_blocked() {
        assert_eq!(problems(Vec::new()), [""; 0]);
        assert_eq!(problems(vec!["x".repeat(BLOCKED_TEXT_BYTES_MAX)]), [""; 0]);
        assert_eq!(problems(vec!["ab".to_owned(); BLOCKED_TEXTS_MAX]), [""; 0]);
    }

    #[test]
    fn all_problems_at_once() {
        assert_eq!(
            problems(vec!["a".to_owned(), String::new(), "é".repeat(129)]),
            ["text 1 of filter.block is empty", "text 2 of filter.block has 258 bytes; it may have 256"]
        );
        assert_eq!(
            problems(vec!["x".repeat(100); 257]),
            [
                "filter.block has 257 texts; it may have 256",
                "the texts of filter.block have 25700 bytes together; they may have 16384"
            ]
        );
    }

    #[test]
    fn unknown_keys_are_errors() {
        let spec: FilterSpec = serde_json::from_str(r#"{"block": ["a"]}"#).expect("it is whole");
        assert_eq!(spec.block, ["a"]);
        assert!(serde_json::from_str::<FilterSpec>("{}").expect("nothing is blocked").is_empty());
        assert!(serde_json::from_str::<FilterSpec>(r#"{"blocked": ["a"]}"#).is_err());
    }
}
