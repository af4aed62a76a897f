//! What the instance, the response body and the caller of one request tell each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::HostError;

/// Shared by the two ends of a call. How the call ended is decided once; who comes later learns it.
#[derive(Debug)]
pub(crate) struct Call {
    outcome: OnceLock<Result<(), HostError>>,
    /// Ends the instance now.
    stop: CancellationToken,
    /// The body has ended (or the call was stopped): no more work on models.
    closed: CancellationToken,
    /// Something was wrong with the call, be it after its handler had ended: nobody may use its instance again.
    spoiled: Arc<AtomicBool>,
}

impl Call {
    /// A call that also stops when `cancel` is cancelled.
    pub(crate) fn new(cancel: &CancellationToken) -> Self {
        let stop = cancel.child_token();
        Self { outcome: OnceLock::new(), closed: stop.child_token(), stop, spoiled: Arc::default() }
    }

    /// Set as soon as the instance must not be used again.
    pub(crate) fn spoiled(&self) -> &Arc<AtomicBool> {
        &self.spoiled
    }

    /// Cancelled as soon as model calls must fail.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Cancelled as soon as the instance must go.
    pub(crate) fn stopped(&self) -> &CancellationToken {
        &self.stop
    }

    /// The response was handed out to its end.
    pub(crate) fn body_ended(&self) {
        self.closed.cancel();
    }

    /// Decides how the call ended, unless that is decided; gives back what holds.
    pub(crate) fn decide(&self, outcome: Result<(), HostError>) -> Result<(), HostError> {
        self.outcome.get_or_init(|| outcome).clone()
    }

    /// Ends the instance because of `error`; gives back the error that holds.
    pub(crate) fn stop(&self, error: HostError) -> HostError {
        let held = self.decide(Err(error.clone()));
        self.spoiled.store(true, Ordering::Release);
        self.stop.cancel();
        held.err().unwrap_or(error)
    }

    /// The error the call ended with, if it has.
    pub(crate) fn failed(&self) -> Option<HostError> {
        self.outcome.get().and_then(|outcome| outcome.clone().err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GuestFault;

    #[test]
    fn the_first_outcome_holds() {
        let call = Call::new(&CancellationToken::new());
        assert!(call.failed().is_none());
        assert!(matches!(call.stop(GuestFault::Exit.into()), HostError::Guest(GuestFault::Exit)));
        assert!(matches!(call.stop(HostError::Cancelled), HostError::Guest(GuestFault::Exit)));
        assert!(call.decide(Ok(())).is_err());
        assert!(call.spoiled().load(Ordering::Acquire));
        assert!(call.stopped().is_cancelled() && call.closed().is_cancelled());
    }

    #[test]
    fn the_end_of_the_body_closes_models_only() {
        let call = Call::new(&CancellationToken::new());
        call.body_ended();
        assert!(call.closed().is_cancelled() && !call.stopped().is_cancelled());
        assert!(!call.spoiled().load(Ordering::Acquire));
    }

    #[test]
    fn a_cancelled_caller_stops_the_call() {
        let cancel = CancellationToken::new();
        let call = Call::new(&cancel);
        cancel.cancel();
        assert!(call.stopped().is_cancelled() && call.closed().is_cancelled());
    }
}
