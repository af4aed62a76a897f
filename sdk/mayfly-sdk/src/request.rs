//! The request: its head, and its body as a bounded reader.

use std::cell::OnceCell;
use std::fmt;
use std::io::{self, Read};

use serde::de::DeserializeOwned;

use crate::Error;
use crate::bindings::wasi::http::types::{ErrorCode, IncomingBody, IncomingRequest, Method, http_error_code};
use crate::bindings::wasi::io::streams::{InputStream, StreamError};

/// Bytes of a body that are read unless [`Request::body_limit`] says otherwise.
const BODY_BYTES_MAX: u64 = 16 << 20;
/// Bytes asked of the host at once.
const READ_BYTES: u64 = 64 << 10;
/// Bytes reserved at once on the word of a header.
const RESERVE_BYTES_MAX: u64 = 1 << 20;

/// One HTTP request.
pub struct Request {
    incoming: IncomingRequest,
    method: String,
    /// Path and query as they came.
    target: String,
    headers: OnceCell<Vec<(String, Vec<u8>)>>,
    body_bytes_max: u64,
}

impl Request {
    pub(crate) fn new(incoming: IncomingRequest) -> Self {
        let method = match incoming.method() {
            Method::Get => "GET".to_owned(),
            Method::Head => "HEAD".to_owned(),
            Method::Post => "POST".to_owned(),
            Method::Put => "PUT".to_owned(),
            Method::Delete => "DELETE".to_owned(),
            Method::Connect => "CONNECT".to_owned(),
            Method::Options => "OPTIONS".to_owned(),
            Method::Trace => "TRACE".to_owned(),
            Method::Patch => "PATCH".to_owned(),
            Method::Other(other) => other,
        };
        let target = incoming.path_with_query().unwrap_or_else(|| "/".to_owned());
        Self { incoming, method, target, headers: OnceCell::new(), body_bytes_max: BODY_BYTES_MAX }
    }

    /// The method in capital letters, such as `POST`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path, beginning with `/`, as it came (percent signs are not decoded). Match on it to route.
    pub fn path(&self) -> &str {
        match split_target(&self.target).0 {
            "" => "/",
            path => path,
        }
    }

    /// The query without its `?`, as it came; empty if there is none.
    pub fn query(&self) -> &str {
        split_target(&self.target).1
    }

    /// The first value of `name` in the query, decoded.
    pub fn query_value(&self, name: &str) -> Option<String> {
        query_value(self.query(), name)
    }

    /// The first header of this name, whatever its case, if its value is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields()
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// All headers in their order; a name may stand there more than once. Credentials and the host's own headers have
    /// been taken out.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields().iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    fn fields(&self) -> &[(String, Vec<u8>)] {
        self.headers.get_or_init(|| self.incoming.headers().entries())
    }

    /// Sets how many bytes of the body may be read (16 MiB unless set). The deployment's own limit holds as well.
    #[must_use]
    pub fn body_limit(mut self, bytes_max: u64) -> Self {
        self.body_bytes_max = bytes_max;
        self
    }

    /// The body as a reader: nothing is read before it is asked for. Works once.
    ///
    /// # Errors
    /// A 413 if the request says that its body is over the limit, a 500 if the body was taken before.
    pub fn body(&self) -> Result<Body, Error> {
        let announced = self.header("content-length").and_then(|value| value.parse::<u64>().ok());
        if announced.is_some_and(|bytes| bytes > self.body_bytes_max) {
            return Err(over(self.body_bytes_max));
        }
        let taken = || Error::internal("the handler took the request's body twice");
        let body = self.incoming.consume().map_err(|()| taken())?;
        let stream = body.stream().map_err(|()| taken())?;
        Ok(Body {
            stream,
            _body: body,
            buffer: Vec::new(),
            taken: 0,
            left: self.body_bytes_max,
            bytes_max: self.body_bytes_max,
            announced,
        })
    }

    /// The whole body.
    ///
    /// # Errors
    /// As [`Request::body`], and a 413 if it grows over the limit or a 400 if it breaks off.
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        self.body()?.bytes()
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// As [`Request::bytes`], and a 400 if it is not UTF-8.
    pub fn text(&self) -> Result<String, Error> {
        String::from_utf8(self.bytes()?).map_err(|_| Error::invalid("the body is not UTF-8 text"))
    }

    /// The whole body, read as JSON.
    ///
    /// # Errors
    /// As [`Request::bytes`], and a 400 that says where the JSON is not as expected.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(serde_json::from_slice(&self.bytes()?)?)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("target", &self.target).finish_non_exhaustive()
    }
}

/// The body of a [`Request`]: a reader that gives up past its limit.
pub struct Body {
    // Before the body: a stream must go before what it came from.
    stream: InputStream,
    _body: IncomingBody,
    buffer: Vec<u8>,
    taken: usize,
    left: u64,
    bytes_max: u64,
    announced: Option<u64>,
}

impl Body {
    /// The next piece as it arrives, none at the end.
    ///
    /// # Errors
    /// A 413 past the limit, a 400 if the body breaks off.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.taken < self.buffer.len() {
            let rest = self.buffer.split_off(self.taken);
            self.buffer.clear();
            self.taken = 0;
            return Ok(Some(rest));
        }
        loop {
            match self.stream.blocking_read(READ_BYTES) {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    self.left = self.left.checked_sub(chunk.len() as u64).ok_or_else(|| over(self.bytes_max))?;
                    return Ok(Some(chunk));
                }
                Err(StreamError::Closed) => return Ok(None),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(match http_error_code(&error) {
                        Some(ErrorCode::HttpRequestBodySize(Some(bytes))) => over(bytes),
                        Some(ErrorCode::HttpRequestBodySize(None)) => {
                            Error::too_large("the body is larger than this deployment takes")
                        }
                        _ => Error::new(400, "body_incomplete", "the request's body broke off"),
                    });
                }
            }
        }
    }

    /// Everything that is left.
    ///
    /// # Errors
    /// As [`Body::next_chunk`].
    pub fn bytes(mut self) -> Result<Vec<u8>, Error> {
        let Some(mut bytes) = self.next_chunk()? else { return Ok(Vec::new()) };
        while let Some(chunk) = self.next_chunk()? {
            if bytes.capacity() < bytes.len() + chunk.len() {
                // Trusted only up to a bound: a header may say anything.
                let expected = self.announced.unwrap_or(0).min(RESERVE_BYTES_MAX);
                bytes.reserve(usize::try_from(expected).unwrap_or(0).saturating_sub(bytes.len()).max(chunk.len()));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.taken == self.buffer.len() {
            match self.next_chunk()? {
                Some(chunk) => (self.buffer, self.taken) = (chunk, 0),
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.buffer.len() - self.taken);
        buffer[..count].copy_from_slice(&self.buffer[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("bytes_left", &self.left).finish_non_exhaustive()
    }
}

fn over(bytes_max: u64) -> Error {
    Error::too_large(format!("the body is larger than the {bytes_max} bytes that are taken here; send less"))
}

/// Path and query of a request target.
fn split_target(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// The first value of `name` in `query`, with `%XX` and `+` decoded.
fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (!pair.is_empty() && decoded(key) == name).then(|| decoded(value))
    })
}

/// `text` with `%XX` and `+` decoded; what is not a valid escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digit = |at: usize| {
                    after.get(at).and_then(|&d| char::from(d).to_digit(16)).and_then(|d| u8::try_from(d).ok())
                };
                if let (Some(high), Some(low)) = (digit(0), digit(1)) {
                    bytes.push(high << 4 | low);
                    rest = &after[2..];
                } else {
                    bytes.push(b'%');
                }
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_split_at_the_first_question_mark() {
        assert_eq!(split_target("/a/b?x=1?y"), ("/a/b", "x=1?y"));
        assert_eq!(split_target("/a"), ("/a", ""));
    }

    #[test]
    fn query_values_are_decoded() {
        let check =
            |query, name, expect: Option<&str>| assert_eq!(query_value(query, name).as_deref(), expect, "{query}");
        check("top=3&x=a%20b+c", "x", Some("a b c"));
        check("top=3", "top", Some("3"));
        check("top", "top", Some(""));
        check("a=1&a=2", "a", Some("1"));
        check("", "", None);
        check("x=%", "x", Some("%"));
        check("x=%4", "x", Some("%4"));
        check("x=%zz", "x", Some("%zz"));
        check("x=%ff", "x", Some("\u{fffd}"));
        check("%74op=1", "top", Some("1"));
    }
}
