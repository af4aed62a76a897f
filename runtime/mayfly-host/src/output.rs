//! The guest's standard output and error: bytes in, lines out to a [`LogSink`], never waiting, never past a limit.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::{LogLine, LogSink, LogStream};

/// Where output goes while no request is answered: there is none then.
#[derive(Debug)]
struct Nowhere;

impl LogSink for Nowhere {
    fn line(&self, _line: LogLine) {}
}

/// Bytes of one line; longer ones are cut into several.
const LINE_BYTES_MAX: usize = 8 << 10;
/// What a guest may write in one step.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// What both streams of one call may still write.
#[derive(Debug)]
pub(crate) struct Allowance {
    limit: u64,
    left: Mutex<u64>,
}

impl Allowance {
    /// `limit` is `log_bytes_max`.
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, left: Mutex::new(limit) })
    }

    /// Takes up to `wanted` bytes; true if this was the request that found the allowance too small first.
    fn take(&self, wanted: usize) -> (usize, bool) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted_bytes = u64::try_from(wanted).unwrap_or(u64::MAX);
        // One more than the limit marks that the note was written.
        if *left == u64::MAX {
            return (0, false);
        }
        if wanted_bytes <= *left {
            *left -= wanted_bytes;
            return (wanted, false);
        }
        let given = usize::try_from(*left).expect("less than `wanted`, which is a usize");
        *left = u64::MAX;
        (given, true)
    }
}

#[derive(Debug)]
struct Lines {
    stream: LogStream,
    sink: Arc<dyn LogSink>,
    allowance: Arc<Allowance>,
    pending: Vec<u8>,
}

impl Lines {
    fn write(&mut self, bytes: &[u8]) {
        let (kept, ran_out) = self.allowance.take(bytes.len());
        for byte in &bytes[..kept] {
            if *byte == b'\n' {
                self.flush();
            } else {
                self.pending.push(*byte);
                if self.pending.len() == LINE_BYTES_MAX {
                    self.flush();
                }
            }
        }
        if ran_out {
            self.end();
            let limit = self.allowance.limit;
            let text = format!("[mayfly] output past log_bytes_max = {limit} bytes was dropped");
            self.sink.line(LogLine { stream: LogStream::Stderr, text });
        }
    }

    /// The last line goes out, also when the guest does not end it.
    fn end(&mut self) {
        if !self.pending.is_empty() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let text = String::from_utf8_lossy(&self.pending).trim_end_matches('\r').to_owned();
        self.pending.clear();
        self.sink.line(LogLine { stream: self.stream, text });
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end();
    }
}

/// One of the two streams. Clones write to the same line.
#[derive(Debug, Clone)]
pub(crate) struct GuestOutput(Arc<Mutex<Lines>>);

impl GuestOutput {
    /// Lines of `stream` go to `sink`; the last one also when the guest does not end it.
    pub(crate) fn new(stream: LogStream, sink: Arc<dyn LogSink>, allowance: Arc<Allowance>) -> Self {
        Self(Arc::new(Mutex::new(Lines { stream, sink, allowance, pending: Vec::new() })))
    }

    /// Leads to nowhere until [`Self::lead_to`] says where.
    pub(crate) fn unconnected(stream: LogStream) -> Self {
        Self::new(stream, Arc::new(Nowhere), Allowance::new(0))
    }

    /// What is written from now on, through all clones, goes to `sink`. The line that was begun goes where it began.
    pub(crate) fn lead_to(&self, sink: Arc<dyn LogSink>, allowance: Arc<Allowance>) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.end();
        (lines.sink, lines.allowance) = (sink, allowance);
    }

    /// Its request is over.
    pub(crate) fn disconnect(&self) {
        self.lead_to(Arc::new(Nowhere), Allowance::new(0));
    }

    fn put(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.put(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.put(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<String>>);

    impl LogSink for Kept {
        fn line(&self, line: LogLine) {
            self.0.lock().expect("no test panics while it holds the lock").push(line.text);
        }
    }

    fn check(limit: u64, writes: &[&str], expect: &[&str]) {
        let sink = Arc::new(Kept::default());
        let output = GuestOutput::new(LogStream::Stdout, Arc::<Kept>::clone(&sink), Allowance::new(limit));
        for text in writes {
            output.put(text.as_bytes());
        }
        drop(output);
        assert_eq!(*sink.0.lock().expect("as above"), expect);
    }

    #[test]
    fn bytes_become_lines() {
        check(100, &["a\nb", "c\r\n\nrest"], &["a", "bc", "", "rest"]);
        check(100, &[], &[]);
    }

    #[test]
    fn the_limit_holds_and_is_said_once() {
        let note = "[mayfly] output past log_bytes_max = 4 bytes was dropped";
        check(4, &["abcdef\n", "more\n", "more\n"], &["abcd", note]);
        check(4, &["abc\n", "more\n"], &["abc", note]);
    }

    #[test]
    fn each_request_has_its_own_lines_and_allowance() {
        let (one, two) = (Arc::new(Kept::default()), Arc::new(Kept::default()));
        let output = GuestOutput::unconnected(LogStream::Stdout);
        let kept_by_the_guest = output.clone();
        kept_by_the_guest.put(b"to nobody\n");
        output.lead_to(Arc::<Kept>::clone(&one), Allowance::new(4));
        kept_by_the_guest.put(b"one");
        output.disconnect();
        kept_by_the_guest.put(b"in between\n");
        output.lead_to(Arc::<Kept>::clone(&two), Allowance::new(4));
        kept_by_the_guest.put(b"two\n");
        assert_eq!(*one.0.lock().expect("as above"), ["one"]);
        assert_eq!(*two.0.lock().expect("as above"), ["two"]);
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (1, 2), "a past one is let go");
    }

    #[test]
    fn long_lines_are_cut() {
        let line = "x".repeat(LINE_BYTES_MAX + 1);
        check(1 << 20, &[&line], &[&line[1..], "x"]);
    }
}
