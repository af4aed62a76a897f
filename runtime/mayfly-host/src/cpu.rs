//! How much CPU time a guest has used.
//!
//! Counted on the thread's own CPU clock while the guest's future is polled, so a busy machine does not make a call
//! dearer. Host code that a guest calls and that runs in the same poll (copying a tensor, say) is counted too; waiting
//! and work on other threads are not.
//!
//! That clock is a system call, two of which take as long as a tenth of a short guest's work. Code whose polls have all
//! been short for a while is timed by the wall clock instead, and no poll so timed counts for more than a short one:
//! the first that is longer is the last, see [`Habit`].

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::ticker::Ticker;

/// The guest has used up `guest_cpu_ms_max`. Travels as the trap's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("CPU limit of {limit_ms} ms reached")]
pub(crate) struct CpuExceeded {
    pub(crate) limit_ms: u64,
}

/// A poll that takes no longer is short, in nanoseconds: of a fresh handler that computes little, it is all of its work.
const SHORT_NANOS: u64 = 100_000;
/// So many short polls in a row make a habit.
const HABIT_POLLS: u32 = 256;

/// CPU time of the calling thread, in nanoseconds.
pub(crate) fn thread_nanos() -> u64 {
    nanos(ClockId::ThreadCPUTime)
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// How long the polls of one component's instances are.
///
/// By the wall clock, a poll that the system interrupts looks longer than it was, and counts for [`SHORT_NANOS`] at most; a
/// long one, which ends at a tick at the latest unless it is in the host, counts for that only, too. Either way the next
/// [`HABIT_POLLS`] are counted exactly: so of each that many at most one is wrong, by at most the one or the other.
#[derive(Debug, Default)]
pub(crate) struct Habit {
    /// Short polls in a row.
    short: AtomicU32,
}

impl Habit {
    fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed) >= HABIT_POLLS
    }

    /// A poll took so long.
    fn saw(&self, nanos: u64) {
        if nanos > SHORT_NANOS {
            self.short.store(0, Ordering::Relaxed);
        } else if !self.is_short() {
            self.short.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// When a poll began.
#[derive(Debug, Clone, Copy)]
enum Began {
    /// By the thread's clock.
    Exactly(u64),
    /// By the wall clock.
    About(u64),
}

impl Began {
    fn now(about: bool) -> Self {
        if about { Self::About(nanos(ClockId::Monotonic)) } else { Self::Exactly(thread_nanos()) }
    }

    /// What a poll that ended now would count for, and how long it took.
    fn count(self) -> (u64, u64) {
        match self {
            Self::Exactly(since) => {
                let took = thread_nanos().saturating_sub(since);
                (took, took)
            }
            Self::About(since) => {
                let took = nanos(ClockId::Monotonic).saturating_sub(since);
                (took.min(SHORT_NANOS), took)
            }
        }
    }
}

/// The meter of one call.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    habit: Arc<Habit>,
    /// Of polls that have ended.
    used: AtomicU64,
    /// The clock when the running poll began; 0 between polls.
    since: AtomicU64,
    /// That clock is the wall's.
    about: AtomicBool,
    /// The guest has given way at a tick since the last look.
    yielded: AtomicBool,
}

impl CpuMeter {
    /// Of a call that runs the component with this habit.
    pub(crate) fn new(habit: Arc<Habit>) -> Self {
        Self { habit, ..Self::default() }
    }

    fn begin(&self) -> Began {
        let about = self.habit.is_short();
        let began = Began::now(about);
        let (Began::Exactly(since) | Began::About(since)) = began;
        self.about.store(about, Ordering::Relaxed);
        self.since.store(since.max(1), Ordering::Relaxed);
        began
    }

    /// What the poll that began then counts for.
    fn end(&self, began: Began) -> u64 {
        self.since.store(0, Ordering::Relaxed);
        let (counts, took) = began.count();
        self.habit.saw(took);
        self.used.fetch_add(counts, Ordering::Relaxed);
        counts
    }

    /// The guest gives way at a tick: it has more to compute, and waits for nothing.
    pub(crate) fn note_yield(&self) {
        self.yielded.store(true, Ordering::Relaxed);
    }

    /// CPU time so far, the running poll's included when read inside it (on its thread).
    pub(crate) fn used(&self) -> Duration {
        let running = match self.since.load(Ordering::Relaxed) {
            0 => 0,
            since if self.about.load(Ordering::Relaxed) => Began::About(since).count().0,
            since => Began::Exactly(since).count().0,
        };
        Duration::from_nanos(self.used.load(Ordering::Relaxed).saturating_add(running))
    }

    /// CPU time of the polls that have ended; may be read from any thread.
    pub(crate) fn settled(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// Counts work that was done for the guest on another thread.
    pub(crate) fn add(&self, nanos: u64) {
        self.used.fetch_add(nanos, Ordering::Relaxed);
    }

    /// # Errors
    /// [`CpuExceeded`] once the limit is passed.
    pub(crate) fn check(&self, limit_ms: u64) -> Result<(), CpuExceeded> {
        if self.used() > Duration::from_millis(limit_ms) { Err(CpuExceeded { limit_ms }) } else { Ok(()) }
    }
}

/// A guest's future: its polls are counted, and there are ticks while one is under way.
pub(crate) struct Metered<F> {
    inner: Pin<Box<F>>,
    meter: Arc<CpuMeter>,
    ticker: Arc<Ticker>,
    /// Of the last poll.
    last_nanos: u64,
    /// Since it last waited for something.
    burst_nanos: u64,
    /// Whether the last poll ended at a tick.
    yielded: bool,
}

impl<F> Metered<F> {
    /// Counts the polls of `inner` on `meter`.
    pub(crate) fn new(inner: F, meter: Arc<CpuMeter>, ticker: Arc<Ticker>) -> Self {
        Self { inner: Box::pin(inner), meter, ticker, last_nanos: 0, burst_nanos: 0, yielded: false }
    }

    /// CPU time of the last poll.
    pub(crate) fn last_nanos(&self) -> u64 {
        self.last_nanos
    }

    /// CPU time since it last waited for something.
    pub(crate) fn burst_nanos(&self) -> u64 {
        self.burst_nanos
    }

    /// Whether the last poll ended because of a tick: it would compute on at once.
    pub(crate) fn has_yielded(&self) -> bool {
        self.yielded
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { inner, meter, ticker, last_nanos, burst_nanos, yielded } = &mut *self;
        let _ticks = ticker.ticks();
        let began = meter.begin();
        let polled = inner.as_mut().poll(cx);
        *last_nanos = meter.end(began);
        *yielded = meter.yielded.swap(false, Ordering::Relaxed);
        *burst_nanos = if *yielded { burst_nanos.saturating_add(*last_nanos) } else { 0 };
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticker() -> Arc<Ticker> {
        let engine = crate::settings::compiling_engine().expect("the settings are valid");
        Arc::new(Ticker::start(&engine, Duration::from_millis(1)).expect("a thread starts"))
    }

    fn spin(time: Duration) {
        let start = thread_nanos();
        while Duration::from_nanos(thread_nanos() - start) < time {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn work_counts_and_waiting_does_not() {
        let meter = Arc::new(CpuMeter::default());
        let inside = Arc::clone(&meter);
        Metered::new(
            async move {
                spin(Duration::from_millis(3));
                assert!(inside.check(2).is_err(), "over the limit, seen from inside");
                assert!(inside.check(1_000).is_ok());
                tokio::time::sleep(Duration::from_millis(5)).await;
            },
            Arc::clone(&meter),
            ticker(),
        )
        .await;
        assert!(meter.settled() >= Duration::from_millis(3));
        assert_eq!(meter.used(), meter.settled());
    }

    #[tokio::test]
    async fn who_was_short_for_long_is_counted_exactly_again_after_one_that_is_not() {
        let (habit, ticker) = (Arc::new(Habit::default()), ticker());
        let poll = async |work: Duration| {
            let meter = Arc::new(CpuMeter::new(Arc::clone(&habit)));
            let inside = Arc::clone(&meter);
            let guest = async move {
                let start = thread_nanos();
                while Duration::from_nanos(thread_nanos() - start) < work {}
                inside.used()
            };
            let seen = Metered::new(guest, Arc::clone(&meter), Arc::clone(&ticker)).await;
            assert!(seen <= meter.settled());
            meter.settled()
        };
        // The system may make a short one long; it is no habit then.
        for _ in 0..1_000_000 {
            if habit.is_short() {
                break;
            }
            poll(Duration::ZERO).await;
        }
        assert!(habit.is_short());
        let long = Duration::from_millis(2);
        assert_eq!(poll(long).await, Duration::from_nanos(SHORT_NANOS), "the one it may be wrong by");
        for _ in 0..3 {
            assert!(poll(long).await >= long, "exactly");
        }
        assert!(poll(Duration::ZERO).await < long);
    }

    #[tokio::test]
    async fn sleeping_is_free() {
        let meter = Arc::new(CpuMeter::default());
        let wait = tokio::time::sleep(Duration::from_millis(200));
        Metered::new(wait, Arc::clone(&meter), ticker()).await;
        assert!(meter.settled() < Duration::from_millis(100), "{:?}", meter.settled());
    }
}
