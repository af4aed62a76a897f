//! Whether anything runs on a connection, and since when nothing does.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use mayfly_calls::Body;
use tokio::time::Instant;

use crate::limits::BoxError;

/// The requests of one connection. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    opened: Instant,
    running: AtomicUsize,
    used: AtomicBool,
    /// Milliseconds after `opened` at which the last request ended.
    quiet_since: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        let inner = Inner {
            opened: Instant::now(),
            running: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            quiet_since: AtomicU64::new(0),
        };
        Self(Arc::new(inner))
    }

    /// A request has begun; it runs until the guard goes.
    pub(super) fn begin(&self) -> Running {
        self.0.used.store(true, Ordering::Relaxed);
        self.0.running.fetch_add(1, Ordering::AcqRel);
        Running(Arc::clone(&self.0))
    }

    pub(super) fn was_used(&self) -> bool {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Resolves when nothing has run for `wait`.
    pub(super) async fn unused_for(&self, wait: Duration) {
        loop {
            let quiet = self.0.opened + Duration::from_millis(self.0.quiet_since.load(Ordering::Acquire));
            let due = if self.0.running.load(Ordering::Acquire) > 0 { Instant::now() + wait } else { quiet + wait };
            if due <= Instant::now() {
                // Whoever asks again gets the next full wait.
                self.0.touch();
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

impl Inner {
    fn touch(&self) {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.quiet_since.store(millis, Ordering::Release);
    }
}

/// A request that runs.
#[derive(Debug)]
pub(super) struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.touch();
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body; its request runs until it is gone.
#[derive(Debug)]
pub(super) struct Counted {
    body: Body,
    _running: Running,
}

impl Counted {
    pub(super) fn new(body: Body, running: Running) -> Self {
        Self { body, _running: running }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        http_body::Body::poll_frame(Pin::new(&mut self.body), cx)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.body)
    }
}
