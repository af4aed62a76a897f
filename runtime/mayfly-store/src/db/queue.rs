//! Writes waiting for the writer: bounded, first in first out.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::commit::Write;
use crate::DbError;

/// Writes waiting for the writer; one more is refused.
const WRITES_WAITING_MAX: usize = 8192;

/// What the writer is asked for.
pub(super) enum Job {
    /// A closure with a savepoint of its own.
    Work(Box<dyn Write>),
    /// Everything that was appended before is to be in the tables.
    Apply(oneshot::Sender<Result<(), DbError>>),
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Work(_) => "Work",
            Self::Apply(_) => "Apply",
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
    /// The writer has something to do beside the jobs, or has to look when.
    nudged: bool,
    closed: bool,
    ended: bool,
    told: Vec<oneshot::Sender<()>>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `job` at the end.
    ///
    /// # Errors
    /// [`DbError::Busy`] or [`DbError::Closed`].
    pub(super) fn push(&self, job: Job) -> Result<(), DbError> {
        let mut state = self.state();
        if state.closed {
            return Err(DbError::Closed);
        }
        if state.jobs.len() >= WRITES_WAITING_MAX {
            return Err(DbError::Busy { waiting: state.jobs.len() });
        }
        state.jobs.push_back(job);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Wakes the writer though there is no job.
    pub(super) fn nudge(&self) {
        self.state().nudged = true;
        self.wake.notify_one();
    }

    /// Takes at most `most` jobs; waits for one, for a nudge, or for `at_most` (for ever if none). None if the queue was
    /// closed and is empty.
    pub(super) fn take(&self, most: usize, at_most: Option<Duration>) -> Option<Vec<Job>> {
        let idle = |state: &mut State| state.jobs.is_empty() && !state.closed && !state.nudged;
        let mut state = match at_most {
            None => self.wake.wait_while(self.state(), idle).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                self.wake.wait_timeout_while(self.state(), time, idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.nudged = false;
        if state.jobs.is_empty() && state.closed {
            return None;
        }
        let count = state.jobs.len().min(most);
        Some(state.jobs.drain(..count).collect())
    }

    /// Takes no more jobs; `told` hears when the writer has ended (at once if it has: its sender is dropped).
    pub(super) fn close(&self, told: Option<oneshot::Sender<()>>) {
        let mut state = self.state();
        state.closed = true;
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
