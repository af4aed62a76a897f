//! How near a call is to its limits, as headers: OpenAI's names, and those of draft-ietf-httpapi-ratelimit-headers.

use http::HeaderValue;
use http::header::{HeaderMap, HeaderName};
use mayfly_api::headers;
use mayfly_ledger::{Room, Standing};

const NANOS_PER_MILLI: u64 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Names of one limit: limit, remaining, reset.
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

const POLICY: HeaderName = HeaderName::from_static(headers::RATE_LIMIT_POLICY);
const LEFT: HeaderName = HeaderName::from_static(headers::RATE_LIMIT);

/// Tells of the limits that there are.
pub(crate) fn mark_standing(head: &mut HeaderMap, standing: &Standing) {
    let (mut policy, mut left) = (String::new(), String::new());
    let limits = [("requests", REQUESTS, standing.requests), ("tokens", TOKENS, standing.tokens)];
    for (word, [limit, remaining, reset], room) in limits {
        let Some(room) = room else { continue };
        head.insert(limit, HeaderValue::from(room.limit));
        head.insert(remaining, HeaderValue::from(room.remaining));
        head.insert(reset, text(reset_text(&room)));
        let comma = if policy.is_empty() { "" } else { ", " };
        policy.push_str(&format!("{comma}\"{word}\";q={};w=60", room.limit));
        let seconds = room.reset.div_ceil(NANOS_PER_SECOND);
        left.push_str(&format!("{comma}\"{word}\";r={};t={seconds}", room.remaining));
    }
    if !policy.is_empty() {
        head.insert(POLICY, text(policy));
        head.insert(LEFT, text(left));
    }
}

/// `1.234s`, up to the next millisecond.
fn reset_text(room: &Room) -> String {
    let ms = room.reset.div_ceil(NANOS_PER_MILLI);
    format!("{}.{:03}s", ms / 1000, ms % 1000)
}

fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("ASCII words and digits are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_of_names() {
        let requests = Room { limit: 60, remaining: 59, reset: 1_000_000_001 };
        let tokens = Room { limit: 1_000, remaining: 0, reset: 59_999_999_999 };
        let mut head = HeaderMap::new();
        mark_standing(&mut head, &Standing { requests: Some(requests), tokens: Some(tokens) });
        let expect = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1.001s"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "60.000s"),
            ("ratelimit-policy", r#""requests";q=60;w=60, "tokens";q=1000;w=60"#),
            ("ratelimit", r#""requests";r=59;t=2, "tokens";r=0;t=60"#),
        ];
        for (name, value) in expect {
            assert_eq!(head[name], value, "{name}");
        }
        assert_eq!(head.len(), expect.len());
    }

    #[test]
    fn what_is_not_limited_is_not_told() {
        let mut head = HeaderMap::new();
        mark_standing(&mut head, &Standing::default());
        assert!(head.is_empty());
        let tokens = Some(Room { limit: 5, remaining: 5, reset: 0 });
        mark_standing(&mut head, &Standing { requests: None, tokens });
        assert_eq!(head["ratelimit"], r#""tokens";r=5;t=0"#);
        assert_eq!(head["x-ratelimit-reset-tokens"], "0.000s");
        assert!(!head.contains_key("x-ratelimit-limit-requests"));
    }
}
