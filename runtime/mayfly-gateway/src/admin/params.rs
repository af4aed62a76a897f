//! Queries and JSON bodies, read with limits and answered with problems.

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::request::Parts;
use mayfly_api::ErrorCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Gateway;
use crate::failure::Failure;
use crate::limits::{ReadError, read};

/// Entries of a page, unless the query says otherwise.
pub(crate) const PAGE_DEFAULT: u32 = 50;
/// Entries of a page, at most.
pub(crate) const PAGE_MAX: u32 = 500;

/// A query whose unknown keys are errors (the types say so).
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Self(params))
            .map_err(|error| Failure::invalid(format!("the query: {}", mayfly_api::clean_line(&error.body_text()))))
    }
}

/// A JSON body of at most `control_body_bytes_max` bytes.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Gateway> for Json<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, gateway: &Gateway) -> Result<Self, Failure> {
        let bytes =
            read(request.into_body(), gateway.0.config.control_body_bytes_max).await.map_err(|error| match error {
                ReadError::TooLong { limit } => Failure::new(
                    ErrorCode::TooLarge,
                    format!("the body is longer than control_body_bytes_max = {limit}"),
                ),
                other => Failure::invalid(other.to_string()),
            })?;
        parse(&bytes).map(Self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let body = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        // The path names the field at fault; `.` is the body itself.
        let path = error.path().to_string();
        let place = if path == "." { "the body".to_owned() } else { format!("`{path}`") };
        Failure::invalid(mayfly_api::clean_line(&format!("{place}: {}", error.inner())))
    })?;
    reader.end().map_err(|error| Failure::invalid(format!("the body: {error}")))?;
    Ok(body)
}

/// Which part of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// The `next` of the page before.
    pub(crate) after: Option<String>,
    /// Entries, at most.
    pub(crate) limit: Option<u32>,
}

impl PageQuery {
    pub(crate) fn limit(&self) -> Result<u32, Failure> {
        match self.limit {
            None => Ok(PAGE_DEFAULT),
            Some(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
            Some(limit) => Err(Failure::invalid(format!("`limit` is {limit}; it must be between 1 and {PAGE_MAX}"))),
        }
    }
}

/// One page of a list that is sorted by its keys: what follows `after`, and where the next page begins.
pub(crate) fn page<T>(
    mut sorted: Vec<T>,
    after: Option<&str>,
    limit: u32,
    key: impl Fn(&T) -> String,
) -> mayfly_api::Page<T> {
    if let Some(after) = after {
        sorted.retain(|entry| key(entry).as_str() > after);
    }
    cut(sorted, limit, key)
}

/// A page of a list that was read one entry further than the page goes.
pub(crate) fn cut<T>(mut entries: Vec<T>, limit: u32, key: impl Fn(&T) -> String) -> mayfly_api::Page<T> {
    let limit = limit as usize;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = if more { entries.last().map(key) } else { None };
    mayfly_api::Page { data: entries, next }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_a_list_once() {
        let all = || ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        let mut after = None;
        let mut seen = Vec::new();
        loop {
            let page = page(all(), after.as_deref(), 2, Clone::clone);
            assert!(page.data.len() <= 2);
            seen.extend(page.data);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, all());
        assert_eq!(cut(vec![1, 2], 2, i32::to_string).next, None, "a full last page has no next");
    }

    #[test]
    fn limits_of_a_page() {
        assert_eq!(PageQuery::default().limit().unwrap(), PAGE_DEFAULT);
        assert!(PageQuery { limit: Some(0), after: None }.limit().is_err());
        assert!(PageQuery { limit: Some(PAGE_MAX + 1), after: None }.limit().is_err());
    }

    #[test]
    fn bodies() {
        assert!(parse::<mayfly_api::Rollback>(b"").unwrap().revision.is_none());
        let failure = parse::<mayfly_api::Rollback>(br#"{"revison": 1}"#).unwrap_err();
        assert!(failure.message.contains("revison"), "{}", failure.message);
        assert!(parse::<mayfly_api::NewTenant>(br#"{"name": "Not A Name"}"#).is_err());
        assert!(parse::<mayfly_api::NewTenant>(b"{\"name\": \"a\x00\"}").is_err());
    }

    #[test]
    fn a_limit_at_fault_is_named() {
        for (body, field) in [
            (r#"{"concurrency": -1}"#, "concurrency"),
            (r#"{"concurrency": 4294967296}"#, "concurrency"),
            (r#"{"requests_per_minute": 1.5}"#, "requests_per_minute"),
            (r#"{"tokens_per_minute": NaN}"#, "tokens_per_minute"),
            (r#"{"tokens_per_minute": 1e400}"#, "tokens_per_minute"),
            (r#"{"tokens_per_minute": "NaN"}"#, "tokens_per_minute"),
            (r#"{"spend": {"amount": "1e9", "per": "day"}}"#, "spend.amount"),
            (r#"{"spend": {"amount": "1", "per": "year"}}"#, "spend.per"),
            (r#"{"request_cost_max": "NaN"}"#, "request_cost_max"),
            (r#"{"request_cost_max": "0.0000000000001"}"#, "request_cost_max"),
            (r#"{"tokens": 1}"#, "tokens"),
        ] {
            let failure = parse::<mayfly_api::Limits>(body.as_bytes()).unwrap_err();
            assert_eq!(failure.status(), 400);
            assert!(failure.message.contains(&format!("`{field}`")), "{body}: {}", failure.message);
        }
    }
}
