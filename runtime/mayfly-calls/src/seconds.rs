//! How long things took: a histogram that many tasks add to at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in seconds. The last bucket has none.
const BOUNDS: [f64; 16] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Upper bounds in seconds (the last is infinite) with cumulative counts, and the sum in seconds.
pub type Buckets = (Vec<(f64, u64)>, f64);

/// Durations, counted. Each bucket is one atomic: they agree once nothing moves.
#[derive(Debug, Default)]
pub(crate) struct Seconds {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Seconds {
    pub(crate) fn add(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Buckets {
        let mut count = 0;
        let mut cumulative = |counter: &AtomicU64| {
            count += counter.load(Ordering::Relaxed);
            count
        };
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets = bounds.zip(self.buckets.iter().map(&mut cumulative)).collect();
        (buckets, Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_its_bucket_and_in_all_above() {
        let seconds = Seconds::default();
        for micros in [100, 101, 2_000_000, 61_000_000] {
            seconds.add(Duration::from_micros(micros));
        }
        let (buckets, sum) = seconds.read();
        let at = |bound: f64| buckets.iter().find(|(upper, _)| *upper == bound).map(|(_, count)| *count);
        assert_eq!(
            (at(0.000_1), at(0.000_25), at(1.0), at(2.5), at(60.0)),
            (Some(1), Some(2), Some(2), Some(3), Some(3))
        );
        assert_eq!(at(f64::INFINITY), Some(4), "the last bucket has everything");
        assert!((sum - 63.000_201).abs() < 1e-9, "{sum}");
    }
}
