//! The door: one lock around the scheduler's pure [`Places`], a clock, and whoever waits. Memory only, before anything
//! else is asked.
//!
//! What a call takes is a [`Permit`]: dropping it gives its place to the next in line, or its place in the line back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mayfly_scheduler::places::{Bounds, CallNumber, Entered, Places, Refused, Verdict, Wish};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::seconds::Seconds;
use crate::{Config, Context};

/// Why a call was turned away. Nothing was opened: there is no row of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TurnedAway {
    /// The node is full.
    #[error("this host has calls_max = {0} calls open; retry in a moment")]
    Node(u32),
    /// The node fills up, and who calls holds more than others.
    #[error(
        "this host is busy, and {open} of its calls_max = {calls_max} calls are of this deployment or tenant: what is left is for others; retry in a moment"
    )]
    Share { open: u32, calls_max: u32 },
    /// As many calls of the deployment run and wait as may.
    #[error(
        "this deployment runs {running_max} calls at once (scale.concurrency_max, or the host's calls_per_deployment_max) and {waiting_max} more may wait; retry when some have ended"
    )]
    Line { running_max: u32, waiting_max: u32, retry_ms: Option<u64> },
    /// The wait would be longer than the call may take.
    #[error(
        "about {wait_ms} ms of waiting for a place are ahead, too long for this deployment's deadline_ms_max; retry later"
    )]
    TooLate { wait_ms: u64 },
    /// The wait was longer than the call may take.
    #[error("no place became free within this deployment's deadline_ms_max; retry later")]
    Waited,
    /// The server is stopping.
    #[error("the server is stopping; retry in a moment")]
    Stopping,
}

/// Places of this node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    guarded: Mutex<Guarded>,
    stopping: AtomicBool,
    /// The zero of the clock that never goes back.
    started: Instant,
    waited: Seconds,
}

#[derive(Debug)]
struct Guarded {
    places: Places,
    waiting: HashMap<CallNumber, oneshot::Sender<Verdict>>,
}

/// A place, or one in the line.
#[derive(Debug)]
pub(crate) struct Permit {
    door: Door,
    number: CallNumber,
    /// There while it waits.
    turn: Option<oneshot::Receiver<Verdict>>,
}

impl Door {
    pub(crate) fn new(config: &Config) -> Self {
        let places = Places::new(Bounds {
            calls_max: config.calls_max,
            running_per_deployment_max: config.calls_per_deployment_max,
            waiting_per_deployment_max: config.waiting_per_deployment_max,
        });
        let guarded = Mutex::new(Guarded { places, waiting: HashMap::new() });
        let waited = Seconds::default();
        Self(Arc::new(Inner { guarded, stopping: AtomicBool::new(false), started: Instant::now(), waited }))
    }

    /// Lets one call in, or puts it into its deployment's line; [`Permit::turn`] then waits.
    ///
    /// # Errors
    /// [`TurnedAway`], at once; nothing is taken.
    pub(crate) fn enter(&self, context: &Context, deadline: Instant) -> Result<Permit, TurnedAway> {
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err(TurnedAway::Stopping);
        }
        let resolved = &context.resolved;
        let scale = resolved.revision.spec.scale;
        let wish = Wish {
            tenant: resolved.project.tenant,
            deployment: resolved.deployment.id,
            running_max: scale.concurrency_max,
            waiting_max: scale.queue_max,
            deadline: self.0.at(deadline),
        };
        let mut guarded = self.0.lock();
        let entered = guarded.places.arrive(&wish, self.0.at(Instant::now()));
        guarded.obey();
        let (number, turn) = match entered? {
            Entered::Runs(number) => (number, None),
            Entered::Waits(number) => {
                let (sender, turn) = oneshot::channel();
                guarded.waiting.insert(number, sender);
                (number, Some(turn))
            }
        };
        drop(guarded);
        Ok(Permit { door: self.clone(), number, turn })
    }

    /// Turns away whatever comes from now on.
    pub(crate) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Calls open on the node, those that wait included.
    pub(crate) fn open(&self) -> u32 {
        self.0.lock().places.open()
    }

    /// Calls that wait for a place.
    pub(crate) fn waiting(&self) -> u32 {
        self.0.lock().places.waiting()
    }

    /// What those waited that had to and got a place.
    pub(crate) fn waited(&self) -> &Seconds {
        &self.0.waited
    }
}

impl Permit {
    /// Waits for the call's turn; at once if it runs already.
    ///
    /// # Errors
    /// [`TurnedAway`] at the deadline, or when the server cuts its calls.
    pub(crate) async fn turn(&mut self, deadline: Instant, stop: &CancellationToken) -> Result<(), TurnedAway> {
        let Some(turn) = &mut self.turn else { return Ok(()) };
        let began = Instant::now();
        let verdict = tokio::select! {
            biased;
            verdict = turn => verdict,
            () = stop.cancelled() => return Err(TurnedAway::Stopping),
            () = tokio::time::sleep_until(deadline.into()) => return Err(TurnedAway::Waited),
        };
        match verdict {
            Ok(Verdict::Start(_)) => {
                self.turn = None;
                self.door.0.waited.add(began.elapsed());
                Ok(())
            }
            Ok(Verdict::Expire(_)) | Err(_) => Err(TurnedAway::Waited),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nanoseconds since the start.
    fn at(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.started))
    }
}

impl Guarded {
    /// Tells those who waited what became of them.
    fn obey(&mut self) {
        for verdict in self.places.verdicts() {
            let (Verdict::Start(number) | Verdict::Expire(number)) = verdict;
            if let Some(waits) = self.waiting.remove(&number) {
                // Gone meanwhile: it gives its place back as it goes.
                let _ = waits.send(verdict);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let inner = &self.door.0;
        let now = inner.at(Instant::now());
        let mut guarded = inner.lock();
        if self.turn.is_some() {
            guarded.waiting.remove(&self.number);
        }
        guarded.places.leave(self.number, now);
        guarded.obey();
    }
}

impl From<Refused> for TurnedAway {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NodeFull { calls_max } => Self::Node(calls_max),
            Refused::Share { open, calls_max } => Self::Share { open, calls_max },
            Refused::LineFull { running_max, waiting_max, estimate } => {
                Self::Line { running_max, waiting_max, retry_ms: estimate.map(millis) }
            }
            Refused::TooLate { wait } => Self::TooLate { wait_ms: millis(wait) },
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Rounded up.
fn millis(nanos: u64) -> u64 {
    nanos.div_ceil(1_000_000)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
