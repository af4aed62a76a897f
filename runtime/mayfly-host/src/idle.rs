//! Instances between two requests, and what drops them when their time is over.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mayfly_types::{DeploymentId, RevisionId};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

use crate::Config;
use crate::background::{Background, Next};
use crate::dropper::Dropper;
use crate::places::Place;
use crate::shelves::{Bounds, Shelves, Ticket};
use crate::state::GuestState;

/// Dropping a store with more linear memory than this is done off the async threads: 254 MiB took 17 ms.
const LARGE_STORE_BYTES: u64 = 16 << 20;

/// How many requests of one revision an instance may answer, and how long it may wait for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// An instance is used for no other revision.
    pub revision: RevisionId,
    /// Requests of one instance, one at a time; 1 is a fresh one for each. `reuse_max` comes first.
    pub requests_max: u32,
    /// How long it waits for the next before it goes. `instance_idle_ms_max` comes first.
    pub idle: Duration,
}

/// A store and what belongs to it. The place is free once the store has gone.
pub(crate) struct Live {
    pub(crate) store: Store<GuestState>,
    /// None before its first request has begun, and while one is answered.
    pub(crate) proxy: Option<Proxy>,
    /// Requests it has answered.
    pub(crate) answered: u32,
    pub(crate) _place: Place,
}

impl Live {
    /// Linear memory.
    fn bytes(&self) -> u64 {
        self.store.data().limiter.memory_bytes()
    }
}

/// An instance without a request.
pub(crate) struct Idle {
    pub(crate) live: Live,
    /// Whether the answer of its last request turned out bad after its handler had ended.
    pub(crate) spoiled: Arc<AtomicBool>,
}

/// All that waits on this node.
pub(crate) struct Kept {
    shared: Arc<Shared>,
    /// Drops them when their time is over, also if nobody calls.
    sweeper: Background,
}

struct Shared {
    shelves: Mutex<Shelves<Idle>>,
    dropper: Dropper,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Shelves<Idle>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_away(&self, live: Live, then: impl Send + 'static) {
        if live.bytes() > LARGE_STORE_BYTES {
            // A tuple's first goes first.
            self.dropper.drop((live, then));
        } else {
            drop(live);
            drop(then);
        }
    }
}

impl Kept {
    /// Nothing waits.
    pub(crate) fn start(config: &Config) -> std::io::Result<Self> {
        let bounds = Bounds {
            count_max: config.idle_instances_max,
            per_deployment_max: config.idle_instances_per_deployment_max,
            bytes_max: config.idle_instances_bytes_max,
        };
        let shared = Arc::new(Shared { shelves: Mutex::new(Shelves::new(bounds)), dropper: Dropper::start()? });
        let swept = Arc::clone(&shared);
        let sweeper = Background::start("mayfly-kept", move || {
            let now = Instant::now();
            let (over, next) = {
                let mut shelves = swept.lock();
                (shelves.expire(now), shelves.next_expiry())
            };
            drop(over);
            match next {
                Some(next) => Next::After(next.saturating_duration_since(now).max(Duration::from_millis(1))),
                None => Next::WhenWoken,
            }
        })?;
        Ok(Self { shared, sweeper })
    }

    /// How many wait.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.shared.lock().count()).unwrap_or(u32::MAX)
    }

    /// A request begins: with an instance that has answered before, if one waits.
    pub(crate) fn begin(&self, deployment: DeploymentId, reuse: Reuse) -> (Stay, Option<Live>) {
        let (ticket, found) = self.shared.lock().begin(deployment, reuse.revision);
        let stay = Stay { shared: Arc::clone(&self.shared), reuse, ticket: Some(ticket) };
        match found {
            Some(idle) if idle.spoiled.load(Ordering::Acquire) => {
                self.shared.put_away(idle.live, ());
                (stay, None)
            }
            found => (stay, found.map(|idle| idle.live)),
        }
    }

    /// Keeps an instance for the next request of its deployment, if there is room. The end of `stay`.
    pub(crate) fn keep(&self, mut stay: Stay, idle: Idle) {
        let Some(ticket) = stay.ticket.take() else { return };
        let (bytes, until) = (idle.live.bytes(), Instant::now() + stay.reuse.idle);
        let (gone, is_first) = {
            let mut shelves = self.shared.lock();
            let next = shelves.next_expiry();
            (shelves.end(ticket, Some((idle, bytes, until))), next.is_none_or(|next| until < next))
        };
        for idle in gone {
            self.shared.put_away(idle.live, ());
        }
        if is_first {
            self.sweeper.wake();
        }
    }

    /// Nothing of the deployment answers again, also not what answers now.
    pub(crate) fn forget(&self, deployment: DeploymentId) {
        let gone = self.shared.lock().forget(deployment);
        for idle in gone {
            self.shared.put_away(idle.live, ());
        }
    }

    /// Drops the instance that has waited longest and waits until its place is free; false if none waits.
    pub(crate) async fn make_room(&self) -> bool {
        let Some(oldest) = self.shared.lock().take_oldest() else { return false };
        let (sender, gone) = oneshot::channel::<()>();
        self.shared.put_away(oldest.live, sender);
        // Never sent: the sender goes after the instance.
        let _gone = gone.await;
        true
    }

    /// Drops an instance, then `then`; a large one elsewhere.
    pub(crate) fn put_away(&self, live: Live, then: impl Send + 'static) {
        self.shared.put_away(live, then);
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("count", &self.count()).finish_non_exhaustive()
    }
}

/// A request of a deployment whose instances are kept. Dropped without [`Kept::keep`], it leaves none.
pub(crate) struct Stay {
    shared: Arc<Shared>,
    reuse: Reuse,
    ticket: Option<Ticket>,
}

impl Stay {
    /// Whether an instance that has answered so often may answer again.
    pub(crate) fn goes_on_after(&self, answered: u32) -> bool {
        answered < self.reuse.requests_max
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let gone = self.shared.lock().end(ticket, None);
            drop(gone);
        }
    }
}
