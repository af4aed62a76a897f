//! Guest output, line by line, on its way to the deployment's log.

use std::fmt;

/// Which stream the guest wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line (without its line end; control characters as the guest wrote them: whoever shows it strips them).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it came from.
    pub stream: LogStream,
    /// The text, lossily decoded, at most 8 KiB.
    pub text: String,
}

/// Takes lines. Called from the guest's task: must not block; a full sink drops and counts.
pub trait LogSink: Send + Sync + fmt::Debug {
    /// One more line.
    fn line(&self, line: LogLine);
}
