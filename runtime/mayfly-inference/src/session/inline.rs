//! Which runs are done on the thread that asks for them: those that are over before another thread would be awake.
//!
//! Waking the executor's thread and being woken by it takes 50 microseconds and more; many graphs take three. How long a
//! run takes is learned from runs of the same graph that were no smaller, and only for graphs whose work follows from
//! the sizes of their inputs (`steady`): a loop that runs as often as a value says has no business on an async thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is known of one graph.
#[derive(Debug)]
pub(super) struct Pace {
    /// A run may take this long; none does nothing inline.
    limit: Option<Duration>,
    /// Runs of fewer input bytes than this were that short.
    below: AtomicU64,
}

impl Pace {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit: limit.filter(|limit| !limit.is_zero()), below: AtomicU64::new(0) }
    }

    /// Whether a run with so many input bytes will be short.
    pub(super) fn is_short(&self, bytes: u64) -> bool {
        self.limit.is_some() && bytes < self.below.load(Ordering::Relaxed)
    }

    /// A run took this long. One that was merely interrupted is taken for long too, until it is seen again.
    pub(super) fn took(&self, bytes: u64, time: Duration) {
        let Some(limit) = self.limit else { return };
        if time <= limit {
            self.below.fetch_max(bytes.saturating_add(1), Ordering::Relaxed);
        } else if time > limit * 2 {
            self.below.fetch_min(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_short_is_short_until_it_is_not() {
        let us = Duration::from_micros;
        let pace = Pace::new(Some(us(100)));
        assert!(!pace.is_short(0), "nothing is known yet");
        pace.took(1000, us(30));
        assert!(pace.is_short(1000) && pace.is_short(1) && !pace.is_short(1001));
        // Between once and twice the limit nothing changes.
        pace.took(1000, us(150));
        assert!(pace.is_short(1000));
        pace.took(500, us(201));
        assert!(pace.is_short(499) && !pace.is_short(500));
        pace.took(1000, us(99));
        assert!(pace.is_short(1000));
    }

    #[test]
    fn without_a_limit_nothing_is_inline() {
        for limit in [None, Some(Duration::ZERO)] {
            let pace = Pace::new(limit);
            pace.took(10, Duration::ZERO);
            assert!(!pace.is_short(0));
        }
    }
}
