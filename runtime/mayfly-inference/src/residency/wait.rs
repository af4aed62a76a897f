//! The way to a session, and how somebody waits for one that is not loaded.

use std::sync::{Arc, Weak};
use std::time::Instant;

use mayfly_scheduler::residency::{Fit, WaiterId};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::Residents;
use crate::{Device, LoadError};

/// How a load ended.
pub(super) type Outcome<T> = Result<Arc<T>, LoadError>;

/// The way to a session.
pub(crate) enum Claim<T> {
    /// It is loaded.
    Ready(Arc<T>),
    /// It is being loaded, or will be; everybody who asks waits for the same load.
    Coming(Coming<T>),
}

/// A load that somebody waits for. Dropped, it waits no more; a load that nobody waits for and that has not begun is
/// forgotten.
pub(crate) struct Coming<T> {
    pub(super) answer: oneshot::Receiver<Outcome<T>>,
    pub(super) fit: Fit,
    pub(super) _seat: Seat,
}

impl<T> Claim<T> {
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// What was claimed, once it is loaded.
    ///
    /// # Errors
    /// [`LoadError`]; [`LoadError::Deadline`] if it is not loaded by `deadline`.
    pub(crate) async fn loaded(self, deadline: Instant) -> Result<Arc<T>, LoadError> {
        let coming = match self {
            Self::Ready(held) => return Ok(held),
            Self::Coming(coming) => coming,
        };
        tracing::debug!(fit = ?coming.fit, "waits for a load");
        match timeout_at(deadline.into(), coming.answer).await {
            Err(_) => Err(LoadError::Deadline),
            // It could not begin in time: which of the two was first is chance.
            Ok(Ok(Err(LoadError::NoRoom))) if Instant::now() >= deadline => Err(LoadError::Deadline),
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(LoadError::Failed { detail: "its load was given up".to_owned() }),
        }
    }
}

/// A place among those who wait.
pub(super) struct Seat {
    pub(super) residents: Weak<Residents>,
    pub(super) device: Device,
    pub(super) waiter: WaiterId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(residents) = self.residents.upgrade() {
            residents.left(self.device, self.waiter);
        }
    }
}
