//! Calling deployments, and what calls used.

use bytes::Bytes;
use mayfly_api::{CallDetail, Timestamp, Usage};
use reqwest::{Method, Response};

use crate::{Client, Error};

/// A call to make.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The HTTP method.
    pub method: String,
    /// Below the deployment's URL; may begin with `/` and may have a query.
    pub path: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body; empty sends none.
    pub body: Bytes,
}

/// Which calls to sum. Empty means all within the key's reach.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the control plane's own names; see its OpenAPI document")]
pub struct UsageQuery {
    pub group_by: Vec<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub tenant: Option<String>,
    pub project: Option<String>,
    pub deployment: Option<String>,
    pub key: Option<String>,
    pub model: Option<String>,
    pub end_user: Option<String>,
}

impl UsageQuery {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = Vec::new();
        if !self.group_by.is_empty() {
            pairs.push(("group_by", self.group_by.join(",")));
        }
        let times = [("since", self.since), ("until", self.until)];
        pairs.extend(times.into_iter().filter_map(|(key, time)| Some((key, time?.to_string()))));
        for (key, value) in [
            ("tenant", &self.tenant),
            ("project", &self.project),
            ("deployment", &self.deployment),
            ("key", &self.key),
            ("model", &self.model),
            ("end_user", &self.end_user),
        ] {
            pairs.extend(value.clone().map(|value| (key, value)));
        }
        pairs
    }
}

impl Client {
    /// Calls the deployment at `url` (as shown by [`Client::deployment`]) with this client's key. The answer is as it
    /// came, whatever its status; its body is read by whoever wants it.
    ///
    /// # Errors
    /// [`Error::Connection`] or [`Error::Address`].
    pub async fn invoke(&self, url: &str, call: Invocation) -> Result<Response, Error> {
        let method = Method::from_bytes(call.method.as_bytes())
            .map_err(|_| Error::Answer(format!("`{}` is not an HTTP method", call.method)))?;
        let url = format!("{}/{}", url.trim_end_matches('/'), call.path.trim_start_matches('/'));
        let mut request = self.request_url(method, &url)?;
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if !call.body.is_empty() {
            request = request.body(call.body);
        }
        self.send_any(request).await
    }

    /// One call: how it ended and what it used.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn call(&self, id: &str) -> Result<CallDetail, Error> {
        self.get(&["api", "v1", "requests", id]).await
    }

    /// Sums of usage.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn usage(&self, query: &UsageQuery) -> Result<Usage, Error> {
        self.json(self.request(Method::GET, &["api", "v1", "usage"]).query(&query.pairs())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_usage() {
        let query = UsageQuery {
            group_by: vec!["day".to_owned(), "model".to_owned()],
            since: Some(Timestamp::from_micros(0)),
            project: Some("p".to_owned()),
            end_user: Some("ada@example.com".to_owned()),
            ..UsageQuery::default()
        };
        let expect = [
            ("group_by", "day,model"),
            ("since", "1970-01-01T00:00:00Z"),
            ("project", "p"),
            ("end_user", "ada@example.com"),
        ];
        assert_eq!(query.pairs(), expect.map(|(key, value)| (key, value.to_owned())));
    }
}
