//! The bounded queue of one executor, and the right to work on its session.
//!
//! That right is one flag under the queue's lock: who takes a job sets it and works alone until it is cleared. So runs
//! on one session never overlap, and "idle" has one meaning.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::run::{Done, Request};
use super::ticket::Ticket;
use crate::RunError;

/// One run to do.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) ticket: Arc<Ticket>,
    pub(super) started: Box<dyn FnOnce() + Send>,
    pub(super) reply: oneshot::Sender<Result<Done, RunError>>,
    pub(super) queued: Instant,
}

/// A job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many runs wait as may.
    Full,
    /// The executor is going away; there may be another.
    Closed,
}

pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    runs_max: usize,
}

struct State {
    jobs: VecDeque<Job>,
    /// Somebody works on the session.
    working: bool,
    closed: bool,
    /// When the last run ended.
    used: Instant,
}

impl Queue {
    pub(super) fn new(runs_max: u32) -> Self {
        let state = State { jobs: VecDeque::new(), working: false, closed: false, used: Instant::now() };
        Self { state: Mutex::new(state), wake: Condvar::new(), runs_max: runs_max as usize }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job. What has died in the queue makes room first.
    pub(super) fn push(&self, job: Job) -> Result<(), (Job, Refused)> {
        let mut dead = VecDeque::new();
        let mut state = self.lock();
        if state.closed {
            return Err((job, Refused::Closed));
        }
        if state.jobs.len() >= self.runs_max {
            let (gone, live): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut state.jobs).into_iter().partition(|job| job.ticket.is_dead());
            (dead, state.jobs) = (gone, live);
            if state.jobs.len() >= self.runs_max {
                return Err((job, Refused::Full));
            }
        }
        state.jobs.push_back(job);
        drop(state);
        self.wake.notify_one();
        drop(dead);
        Ok(())
    }

    /// Waits for a job and takes the right to work with it; none once the queue is closed and nobody works.
    pub(super) fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if !state.working {
                if state.closed {
                    return None;
                }
                if let Some(job) = state.jobs.pop_front() {
                    state.working = true;
                    return Some(job);
                }
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the right to work back.
    pub(super) fn done(&self) {
        let mut state = self.lock();
        state.working = false;
        state.used = Instant::now();
        let wanted = state.closed || !state.jobs.is_empty();
        drop(state);
        if wanted {
            self.wake.notify_one();
        }
    }

    /// Takes the job of `ticket` out, if it still waits: its inputs need not wait for its turn. Tells whether it did.
    pub(super) fn forget(&self, ticket: &Arc<Ticket>) -> bool {
        let mut state = self.lock();
        let place = state.jobs.iter().position(|job| Arc::ptr_eq(&job.ticket, ticket));
        let job = place.and_then(|place| state.jobs.remove(place));
        drop(state);
        job.is_some()
    }

    /// Takes no more jobs, and drops those that wait: their callers see that the executor is gone.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.wake.notify_one();
        drop(jobs);
    }

    /// Takes no more jobs, and gives those that wait to `to`, in their order and before any other of `to`. What was idle
    /// here is idle for as long there. False, and nothing happens, if it is closed.
    pub(super) fn hand_over(&self, to: &Self) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.closed = true;
        let (jobs, used) = (std::mem::take(&mut state.jobs), state.used);
        drop(state);
        self.wake.notify_one();
        let mut state = to.lock();
        let newer = std::mem::replace(&mut state.jobs, jobs);
        state.jobs.extend(newer);
        state.used = used;
        drop(state);
        to.wake.notify_one();
        true
    }

    /// Closes the queue if there has been no work for `least`, and tells whether it did.
    pub(super) fn close_if_idle(&self, least: Duration) -> bool {
        let mut state = self.lock();
        let idle = !state.closed && !state.working && state.jobs.is_empty() && state.used.elapsed() >= least;
        state.closed |= idle;
        drop(state);
        if idle {
            self.wake.notify_one();
        }
        idle
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Since the last run ended; none while there is work.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.lock();
        (!state.working && state.jobs.is_empty()).then(|| state.used.elapsed())
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("runs_max", &self.runs_max).finish_non_exhaustive()
    }
}
