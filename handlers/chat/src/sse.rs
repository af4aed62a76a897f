//! Answers that stream as server-sent events.

use std::io::Write;

use mayfly_sdk::generation::{Chunk, Usage};
use mayfly_sdk::{Error, Response};
use serde::Serialize;

use crate::source::Source;

/// An answer that is written as its text comes.
pub(crate) trait Streamed {
    /// Writes what comes before any text.
    fn begin(&mut self, out: &mut dyn Write) -> Result<(), Error>;

    /// Writes what the next chunk of the prompt at the place `prompt` brings.
    fn chunk(&mut self, prompt: usize, chunk: Chunk, out: &mut dyn Write) -> Result<(), Error>;

    /// Writes what comes after the last chunk.
    fn end(&mut self, usage: Usage, out: &mut dyn Write) -> Result<(), Error>;

    /// Writes that there will be no more; the stream is over then, so that no client takes it for a whole answer.
    fn fail(&mut self, error: &Error, out: &mut dyn Write) -> Result<(), Error> {
        data(out, &error.envelope())
    }
}

/// The response that writes `answer` from the chunks of `source`.
pub(crate) fn response(mut source: impl Source + 'static, mut answer: impl Streamed + 'static) -> Response {
    Response::stream(move |body| write(&mut source, &mut answer, body))
        .header("content-type", "text/event-stream; charset=utf-8")
        .header("cache-control", "no-store")
}

/// # Errors
/// Only if nothing more can be written, as when the caller has left.
pub(crate) fn write(source: &mut impl Source, answer: &mut impl Streamed, out: &mut dyn Write) -> Result<(), Error> {
    answer.begin(out)?;
    loop {
        match source.next() {
            Ok(Some((prompt, chunk))) => answer.chunk(prompt, chunk, out)?,
            Ok(None) => break answer.end(source.usage(), out)?,
            Err(error) => {
                eprintln!("the stream broke off: {error}");
                break answer.fail(&error, out)?;
            }
        }
        out.flush()?;
    }
    Ok(out.flush()?)
}

/// Writes one event.
pub(crate) fn data(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Error> {
    out.write_all(b"data: ")?;
    serde_json::to_writer(&mut *out, value).map_err(std::io::Error::from)?;
    Ok(out.write_all(b"\n\n")?)
}

/// Writes one event with a type.
pub(crate) fn event(out: &mut dyn Write, kind: &str, value: &impl Serialize) -> Result<(), Error> {
    out.write_all(format!("event: {kind}\n").as_bytes())?;
    data(out, value)
}

/// Writes the event after which nothing comes.
pub(crate) fn done(out: &mut dyn Write) -> Result<(), Error> {
    Ok(out.write_all(b"data: [DONE]\n\n")?)
}
