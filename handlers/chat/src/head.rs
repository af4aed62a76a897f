//! What every answer has around its choices.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use mayfly_sdk::generation::{Finish, Usage};
use serde::Serialize;

/// An answer's identity, the same in all its chunks.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// As the caller named it.
    pub(crate) model: String,
}

/// An answer or a chunk of one.
#[derive(Debug, Serialize)]
pub(crate) struct Body<'answer, Choice> {
    id: &'answer str,
    object: &'static str,
    created: u64,
    model: &'answer str,
    choices: &'answer [Choice],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Told>,
}

/// What an answer says about usage. A client that asked for it in a stream gets `null` until the last chunk.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(crate) enum Told {
    Later(()),
    Now(Counted),
}

/// `usage` as the host counted it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Counted {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: Details,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Details {
    cached_tokens: u64,
}

impl Head {
    pub(crate) fn new(prefix: &str, model: String) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { id: unique(prefix), created, model }
    }

    pub(crate) fn body<'answer, Choice>(
        &'answer self,
        object: &'static str,
        choices: &'answer [Choice],
        usage: Option<Told>,
    ) -> Body<'answer, Choice> {
        Body { id: &self.id, object, created: self.created, model: &self.model, choices, usage }
    }

    #[cfg(test)]
    pub(crate) fn fixed() -> Self {
        Self { id: "id-1".to_owned(), created: 7, model: "m".to_owned() }
    }
}

impl From<Usage> for Counted {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: Details { cached_tokens: usage.cached_tokens },
        }
    }
}

/// OpenAI's word for it. What was cut is not whole, whoever cut it.
pub(crate) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length | Finish::Cancelled => "length",
        Finish::ContentFilter => "content_filter",
    }
}

/// A name that no other answer or call has. The keys of a `RandomState` are the host's random numbers.
pub(crate) fn unique(prefix: &str) -> String {
    let random = || RandomState::new().hash_one(prefix);
    format!("{prefix}{:016x}{:08x}", random(), random() >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        let (one, other) = (unique("call_"), unique("call_"));
        assert_eq!((one.len(), &one[..5]), (29, "call_"));
        assert_ne!(one, other);
    }
}
