//! How much CPU time a guest has used.
//!
//! Counted on the thread's own CPU clock while the guest's future is polled, so a busy machine does not make a call
//! dearer. Host code that a guest calls and that runs in the same poll (copying a tensor, say) is counted too; waiting
//! and work on other threads are not.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// CPU time of the calling thread, in nanoseconds.
pub(crate) fn thread_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// A poll in which a guest has computed for less than this goes on at a tick.
const SHORT_POLL: Duration = Duration::from_micros(500);

/// The meter of one call.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    /// Of polls that have ended.
    used: AtomicU64,
    /// The thread's clock when the running poll began; 0 between polls.
    since: AtomicU64,
    /// The guest has given way at a tick since the last look.
    yielded: AtomicBool,
}

impl CpuMeter {
    /// The guest gives way at a tick: it has more to compute, and waits for nothing.
    pub(crate) fn note_yield(&self) {
        self.yielded.store(true, Ordering::Relaxed);
    }

    /// CPU time so far. Exact when read inside a poll (on its thread) or between polls.
    pub(crate) fn used(&self) -> Duration {
        self.settled().saturating_add(self.running())
    }

    /// CPU time of the running poll; read on its thread.
    fn running(&self) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        Duration::from_nanos(if since == 0 { 0 } else { thread_nanos().saturating_sub(since) })
    }

    /// CPU time of the polls that have ended; may be read from any thread.
    pub(crate) fn settled(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// Counts work that was done for the guest on another thread.
    pub(crate) fn add(&self, nanos: u64) {
        self.used.fetch_add(nanos, Ordering::Relaxed);
    }

    /// At a tick within a poll. Whether the guest gives way: not if it has hardly run since the poll began, as one whose
    /// thread had to wait for a core.
    ///
    /// # Errors
    /// [`CpuExceeded`] once the limit is passed.
    pub(crate) fn tick(&self, limit_ms: u64) -> Result<bool, CpuExceeded> {
        let running = self.running();
        if self.settled().saturating_add(running) > Duration::from_millis(limit_ms) {
            return Err(CpuExceeded { limit_ms });
        }
        Ok(running >= SHORT_POLL)
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
        let start = thread_nanos();
        meter.since.store(start.max(1), Ordering::Relaxed);
        let polled = inner.as_mut().poll(cx);
        meter.since.store(0, Ordering::Relaxed);
        *last_nanos = thread_nanos().saturating_sub(start);
        meter.used.fetch_add(*last_nanos, Ordering::Relaxed);
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
                assert_eq!(inside.tick(1_000), Ok(false), "it has hardly begun");
                spin(Duration::from_millis(3));
                assert_eq!(inside.tick(2), Err(CpuExceeded { limit_ms: 2 }), "over the limit, seen from inside");
                assert_eq!(inside.tick(1_000), Ok(true), "long enough to give way");
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
    async fn sleeping_is_free() {
        let meter = Arc::new(CpuMeter::default());
        let wait = tokio::time::sleep(Duration::from_millis(200));
        Metered::new(wait, Arc::clone(&meter), ticker()).await;
        assert!(meter.settled() < Duration::from_millis(100), "{:?}", meter.settled());
    }
}
