//! How long a tenant waits after its process has died: longer each time, until one has lived for a while.

use std::time::{Duration, Instant};

/// A process that lived so many times the pause before it has made up for the crashes before.
const FORGIVEN_AFTER_PAUSES: u32 = 10;
/// But not before this.
const FORGIVEN_AFTER_MIN: Duration = Duration::from_secs(30);

/// The crashes of one tenant that still count.
#[derive(Debug, Clone, Default)]
pub(super) struct Crashes {
    pause: Duration,
    until: Option<Instant>,
}

impl Crashes {
    /// A process that was started at `started` died at `now`. The next may be started after a pause from `least` to `most`.
    pub(super) fn crashed(&mut self, started: Instant, now: Instant, least: Duration, most: Duration) {
        let forgiven = FORGIVEN_AFTER_MIN.max(self.pause * FORGIVEN_AFTER_PAUSES);
        let lived = now.saturating_duration_since(started);
        let longer = if lived >= forgiven { least } else { self.pause.saturating_mul(2) };
        self.pause = longer.clamp(least, most);
        self.until = Some(now + self.pause);
    }

    /// How long nothing may be started yet; none if it may.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Whether it is so long ago that nothing of it counts.
    pub(super) fn are_forgotten(&self, now: Instant) -> bool {
        let forgiven = FORGIVEN_AFTER_MIN.max(self.pause * FORGIVEN_AFTER_PAUSES);
        self.until.is_none_or(|until| now.saturating_duration_since(until) >= forgiven)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_to_a_bound_and_a_long_life_makes_up_for_them() {
        let begin = Instant::now();
        let mut crashes = Crashes::default();
        assert_eq!(crashes.pause(begin), None);
        let mut now = begin;
        for expect in [100, 200, 400, 800, 1000, 1000] {
            crashes.crashed(now, now, LEAST, MOST);
            assert_eq!(crashes.pause(now), Some(Duration::from_millis(expect)));
            assert_eq!(crashes.pause(now + Duration::from_millis(expect)), None, "then it may start");
            assert!(!crashes.are_forgotten(now + Duration::from_millis(expect)));
            now += Duration::from_millis(expect);
        }
        let later = now + Duration::from_secs(30);
        assert!(crashes.are_forgotten(later));
        crashes.crashed(now, later, LEAST, MOST);
        assert_eq!(crashes.pause(later), Some(LEAST));
    }
}
