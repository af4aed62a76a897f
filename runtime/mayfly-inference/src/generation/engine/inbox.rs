//! What reaches an engine's thread from outside, and how it sleeps.
//!
//! Everything here is bounded: submissions by the queue's limit, and each generation is named once however often its
//! reader does something. The thread sleeps on a condition variable and is woken only if it sleeps.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::job::Job;
use crate::generation::stream::{Maker, Shared};

/// The way to an engine's thread.
pub(in crate::generation) struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
    jobs_max: u32,
}

struct State {
    jobs: Vec<Job>,
    /// Generations whose reader did something.
    touched: Vec<Arc<Shared>>,
    asleep: bool,
    /// There are sequences, or will be.
    busy: bool,
    closed: bool,
    /// When the last sequence ended.
    used: Instant,
}

/// What came since the thread looked last.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) jobs: Vec<Job>,
    pub(super) touched: Vec<Arc<Shared>>,
    pub(super) closed: bool,
}

/// A job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// As many wait to be looked at as may.
    Full {
        /// That many.
        limit: u32,
    },
    /// The engine is going away; there may be another.
    Closed,
}

impl Inbox {
    pub(super) fn new(jobs_max: u32) -> Self {
        let state = State {
            jobs: Vec::new(),
            touched: Vec::new(),
            asleep: false,
            busy: false,
            closed: false,
            used: Instant::now(),
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), jobs_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let asleep = std::mem::replace(&mut state.asleep, false);
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
    }

    /// Adds a job; given back if it is not taken.
    pub(super) fn submit(&self, job: Box<Job>) -> Result<(), (Box<Job>, NotTaken)> {
        let mut state = self.lock();
        if state.closed {
            return Err((job, NotTaken::Closed));
        }
        if state.jobs.len() >= self.jobs_max as usize {
            return Err((job, NotTaken::Full { limit: self.jobs_max }));
        }
        state.jobs.push(*job);
        state.busy = true;
        self.wake(state);
        Ok(())
    }

    /// What came, without waiting.
    pub(super) fn take(&self) -> Mail {
        let mut state = self.lock();
        Mail {
            jobs: std::mem::take(&mut state.jobs),
            touched: std::mem::take(&mut state.touched),
            closed: state.closed,
        }
    }

    /// Sleeps until something comes or `until`. `busy`: there are sequences. False if the time is over.
    pub(super) fn sleep(&self, until: Option<Instant>, busy: bool) -> bool {
        let mut state = self.lock();
        if state.busy && !busy && state.jobs.is_empty() {
            state.busy = false;
            state.used = Instant::now();
        }
        let quiet = |state: &mut State| state.jobs.is_empty() && state.touched.is_empty() && !state.closed;
        let began = Instant::now();
        loop {
            if !quiet(&mut state) {
                state.asleep = false;
                return true;
            }
            state.asleep = true;
            state = match until.map(|until| until.saturating_duration_since(began.max(Instant::now()))) {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    state.asleep = false;
                    return false;
                }
                Some(time) => self.wake.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// Takes no more jobs; the thread ends what it has and goes.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(state);
    }

    /// Closes it if it has been without sequences for `least`, and tells whether it did.
    pub(super) fn close_if_idle(&self, least: Duration) -> bool {
        let mut state = self.lock();
        let idle = !state.closed && !state.busy && state.used.elapsed() >= least;
        if idle {
            state.closed = true;
            self.wake(state);
        }
        idle
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Since the last sequence ended; none while there are any.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.lock();
        (!state.busy).then(|| state.used.elapsed())
    }
}

impl Maker for Inbox {
    fn touch(&self, shared: &Arc<Shared>) {
        let mut state = self.lock();
        if !state.closed && !state.touched.iter().any(|other| Arc::ptr_eq(other, shared)) {
            state.touched.push(Arc::clone(shared));
        }
        self.wake(state);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("jobs_max", &self.jobs_max).finish_non_exhaustive()
    }
}
