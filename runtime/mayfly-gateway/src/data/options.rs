//! What a caller asks of its call by headers of ours. Each is checked, and none reaches the handler.

use std::sync::Arc;

use http::HeaderMap;
use mayfly_api::headers;
use mayfly_types::Money;

use crate::failure::Failure;

/// Characters of an `idempotency-key`.
const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
/// Characters of an `x-mayfly-end-user`.
const END_USER_CHARS_MAX: usize = 128;

/// The options of one call. Without headers: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) end_user: Option<Arc<str>>,
    pub(super) idempotency_key: Option<String>,
    pub(super) dry_run: bool,
    pub(super) cost_max: Option<Money>,
}

impl Options {
    /// Reads them.
    ///
    /// # Errors
    /// 400 that names the header.
    pub(super) fn read(from: &HeaderMap) -> Result<Self, Failure> {
        let end_user = text(from, headers::END_USER)?.map(end_user).transpose()?;
        let idempotency_key = text(from, headers::IDEMPOTENCY_KEY)?.map(idempotency_key).transpose()?;
        let dry_run = text(from, headers::DRY_RUN)?.map(dry_run).transpose()?.unwrap_or(false);
        let cost_max = text(from, headers::MAX_COST)?.map(cost_max).transpose()?;
        Ok(Self { end_user, idempotency_key, dry_run, cost_max })
    }
}

/// The one value of a header, as UTF-8.
fn text<'a>(from: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Failure> {
    let mut values = from.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad(name, "is there more than once"));
    }
    std::str::from_utf8(value.as_bytes()).map(Some).map_err(|_| bad(name, "is not UTF-8 text"))
}

fn end_user(text: &str) -> Result<Arc<str>, Failure> {
    let visible = |c: char| !c.is_whitespace() && !c.is_control();
    let fits = (1..=END_USER_CHARS_MAX).contains(&text.chars().count())
        && text.chars().all(visible)
        && mayfly_api::clean_line(text) == text;
    if fits { Ok(text.into()) } else { Err(bad(headers::END_USER, "must be 1 to 128 visible characters")) }
}

fn idempotency_key(text: &str) -> Result<String, Failure> {
    let fits =
        (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let problem = || bad(headers::IDEMPOTENCY_KEY, "must be 1 to 255 visible ASCII characters");
    fits.then(|| text.to_owned()).ok_or_else(problem)
}

fn dry_run(text: &str) -> Result<bool, Failure> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(bad(headers::DRY_RUN, "must be 1 or 0")),
    }
}

fn cost_max(text: &str) -> Result<Money, Failure> {
    let problem = || {
        bad(headers::MAX_COST, "must be an amount such as 0.01: not negative, with at most 12 digits after the point")
    };
    let amount: Money = text.parse().map_err(|_| problem())?;
    if amount < Money::ZERO { Err(problem()) } else { Ok(amount) }
}

fn bad(name: &'static str, problem: &str) -> Failure {
    Failure { param: Some(name), ..Failure::invalid(format!("the header `{name}` {problem}")) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read(pairs: &[(&'static str, &[u8])]) -> Result<Options, Failure> {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        Options::read(&map)
    }

    #[track_caller]
    fn refused(name: &'static str, value: &[u8]) {
        let failure = read(&[(name, value)]).unwrap_err();
        assert_eq!((failure.code.status(), failure.param), (400, Some(name)));
        assert!(failure.message.contains(name), "{}", failure.message);
    }

    #[test]
    fn nothing_asked_is_nothing() {
        assert_eq!(read(&[("content-type", b"text/plain")]).unwrap(), Options::default());
    }

    #[test]
    fn each_option_is_read() {
        let options = read(&[
            ("x-mayfly-end-user", "anna@häuser.example".as_bytes()),
            ("idempotency-key", b"8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("x-mayfly-dry-run", b"1"),
            ("x-mayfly-max-cost", b"0.01"),
        ])
        .unwrap();
        assert_eq!(options.end_user.as_deref(), Some("anna@häuser.example"));
        assert_eq!(options.idempotency_key.as_deref(), Some("8e03978e-40d5-43dd-bc93-6894a57f9324"));
        assert_eq!((options.dry_run, options.cost_max), (true, Some(Money::from_pico(10_000_000_000))));
        assert!(!read(&[("x-mayfly-dry-run", b"0")]).unwrap().dry_run);
        assert_eq!(read(&[("x-mayfly-max-cost", b"0")]).unwrap().cost_max, Some(Money::ZERO));
        assert!(read(&[("idempotency-key", &[b'k'; 255])]).is_ok());
        assert!(read(&[("x-mayfly-end-user", "ü".repeat(128).as_bytes())]).is_ok());
    }

    #[test]
    fn what_is_wrong_names_its_header() {
        for value in [&b""[..], b"a b", b"a\tb", b"\xff", "a\u{202e}b".as_bytes(), "u".repeat(129).as_bytes()] {
            refused("x-mayfly-end-user", value);
        }
        for value in [&b""[..], b"a b", "ü".as_bytes(), &[b'k'; 256]] {
            refused("idempotency-key", value);
        }
        for value in [&b""[..], b"yes", b"2", b"1,1"] {
            refused("x-mayfly-dry-run", value);
        }
        for value in
            [&b""[..], b"-1", b"-0.01", b"1e3", b"NaN", b"inf", b"0.0000000000001", b"1,5", b"99999999999999999"]
        {
            refused("x-mayfly-max-cost", value);
        }
    }

    #[test]
    fn twice_is_not_once() {
        let failure = read(&[("idempotency-key", b"a"), ("idempotency-key", b"a")]).unwrap_err();
        assert_eq!(failure.param, Some("idempotency-key"));
    }
}
