//! Settings of the export.

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize, Serializer};

/// Settings of [`crate::Exporter`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The collector, for example `http://127.0.0.1:4318`; spans go to `/v1/traces` below it. Empty: nothing is exported.
    pub otlp_endpoint: String,
    /// Headers of each request to the collector, such as a key. Never printed.
    pub otlp_headers: BTreeMap<String, Secret>,
    /// Of the calls that bring no `traceparent`, the part that gets a span: 0 to 1. A caller's own choice is followed.
    pub sample_ratio: f64,
    /// Spans that wait to be sent; one more is dropped and counted.
    pub queue_spans_max: u32,
    /// Spans of one request.
    pub batch_spans_max: u32,
    /// How long a span waits for others to be sent with.
    pub batch_wait_ms: u64,
    /// How long one request to the collector may take.
    pub request_ms_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            otlp_endpoint: String::new(),
            otlp_headers: BTreeMap::new(),
            sample_ratio: 1.0,
            queue_spans_max: 4_096,
            batch_spans_max: 512,
            batch_wait_ms: 1_000,
            request_ms_max: 10_000,
        }
    }
}

impl Config {
    /// All problems at once, each as a sentence that names the key. None names a header's value.
    ///
    /// # Errors
    /// One text for each problem.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        if !self.otlp_endpoint.is_empty() && self.url().is_none() {
            let told = without_user(&self.otlp_endpoint);
            problems
                .push(format!("telemetry.otlp_endpoint `{told}` is not a URL that begins with http:// or https://"));
        }
        for (name, value) in &self.otlp_headers {
            if HeaderName::try_from(name).is_err() || HeaderValue::try_from(value.expose()).is_err() {
                problems.push(format!("telemetry.otlp_headers: `{}` is not a header", name.escape_debug()));
            }
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            problems.push("telemetry.sample_ratio must be between 0 and 1".to_owned());
        }
        for (key, value) in [
            ("queue_spans_max", u64::from(self.queue_spans_max)),
            ("batch_spans_max", u64::from(self.batch_spans_max)),
            ("request_ms_max", self.request_ms_max),
        ] {
            if value == 0 {
                problems.push(format!("telemetry.{key} must be at least 1"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Where spans go.
    pub(crate) fn url(&self) -> Option<reqwest::Url> {
        let base = self.otlp_endpoint.trim_end_matches('/');
        let url = reqwest::Url::parse(&format!("{base}/v1/traces")).ok()?;
        matches!(url.scheme(), "http" | "https").then_some(url)
    }
}

/// A URL without what may be a password.
fn without_user(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, host)| host)
}

/// A text that is never printed, not even with all the rest of the settings.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(secret)")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_off() {
        assert_eq!(Config::default().validate(), Ok(()));
        assert!(Config::default().otlp_endpoint.is_empty());
    }

    #[test]
    fn where_spans_go() {
        for base in ["http://127.0.0.1:4318", "http://127.0.0.1:4318/"] {
            let config = Config { otlp_endpoint: base.to_owned(), ..Config::default() };
            assert_eq!(config.url().unwrap().as_str(), "http://127.0.0.1:4318/v1/traces");
        }
    }

    #[test]
    fn all_problems_at_once_and_no_secret_in_them() {
        let headers = [("authorization", "hunter2\n"), ("a b", "x")];
        let config = Config {
            otlp_endpoint: "ftp://me:hunter2@host".to_owned(),
            otlp_headers: headers.map(|(name, value)| (name.to_owned(), value.into())).into(),
            sample_ratio: f64::NAN,
            queue_spans_max: 0,
            ..Config::default()
        };
        let problems = config.validate().unwrap_err();
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(!format!("{problems:?} {config:?}").replace("me:hunter2@host", "").contains("hunter2"), "{problems:?}");
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret:?}"), "(secret)");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"(secret)\"");
        assert_eq!(serde_json::from_str::<Secret>("\"hunter2\"").unwrap().expose(), "hunter2");
    }
}
