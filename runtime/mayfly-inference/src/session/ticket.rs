//! One caller's claim on one run: whether it has started, and whether anybody still waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ort::session::RunOptions;
use tokio_util::sync::CancellationToken;

/// A run of the session, which one caller or several wait for.
pub(super) struct Running {
    options: RunOptions,
    /// Callers who have not left.
    wanted: AtomicUsize,
    /// When the time of the last of them is over.
    deadline: Instant,
}

impl Running {
    /// A run for `callers` who have to be answered by `deadline` at the latest. With `shrink` ONNX Runtime gives unused
    /// memory back after it.
    pub(super) fn new(callers: usize, deadline: Instant, shrink: bool) -> ort::Result<Self> {
        let mut options = RunOptions::new()?;
        if shrink {
            options.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
        }
        Ok(Self { options, wanted: AtomicUsize::new(callers), deadline })
    }

    pub(super) fn options(&self) -> &RunOptions {
        &self.options
    }

    /// Asks the graph to stop at its next node.
    pub(super) fn stop(&self) {
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a run could not be asked to stop");
        }
    }

    /// Whether nobody waits for it any more: all have left, or their time is over.
    pub(super) fn is_over(&self) -> bool {
        self.wanted.load(Ordering::Acquire) == 0 || Instant::now() >= self.deadline
    }

    /// One caller less. The last one stops the run.
    fn leave(&self) {
        if self.wanted.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop();
        }
    }
}

/// Shared by the caller and the executor.
pub(crate) struct Ticket {
    phase: Mutex<Phase>,
    deadline: Instant,
    /// Looked at here too: the caller's task may not have been polled since it was cancelled.
    cancel: CancellationToken,
}

enum Phase {
    /// In the queue.
    Waiting,
    /// ONNX Runtime has begun, or is about to: the run is owed.
    Started(Arc<Running>),
    /// The caller left when it had started.
    Gone,
    /// The caller left before that: it will never begin.
    Left,
}

impl Ticket {
    /// A ticket for a run that has to end by `deadline` and does not begin once `cancel` is.
    pub(crate) fn new(deadline: Instant, cancel: CancellationToken) -> Self {
        Self { phase: Mutex::new(Phase::Waiting), deadline, cancel }
    }

    fn phase(&self) -> std::sync::MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Starts it as a part of `running`, unless its caller left, it was cancelled or its time is over; calls `started`
    /// before anybody can see that it did. If it does not start, `running` has one caller less.
    pub(super) fn start(&self, running: &Arc<Running>, started: impl FnOnce()) -> bool {
        let mut phase = self.phase();
        let starts = matches!(*phase, Phase::Waiting) && !self.is_over();
        if starts {
            *phase = Phase::Started(Arc::clone(running));
            started();
        } else {
            drop(phase);
            running.leave();
        }
        starts
    }

    /// Goes on as a part of `running`, of which its caller is the only one: what it shared with others failed. False if
    /// the caller has left.
    pub(super) fn start_again(&self, running: &Arc<Running>) -> bool {
        let mut phase = self.phase();
        let waits = matches!(*phase, Phase::Started(_)) && !self.is_over();
        if waits {
            *phase = Phase::Started(Arc::clone(running));
        }
        waits
    }

    /// The caller stops waiting. A run that has started is asked to stop if nobody else waits for it; one that has not
    /// never will.
    ///
    /// Gives whether it had started; then its `started` callback has returned.
    pub(crate) fn leave(&self) -> bool {
        let mut phase = self.phase();
        match std::mem::replace(&mut *phase, Phase::Left) {
            Phase::Waiting | Phase::Left => false,
            Phase::Started(running) => {
                *phase = Phase::Gone;
                drop(phase);
                running.leave();
                true
            }
            Phase::Gone => {
                *phase = Phase::Gone;
                true
            }
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
        matches!(*self.phase(), Phase::Left) || self.is_over()
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("wanted", &self.wanted)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let phase = match *self.phase() {
            Phase::Waiting => "waiting",
            Phase::Started(_) => "started",
            Phase::Gone => "gone",
            Phase::Left => "left",
        };
        f.debug_struct("Ticket").field("phase", &phase).field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
