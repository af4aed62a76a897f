//! Threads for guests that compute for long without waiting for anything.
//!
//! The async threads serve everybody's connections, so nobody may keep one: a guest that has computed for longer than
//! [`HERE_NANOS_MAX`] goes on here until it waits for something, then back to its caller's task. These threads are fewer than
//! the cores and give way to the others, and tenants share their time alike, however many of their guests compute.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

use mayfly_types::TenantId;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::cpu::Metered;
use crate::slices;
use crate::turns::Turns;

/// CPU time without waiting after which a guest leaves the async threads: about a tick. Moving takes some 50 µs.
pub(crate) const HERE_NANOS_MAX: u64 = 1_000_000;
/// How much these threads give way, as `nice` counts: a ninth of another thread's share where cores are short.
const NICENESS: i32 = 10;

/// One guest on its way through the lane.
trait Job: Send {
    /// Lets it compute up to its next yield. The nanoseconds that took, and whether it wants another turn.
    fn turn(&mut self) -> (u64, bool);
}

struct State {
    turns: Turns<Box<dyn Job>>,
    stopped: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads. Dropping this stops and joins them.
pub(crate) struct Lane {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How a guest comes back.
pub(crate) enum Back<F: Future> {
    /// It has ended.
    Done(F::Output),
    /// It waits for something.
    Waits(Metered<F>),
    /// It panicked, with this.
    Panicked(Box<dyn std::any::Any + Send>),
}

impl Lane {
    /// Starts `threads` threads; 0 takes all cores but one, and at least one.
    pub(crate) fn start(threads: u32) -> std::io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1)),
            threads => usize::try_from(threads).unwrap_or(1),
        };
        let state = State { turns: Turns::new(), stopped: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let start = |number| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("mayfly-guest-{number}")).spawn(move || work(&shared))
        };
        let threads = (0..threads).map(start).collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// Lets `guest` go on here until it waits or ends. Dropping the receiver drops the guest at its next turn.
    pub(crate) fn take<F>(&self, tenant: TenantId, guest: Metered<F>) -> oneshot::Receiver<Back<F>>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let (back, receiver) = oneshot::channel();
        let away = Away { guest: Some(guest), back: Some(back), runtime: Handle::current() };
        self.shared.lock().turns.add(tenant, Box::new(away));
        self.shared.changed.notify_one();
        receiver
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread for guests had panicked");
            }
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

fn work(shared: &Shared) {
    // Where the system does not let it, they are threads like all others.
    if let Err(error) = slices::gives_way(NICENESS) {
        tracing::warn!(%error, "threads for guests that compute could not be made to give way to the others");
    }
    let mut state = shared.lock();
    loop {
        if state.stopped {
            return;
        }
        let Some((tenant, mut job)) = state.turns.next() else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        let (cost, again) = job.turn();
        let again = again.then_some(job);
        state = shared.lock();
        state.turns.done(tenant, cost, again);
    }
}

struct Away<F: Future> {
    guest: Option<Metered<F>>,
    back: Option<oneshot::Sender<Back<F>>>,
    /// Where the guest's timers and sockets are.
    runtime: Handle,
}

impl<F> Job for Away<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn turn(&mut self) -> (u64, bool) {
        let _runtime = self.runtime.enter();
        let wanted = self.back.as_ref().is_some_and(|back| !back.is_closed());
        let Some(mut guest) = self.guest.take().filter(|_| wanted) else { return (0, false) };
        // Nobody has to wake it: as soon as it waits it goes back, and is polled there at once.
        let mut cx = Context::from_waker(Waker::noop());
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let polled = std::pin::Pin::new(&mut guest).poll(&mut cx);
            (polled, guest)
        }));
        let (cost, back) = match polled {
            Ok((Poll::Ready(output), guest)) => (guest.last_nanos(), Back::Done(output)),
            Ok((Poll::Pending, guest)) if guest.has_yielded() => {
                let cost = guest.last_nanos();
                self.guest = Some(guest);
                return (cost, true);
            }
            Ok((Poll::Pending, guest)) => (guest.last_nanos(), Back::Waits(guest)),
            Err(panic) => (0, Back::Panicked(panic)),
        };
        if let Some(sender) = self.back.take() {
            // Left meanwhile: what it was goes here and now.
            let _left = sender.send(back);
        }
        (cost, false)
    }
}
