//! Writes waiting for the writer: bounded, first in first out.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::commit::{Appending, Write};
use crate::DbError;

/// Writes waiting for the writer; one more is refused.
const WRITES_WAITING_MAX: usize = 8192;
/// An append that comes later than this after its leader was named wakes the writer thread.
const LED_MAX: Duration = Duration::from_millis(10);

/// One write.
pub(super) enum Job {
    /// A closure with a savepoint of its own.
    Work(Box<dyn Write>),
    /// Rows of the ledger: appends of one commit share their work.
    Append(Appending),
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Work(_) => "Work",
            Self::Append(_) => "Append",
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Jobs that were taken and are not done.
    taken: usize,
    /// The writer thread sleeps.
    asleep: bool,
    /// Since when a caller commits, or is about to, and looks after the appends that come meanwhile.
    led: Option<Instant>,
    closed: bool,
    ended: bool,
    told: Vec<oneshot::Sender<()>>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `job` at the end. With `may_lead`, true if there is no other (neither waiting nor being written): then the
    /// caller leads, and [`Queue::led`] must follow.
    ///
    /// # Errors
    /// [`DbError::Busy`] or [`DbError::Closed`].
    pub(super) fn push(&self, mut job: Job, may_lead: bool) -> Result<bool, DbError> {
        let mut state = self.state();
        if state.closed {
            return Err(DbError::Closed);
        }
        if state.jobs.len() >= WRITES_WAITING_MAX {
            return Err(DbError::Busy { waiting: state.jobs.len() });
        }
        let leads = may_lead && state.led.is_none() && state.jobs.is_empty() && state.taken == 0;
        if leads {
            state.led = Some(Instant::now());
            if let Job::Append(own) = &mut job {
                // Who gives up leading must not hand it to itself.
                own.lead = None;
            }
        }
        // A leader whose turn does not come (its thread is busy) holds nobody up for long.
        let in_hand = state.led.is_some_and(|since| since.elapsed() < LED_MAX) && matches!(job, Job::Append(_));
        state.jobs.push_back(job);
        let asleep = !in_hand && std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
        Ok(leads)
    }

    /// Takes at most `most` jobs; [`Queue::done`] must follow.
    pub(super) fn take(&self, most: usize) -> Vec<Job> {
        let mut state = self.state();
        let count = state.jobs.len().min(most);
        state.taken += count;
        state.jobs.drain(..count).collect()
    }

    /// Takes appends from the front, at most `most`, for who leads; [`Queue::done`] must follow.
    pub(super) fn take_appends(&self, most: usize) -> Vec<Job> {
        let mut state = self.state();
        let count = state.jobs.iter().take(most).take_while(|job| matches!(job, Job::Append(_))).count();
        state.taken += count;
        state.jobs.drain(..count).collect()
    }

    /// Jobs that were taken are done.
    pub(super) fn done(&self, count: usize) {
        self.state().taken -= count;
    }

    /// Who led has committed, or gives up. What is left is led by its first caller if `may_lead`, else it is the writer
    /// thread's.
    pub(super) fn led(&self, may_lead: bool) {
        let mut state = self.state();
        if may_lead
            && let Some(Job::Append(first)) = state.jobs.front_mut()
            && let Some(lead) = first.lead.take()
            && lead.send(()).is_ok()
        {
            state.led = Some(Instant::now());
            return;
        }
        state.led = None;
        let asleep = !state.jobs.is_empty() && std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
    }

    /// Waits until a job is there. False if the queue was closed and is empty.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.state();
        while state.jobs.is_empty() && !state.closed {
            state.asleep = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.asleep = false;
        !state.jobs.is_empty()
    }

    /// Takes no more jobs; `told` hears when the writer has ended (at once if it has: its sender is dropped).
    pub(super) fn close(&self, told: Option<oneshot::Sender<()>>) {
        let mut state = self.state();
        state.closed = true;
        state.asleep = false;
        if !state.ended {
            state.told.extend(told);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The writer has ended: what could not be written fails, and whoever waits for the end hears of it.
    pub(super) fn ended(&self) {
        let mut state = self.state();
        state.closed = true;
        state.ended = true;
        let (jobs, told) = (std::mem::take(&mut state.jobs), std::mem::take(&mut state.told));
        drop(state);
        drop(jobs);
        for told in told {
            let _ = told.send(());
        }
    }
}
