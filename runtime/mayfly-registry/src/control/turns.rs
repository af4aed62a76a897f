//! Heavy work takes turns: a few at once, a few waiting, the rest is refused.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::ControlError;

#[derive(Debug)]
pub(super) struct Turns {
    what: &'static str,
    running: Semaphore,
    places: Semaphore,
    limit: u32,
}

/// Somebody's turn, until dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _running: SemaphorePermit<'a>,
    _place: SemaphorePermit<'a>,
}

impl Turns {
    /// `what` is refused, in words, when `waiting_max` of it wait already.
    pub(super) fn new(what: &'static str, running_max: u32, waiting_max: u32) -> Self {
        let running = running_max.max(1);
        let limit = running.saturating_add(waiting_max);
        Self { what, running: Semaphore::new(running as usize), places: Semaphore::new(limit as usize), limit }
    }

    pub(super) async fn take(&self) -> Result<Turn<'_>, ControlError> {
        let place = self.places.try_acquire().map_err(|_full| {
            ControlError::Conflict(format!(
                "{} {} are under way on this host; try again in a minute",
                self.limit, self.what
            ))
        })?;
        let running = self.running.acquire().await.expect("never closed");
        Ok(Turn { _running: running, _place: place })
    }
}
