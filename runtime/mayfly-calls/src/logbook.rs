//! The last lines each deployment wrote, in bounded memory.

use std::sync::Arc;

use mayfly_types::{DeploymentId, RequestId};
use tokio::sync::broadcast;

/// One kept line.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct LogEntry {
    /// Microseconds since the Unix epoch.
    pub at: i64,
    pub request: RequestId,
    /// `stdout`, `stderr`, or `host` for what the host has to say about the handler.
    pub stream: &'static str,
    pub text: Arc<str>,
}

/// Lines of all deployments. Clones share them.
#[derive(Debug, Clone)]
pub struct LogBook(Arc<()>);

impl LogBook {
    /// The last `limit` lines, oldest first.
    pub fn tail(&self, _deployment: DeploymentId, _limit: usize) -> Vec<LogEntry> {
        todo!()
    }

    /// Lines from now on. A reader too slow to follow loses lines and is told how many.
    pub fn follow(&self, _deployment: DeploymentId) -> broadcast::Receiver<LogEntry> {
        todo!()
    }
}
