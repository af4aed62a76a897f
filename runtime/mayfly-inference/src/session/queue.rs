//! The bounded queue of one executor, and the right to work on its session.
//!
//! That right is one flag under the queue's lock: who takes jobs sets it and works alone until it is cleared. So runs
//! on one session never overlap, and "idle" has one meaning. Which jobs go together is decided in
//! [`mayfly_scheduler::batching`].

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mayfly_scheduler::batching::{Batcher, Owner, Pushed, Settings, Take, Waiting};
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

impl Job {
    /// It will not begin.
    fn dismiss(self) {
        // As a rule nobody is there to hear it.
        let _ = self.reply.send(Err(RunError::Stopped { started: false }));
    }
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
    settings: Settings,
    /// Times of the batcher count from here.
    epoch: Instant,
}

struct State {
    jobs: Batcher<Job>,
    /// Somebody works on the session.
    working: bool,
    closed: bool,
    /// When the last run ended.
    used: Instant,
}

impl Queue {
    pub(super) fn new(settings: Settings) -> Self {
        let epoch = Instant::now();
        let state = State { jobs: Batcher::new(settings), working: false, closed: false, used: epoch };
        Self { state: Mutex::new(state), wake: Condvar::new(), settings, epoch }
    }

    pub(super) fn runs_max(&self) -> usize {
        self.settings.runs_max
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self, owner: Owner, job: Job) -> Waiting<Job> {
        let shape = job.request.joint.as_ref().map(|joint| joint.shape.clone());
        Waiting { owner, arrived: job.queued.duration_since(self.epoch), cost: job.request.cost(), shape, job }
    }

    /// Adds a job of `owner`. What has died in the queue makes room first, then the newest job of whoever has most: that
    /// one is given out.
    pub(super) fn push(&self, owner: Owner, job: Job) -> Result<Option<Job>, Box<(Job, Refused)>> {
        let job = self.waiting(owner, job);
        let mut dead = Vec::new();
        let mut state = self.lock();
        if state.closed {
            return Err(Box::new((job.job, Refused::Closed)));
        }
        if state.jobs.is_full() {
            dead = state.jobs.remove(|job| job.ticket.is_dead());
        }
        let pushed = state.jobs.push(job);
        drop(state);
        dead.into_iter().for_each(Job::dismiss);
        let displaced = match pushed {
            Pushed::Full(job) => return Err(Box::new((job, Refused::Full))),
            Pushed::Waits => None,
            Pushed::InsteadOf(other) => Some(other),
        };
        self.wake.notify_one();
        Ok(displaced)
    }

    /// Waits for jobs that can run together and takes the right to work with them; none once the queue is closed and
    /// nobody works.
    pub(super) fn next(&self) -> Option<Vec<Job>> {
        let mut state = self.lock();
        loop {
            let mut until = None;
            if !state.working {
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                let mut dead = Vec::new();
                match state.jobs.take(now.duration_since(self.epoch), |job| job.ticket.is_dead(), &mut dead) {
                    Take::Run(jobs) => {
                        state.working = true;
                        drop(state);
                        dead.into_iter().for_each(Job::dismiss);
                        return Some(jobs);
                    }
                    Take::WaitUntil(time) => until = Some((self.epoch + time).saturating_duration_since(now)),
                    Take::Nothing => {}
                }
                if !dead.is_empty() {
                    // Their callers hear it and their inputs go; not under the lock.
                    drop(state);
                    dead.into_iter().for_each(Job::dismiss);
                    state = self.lock();
                    continue;
                }
            }
            state = match until {
                Some(time) => self.wake.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Takes the right to work if nobody has it and nobody waits for it.
    pub(super) fn take_right(&self) -> bool {
        let mut state = self.lock();
        let free = !state.working && !state.closed && state.jobs.is_empty();
        state.working |= free;
        free
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
        let gone = self.lock().jobs.remove(|job| Arc::ptr_eq(&job.ticket, ticket));
        !gone.is_empty()
    }

    /// Takes no more jobs, and drops those that wait: their callers see that the executor is gone.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let jobs = state.jobs.drain();
        drop(state);
        self.wake.notify_one();
        drop(jobs);
    }

    /// Takes no more jobs, and gives those that wait to `to`, before any other of `to`. What was idle here is idle for as
    /// long there. False, and nothing happens, if it is closed.
    pub(super) fn hand_over(&self, to: &Self) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.closed = true;
        let (jobs, used) = (state.jobs.drain(), state.used);
        drop(state);
        self.wake.notify_one();
        let mut dropped = Vec::new();
        let mut state = to.lock();
        let newer = state.jobs.drain();
        for run in jobs.chain(newer) {
            let arrived = run.job.queued.saturating_duration_since(to.epoch);
            // Nobody pushes there yet, and it has as many places: none is refused.
            if let Pushed::Full(job) | Pushed::InsteadOf(job) = state.jobs.push(Waiting { arrived, ..run }) {
                dropped.push(job);
            }
        }
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
        f.debug_struct("Queue").field("settings", &self.settings).finish_non_exhaustive()
    }
}
