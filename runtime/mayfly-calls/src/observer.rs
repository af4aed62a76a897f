//! The seam to whoever watches calls end: what they are told, and what not.
//!
//! An observer gets what the host knows of a call that has settled: ids, names, counts, times. Nothing that the caller
//! or the guest wrote goes with it, except for the two numbers of a trace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use mayfly_ledger::Row;
use mayfly_types::{ModelId, Name};

/// Told of each call that ends in the ledger, once. Must not wait: the call's answer does.
pub trait Observer: Send + Sync + std::fmt::Debug {
    /// A call has ended.
    fn ended(&self, call: &EndedCall<'_>);

    /// Spans that were handed on since the start, and those that were lost.
    fn spans(&self) -> Spans;
}

/// Spans since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spans {
    /// A collector has taken them.
    pub exported: u64,
    /// The queue was full, or no collector took them.
    pub dropped: u64,
}

/// A call that has ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedCall<'a> {
    /// Its last row.
    pub row: &'a Row,
    /// From its head to that row.
    pub took: Duration,
    /// From its head to the first token that its handler was handed, if there was one.
    pub first_token: Option<Duration>,
    /// How what its models generated has ended, each way once.
    pub finishes: &'a [&'static str],
    /// What its head said.
    pub seen: &'a Seen,
}

/// What is known of a call from its head.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The caller's trace, if it sent one.
    pub trace: Option<TraceParent>,
    /// The method.
    pub method: Method,
    /// Which of OpenAI's operations was asked for, if one was.
    pub operation: Option<Operation>,
    /// The project's name.
    pub project: Name,
    /// The names of the models that the deployment was granted, as in the price book.
    pub models: Arc<BTreeMap<ModelId, String>>,
}

/// An operation of OpenAI's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// The path as the handler sees it.
    pub route: &'static str,
    /// Its name in OpenTelemetry's conventions (`gen_ai.operation.name`).
    pub name: &'static str,
}

impl Operation {
    const ALL: [Self; 4] = [
        Self { route: "/v1/chat/completions", name: "chat" },
        Self { route: "/v1/completions", name: "text_completion" },
        Self { route: "/v1/embeddings", name: "embeddings" },
        Self { route: "/v1/responses", name: "chat" },
    ];

    /// The operation at a path as the handler sees it.
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.route == path)
    }
}

/// The caller's part of a trace (W3C Trace Context, `traceparent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Of the whole trace; not zero.
    pub trace: [u8; 16],
    /// The caller's span; not zero.
    pub span: [u8; 8],
    /// Whether the caller records its part.
    pub sampled: bool,
}

impl TraceParent {
    /// The one valid `traceparent` of a request; none if there is none, more than one, or a malformed one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::parse(value.as_bytes())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let [version, trace, span, flags] = [text.get(..2)?, text.get(3..35)?, text.get(36..52)?, text.get(53..55)?];
        let dashes = [2, 35, 52].iter().all(|&place| text[place] == b'-');
        // Later versions may say more behind it.
        let length = if version == b"00" { text.len() == 55 } else { text.len() == 55 || text[55] == b'-' };
        if !dashes || !length || version == b"ff" {
            return None;
        }
        let [_version] = digits::<1>(version)?;
        let (trace, span, [flags]) = (digits(trace)?, digits(span)?, digits::<1>(flags)?);
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

/// Bytes from hexadecimal digits, which have to be lower case.
fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(values: &[&str]) -> Option<TraceParent> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", value.parse().unwrap());
        }
        TraceParent::of(&headers)
    }

    #[test]
    fn a_good_one() {
        let parent = of(&[GOOD]).unwrap();
        assert_eq!((parent.trace[0], parent.trace[15]), (0x0a, 0x9c));
        assert_eq!((parent.span, parent.sampled), ([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31], true));
        assert!(!of(&[&GOOD.replace("-01", "-00")]).unwrap().sampled);
        assert!(of(&[&GOOD.replace("-01", "-03")]).unwrap().sampled, "other flags are nobody's business");
        let later = format!("{}-more", GOOD.replacen("00", "cc", 1));
        assert!(of(&[&later]).is_some());
    }

    #[test]
    fn bad_ones_are_as_none() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("{}x", GOOD.replacen("00", "cc", 1)),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0x", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace("-b7", "_b7"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace("0af7", "0ag7"),
        ] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
        assert_eq!(of(&[GOOD, GOOD]), None, "two are none");
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn operations_by_their_paths() {
        assert_eq!(Operation::at("/v1/chat/completions").map(|operation| operation.name), Some("chat"));
        assert_eq!(Operation::at("/v1/chat"), None);
    }
}
