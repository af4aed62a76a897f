//! The response: known bytes, JSON, or a stream that is written after the head has left.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::Error;
use crate::bindings::wasi::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};
use crate::bindings::wasi::io::streams::{OutputStream, StreamError};

type Writer = Box<dyn FnOnce(&mut BodyWriter) -> Result<(), Error>>;

/// One HTTP response. Starts with status 200 unless set.
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Payload,
}

enum Payload {
    Bytes(Vec<u8>),
    Stream(Writer),
}

impl Response {
    /// A response with these bytes; set the content type with [`Response::header`].
    pub fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, headers: Vec::new(), body: Payload::Bytes(body.into()) }
    }

    /// A response of plain text.
    pub fn text(body: impl Into<String>) -> Self {
        Self::bytes(body.into().into_bytes()).header("content-type", "text/plain; charset=utf-8")
    }

    /// A response of JSON.
    ///
    /// # Errors
    /// A 500 if `value` cannot be written as JSON (a map with keys that are not strings, for example).
    pub fn json(value: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        let body =
            serde_json::to_vec(value).map_err(|error| Error::internal(format!("the answer is no JSON: {error}")))?;
        Ok(Self::bytes(body).header("content-type", "application/json"))
    }

    /// A response without a body: 204.
    pub fn empty() -> Self {
        Self::bytes(Vec::new()).status(204)
    }

    /// A response whose body `write` makes once the head is on its way. What is flushed reaches the caller at once. If
    /// `write` fails, the caller's connection breaks off, so that half an answer never passes for a whole one; the
    /// error goes to the log.
    ///
    /// ```no_run
    /// use mayfly_sdk::Response;
    /// use std::io::Write;
    ///
    /// let response = Response::stream(|body| {
    ///     for n in 0..3 {
    ///         writeln!(body, "data: {n}\n")?;
    ///         body.flush()?;
    ///     }
    ///     Ok(())
    /// })
    /// .header("content-type", "text/event-stream");
    /// ```
    pub fn stream(write: impl FnOnce(&mut BodyWriter) -> Result<(), Error> + 'static) -> Self {
        Self { status: 200, headers: Vec::new(), body: Payload::Stream(Box::new(write)) }
    }

    /// Sets the status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Sets a header, in place of one of the same name. The host drops headers that are its own to set: those about
    /// framing, `x-mayfly-*`, `x-request-id`, rate limits and timing.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref().to_ascii_lowercase();
        self.headers.retain(|(key, _)| *key != name);
        self.headers.push((name, value.as_ref().to_vec()));
        self
    }

    /// Sends the response and, for a stream, writes its body. `with_body` is false for a HEAD request.
    pub(crate) fn send(self, answer: ResponseOutparam, with_body: bool) {
        let Self { status, mut headers, body } = self;
        if let (Payload::Bytes(bytes), true) = (&body, with_body)
            && status != 204
            && status != 304
        {
            headers.retain(|(name, _)| name != "content-length");
            headers.push(("content-length".to_owned(), bytes.len().to_string().into_bytes()));
        }
        let Some(response) = head(status, &headers) else {
            return Error::internal(format!("the handler's status {status} or one of its headers cannot be sent"))
                .into_response()
                .send(answer, with_body);
        };
        let Ok(outgoing) = response.body() else { unreachable!("the body of a new response is there once") };
        ResponseOutparam::set(answer, Ok(response));
        let mut writer = match outgoing.write() {
            Ok(stream) => BodyWriter::new(stream),
            Err(()) => return,
        };
        let written = match body {
            _ if !with_body => Ok(()),
            Payload::Bytes(bytes) => writer.write_all(&bytes).map_err(Error::from),
            Payload::Stream(write) => write(&mut writer),
        };
        let written = written.and_then(|()| writer.drain().map_err(Error::from));
        match written {
            Ok(()) => {
                // A stream must go before the body it writes to.
                drop(writer);
                if let Err(error) = OutgoingBody::finish(outgoing, None) {
                    eprintln!("the response's body could not be finished: {error:?}");
                }
            }
            Err(error) => eprintln!("the response broke off: {error}"),
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Error {
    /// The answer that the caller gets for this error.
    pub fn into_response(self) -> Response {
        Response::bytes(self.envelope().to_string()).status(self.status()).header("content-type", "application/json")
    }
}

/// The head, none if the host would not take it.
fn head(status: u16, headers: &[(String, Vec<u8>)]) -> Option<OutgoingResponse> {
    let response = OutgoingResponse::new(Fields::from_list(headers).ok()?);
    response.set_status_code(status).ok()?;
    Some(response)
}

/// Where the body of a [`Response::stream`] is written to. Use it through [`std::io::Write`].
pub struct BodyWriter {
    stream: OutputStream,
    /// Written and not handed to the host yet: many small writes become one.
    pending: Vec<u8>,
}

/// Bytes that are held back at most until the next flush.
const PENDING_BYTES_MAX: usize = 16 * 1024;

impl BodyWriter {
    fn new(stream: OutputStream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Hands what is pending to the host.
    fn drain(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.hand_over(&pending)
    }

    fn hand_over(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // Each answer is good for one write, however small.
            let room = self.stream.check_write().map_err(gone)?;
            if room == 0 {
                self.stream.subscribe().block();
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.stream.write(now).map_err(gone)?;
            bytes = later;
        }
        Ok(())
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.len() + bytes.len() < PENDING_BYTES_MAX {
            self.pending.extend_from_slice(bytes);
        } else {
            self.drain()?;
            self.hand_over(bytes)?;
        }
        Ok(bytes.len())
    }

    /// Hands everything written so far to the caller.
    fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        self.stream.blocking_flush().map_err(gone)
    }
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWriter").finish_non_exhaustive()
    }
}

fn gone(_: StreamError) -> io::Error {
    // 499 is what servers log for a caller that left; nobody is there to read it.
    Error::new(499, "caller_gone", "the caller left, or the call is over").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_set_once() {
        let response = Response::text("x").header("Content-Type", "text/html");
        assert_eq!(response.headers, [("content-type".to_owned(), b"text/html".to_vec())]);
    }

    #[test]
    fn an_error_is_json() {
        let response = Error::not_found("nothing here").into_response();
        assert_eq!(response.status, 404);
        let Payload::Bytes(body) = response.body else { panic!("an error is not a stream") };
        assert!(body.starts_with(br#"{"error":{"#));
    }
}
