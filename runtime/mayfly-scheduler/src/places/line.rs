//! The calls of one deployment: those that run, those that wait, and how long a place is taken.

use std::collections::VecDeque;

use super::{Bounds, CallNumber, Refused, Wish};

/// One deployment with open calls.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) running: u32,
    pub(super) running_max: u32,
    waiting_max: u32,
    /// The first to come is the first to run.
    pub(super) waiting: VecDeque<CallNumber>,
    /// Calls that were too late for their turn and have not left.
    pub(super) expired: u32,
    pub(super) pace: Pace,
}

impl Line {
    /// Takes on the limits that are in force now.
    pub(super) fn limit(&mut self, wish: &Wish, bounds: &Bounds) {
        let most = bounds.running_per_deployment_max;
        self.running_max = wish.running_max.map_or(most, |wanted| wanted.min(most));
        let waiting = match (wish.running_max, wish.waiting_max) {
            (None, None) => 0,
            (_, Some(waiting)) => waiting,
            (Some(running), None) => running,
        };
        self.waiting_max = waiting.min(bounds.waiting_per_deployment_max);
    }

    /// Whether one more can run now, before nobody who waits.
    pub(super) fn has_place(&self) -> bool {
        self.running < self.running_max && self.waiting.is_empty()
    }

    /// Why one more with so many nanoseconds left may not wait.
    pub(super) fn refusal(&self, left: u64) -> Option<Refused> {
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        if waiting >= self.waiting_max {
            let estimate = self.pace.wait(waiting.max(1), self.running_max);
            return Some(Refused::LineFull { running_max: self.running_max, waiting_max: self.waiting_max, estimate });
        }
        let wait = self.pace.wait(waiting.saturating_add(1), self.running_max)?;
        (wait.saturating_add(self.pace.nearly_all()) > left).then_some(Refused::TooLate { wait })
    }

    /// Calls that have not left.
    pub(super) fn open(&self) -> u32 {
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        self.running.saturating_add(waiting).saturating_add(self.expired)
    }
}

/// How long calls take their place, from those that left lately. Integers, so that nothing drifts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds, a running mean; none before the first.
    mean: Option<u64>,
    /// How far from the mean they were, a running mean, nanoseconds.
    deviation: u64,
}

impl Pace {
    /// What one call weighs against all before it, as a shift.
    const SHIFT: u32 = 3;
    /// Deviations that a call may take longer than the mean and still be in time.
    const MARGIN: u64 = 2;

    /// A call has left its place after so many nanoseconds.
    pub fn took(&mut self, nanos: u64) {
        let Some(mean) = self.mean else {
            self.mean = Some(nanos);
            return;
        };
        self.mean = Some(nearer(mean, nanos));
        self.deviation = nearer(self.deviation, nanos.abs_diff(mean));
    }

    /// Nanoseconds until the `nth` in line begins, all of `places` being taken; none before the first call has left.
    pub fn wait(&self, nth: u32, places: u32) -> Option<u64> {
        let all = u128::from(self.mean?) * u128::from(nth) / u128::from(places.max(1));
        Some(u64::try_from(all).unwrap_or(u64::MAX))
    }

    /// Nanoseconds that nearly every call is done in; 0 before the first has left.
    pub fn nearly_all(&self) -> u64 {
        self.mean.unwrap_or(0).saturating_add(self.deviation.saturating_mul(Self::MARGIN))
    }
}

/// A running mean after one more.
fn nearer(mean: u64, sample: u64) -> u64 {
    if sample > mean { mean + ((sample - mean) >> Pace::SHIFT) } else { mean - ((mean - sample) >> Pace::SHIFT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_steady_pace_is_known_exactly() {
        let mut pace = Pace::default();
        assert_eq!((pace.wait(1, 1), pace.nearly_all()), (None, 0), "nobody has left yet");
        (0..10).for_each(|_| pace.took(20 * MS));
        assert_eq!(pace.wait(1, 1), Some(20 * MS));
        assert_eq!(pace.wait(8, 4), Some(40 * MS));
        assert_eq!(pace.wait(3, 0), Some(60 * MS), "no places are one place");
        assert_eq!(pace.nearly_all(), 20 * MS);
    }

    #[test]
    fn it_follows_in_both_directions() {
        let mut pace = Pace::default();
        let mut is = |took: u64| {
            (0..60).for_each(|_| pace.took(took));
            (pace.wait(1, 1).expect("it is known"), pace.nearly_all())
        };
        assert_eq!(is(10 * MS), (10 * MS, 10 * MS));
        let (mean, nearly) = is(100 * MS);
        assert!((95 * MS..=100 * MS).contains(&mean) && nearly < 105 * MS, "{mean} {nearly}");
        let (mean, nearly) = is(10 * MS);
        assert!((10 * MS..=12 * MS).contains(&mean) && nearly < 15 * MS, "{mean} {nearly}");
    }

    #[test]
    fn nearly_all_is_nearly_all() {
        let mut pace = Pace::default();
        // 10 and 30 in turns: 20 on average, 10 from it.
        (0..100).for_each(|nth| pace.took((10 + 20 * (nth % 2)) * MS));
        assert!((30 * MS..=45 * MS).contains(&pace.nearly_all()), "{}", pace.nearly_all());
    }

    #[test]
    fn extremes_do_not_wrap() {
        let mut pace = Pace::default();
        pace.took(u64::MAX);
        assert_eq!(pace.wait(u32::MAX, 1), Some(u64::MAX));
        (0..100).for_each(|_| pace.took(0));
        (0..100).for_each(|_| pace.took(u64::MAX));
        assert_eq!(pace.nearly_all(), u64::MAX);
    }
}
