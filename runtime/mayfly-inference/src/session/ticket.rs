//! One caller's claim on one run: whether it has started, and whether anybody still waits for it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ort::session::RunOptions;
use tokio_util::sync::CancellationToken;

/// Shared by the caller and the executor.
pub(crate) struct Ticket {
    phase: Mutex<Phase>,
    options: RunOptions,
    deadline: Instant,
    /// Looked at here too: the caller's task may not have been polled since it was cancelled.
    cancel: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In the queue.
    Waiting,
    /// ONNX Runtime has begun, or is about to: the run is owed.
    Started,
    /// The caller left before that: it will never begin.
    Left,
}

impl Ticket {
    /// A ticket for a run that has to end by `deadline` and does not begin once `cancel` is. With `shrink` ONNX Runtime gives unused memory back after it.
    pub(crate) fn new(deadline: Instant, cancel: CancellationToken, shrink: bool) -> ort::Result<Self> {
        let mut options = RunOptions::new()?;
        if shrink {
            options.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
        }
        Ok(Self { phase: Mutex::new(Phase::Waiting), options, deadline, cancel })
    }

    pub(super) fn options(&self) -> &RunOptions {
        &self.options
    }

    /// Starts the run unless its caller left, it was cancelled or its time is over; calls `started` before anybody can see that it did.
    pub(super) fn start(&self, started: impl FnOnce()) -> bool {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase != Phase::Waiting || self.is_over() {
            return false;
        }
        *phase = Phase::Started;
        started();
        true
    }

    /// The caller stops waiting. A run that has started is asked to stop; one that has not never will.
    ///
    /// Gives whether it had started; then its `started` callback has returned.
    pub(crate) fn leave(&self) -> bool {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Started {
            self.stop();
            return true;
        }
        *phase = Phase::Left;
        false
    }

    /// Asks a running graph to stop at its next node.
    pub(crate) fn stop(&self) {
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a run could not be asked to stop");
        }
    }

    pub(crate) fn is_overdue(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Cancelled or out of time: it does not begin any more.
    fn is_over(&self) -> bool {
        self.cancel.is_cancelled() || self.is_overdue()
    }

    /// Nobody wants it any more, and it has not started.
    pub(super) fn is_dead(&self) -> bool {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) == Phase::Left || self.is_over()
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("phase", &self.phase).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
