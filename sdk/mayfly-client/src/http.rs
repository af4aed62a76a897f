//! One request and its answer.

use std::time::Duration;

use mayfly_api::{Page, headers};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// Entries asked for at once.
const PAGE_LIMIT: u32 = 500;
/// Bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// A client of one server with one key. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// `base`: the admin listener's address. `key`: a key with the scope `deploy` or `admin`; empty sends none.
    ///
    /// # Errors
    /// [`Error::Address`] or [`Error::Key`].
    pub fn new(base: &str, key: &str) -> Result<Self, Error> {
        let wrong = || Error::Address(base.to_owned());
        let mut url = Url::parse(base).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(wrong());
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        let mut fixed = HeaderMap::new();
        if !key.is_empty() {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| Error::Key)?;
            value.set_sensitive(true);
            fixed.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(fixed)
            .connect_timeout(CONNECT_WAIT)
            // A key must not follow a redirect to another server.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("mayfly-client/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| Error::Connection { address: base.to_owned(), source })?;
        Ok(Self { http, base: url })
    }

    /// Where it connects to.
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// A request below the base. Each of `path` becomes one escaped segment.
    pub(crate) fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        self.http.request(method, url)
    }

    /// A request to anywhere, with the key.
    pub(crate) fn request_url(&self, method: Method, url: &str) -> Result<RequestBuilder, Error> {
        let url = Url::parse(url).map_err(|_| Error::Address(url.to_owned()))?;
        Ok(self.http.request(method, url))
    }

    /// The answer, whatever its status.
    pub(crate) async fn send_any(&self, request: RequestBuilder) -> Result<Response, Error> {
        let sent = request.send().await;
        sent.map_err(|source| Error::Connection { address: self.address().to_owned(), source })
    }

    /// The answer, if the server did not say no.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let mut response = self.send_any(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let id = response.headers().get(headers::REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        while let Ok(Some(piece)) = response.chunk().await {
            let room = ERROR_BYTES_MAX - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if body.len() == ERROR_BYTES_MAX {
                break;
            }
        }
        Err(Error::refused(status.as_u16(), id, &body))
    }

    /// The JSON of an answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let response = self.send(request).await?;
        let bytes = response.bytes().await;
        let bytes = bytes.map_err(|source| Error::Connection { address: self.address().to_owned(), source })?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Answer(error.to_string()))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Error> {
        self.json(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Error> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Error> {
        self.json(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &[&str]) -> Result<(), Error> {
        self.send(self.request(Method::DELETE, path)).await.map(drop)
    }

    /// A list, to its end.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut request = self.request(Method::GET, path).query(&[("limit", PAGE_LIMIT)]);
            if let Some(after) = &after {
                request = request.query(&[("after", after)]);
            }
            let page: Page<T> = self.json(request).await?;
            all.extend(page.data);
            match page.next {
                // The same place twice would never end.
                Some(next) if after.as_ref() != Some(&next) => after = Some(next),
                Some(_) => return Err(Error::Answer("a list repeats its page".to_owned())),
                None => return Ok(all),
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let client = Client::new("http://h:1/base", "mf_x").unwrap();
        let request = client.request(Method::GET, &["api", "v1", "a b/c"]).build().unwrap();
        assert_eq!(request.url().as_str(), "http://h:1/base/api/v1/a%20b%2Fc");
        assert_eq!(client.address(), "http://h:1/base");
        assert!(matches!(Client::new("h:1", "k"), Err(Error::Address(_))));
        assert!(matches!(Client::new("ftp://h", "k"), Err(Error::Address(_))));
        assert!(matches!(Client::new("http://h", "k\n"), Err(Error::Key)));
    }
}
