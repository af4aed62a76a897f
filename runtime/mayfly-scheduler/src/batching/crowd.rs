//! Whether one more session of a graph is worth its load: runs that cannot be joined wait for each other though cores are
//! free, or those that can are so many that sessions on fewer threads each would do them sooner.

use std::time::Duration;

/// Such a part of a joined run's time would have been saved by sharing it out: a tenth to a quarter where it was measured.
const SHARING_SAVES: u32 = 8;

/// Adds up what runs have waited that no session had time for, and what sharing them out would have saved. Once that is as
/// much as a load takes, another session would have paid for itself; as soon as nobody waits, the count begins anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crowd {
    waited: Duration,
    /// What sharing would have saved, less the runs that there was nothing to share of.
    saved: Duration,
    /// When a run was last taken, and how many then had to wait that cannot be joined.
    last: Option<(Duration, u32)>,
}

impl Crowd {
    /// A run was taken at `now`, and so many that cannot be joined are left behind while every session works.
    pub fn taken(&mut self, now: Duration, left: u32) {
        if let Some((at, waited)) = self.last {
            let passed = now.saturating_sub(at).saturating_mul(waited.min(left.saturating_add(1)));
            self.waited = self.waited.saturating_add(passed);
        }
        self.last = Some((now, left));
        if left == 0 {
            (self.waited, self.last) = (Duration::ZERO, None);
        }
    }

    /// A run of the graph took so long; `is_plenty` if there was something in it for more sessions than one.
    pub fn ran(&mut self, took: Duration, is_plenty: bool) {
        self.saved =
            if is_plenty { self.saved.saturating_add(took / SHARING_SAVES) } else { self.saved.saturating_sub(took) };
    }

    /// Whether another session that takes `load` to load would have paid for itself.
    pub fn is_worth(&self, load: Duration) -> bool {
        let worth = self.waited.max(self.saved);
        worth >= load && !worth.is_zero()
    }

    /// One is on its way, or cannot be had: the count begins anew.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_has_waited_as_long_as_a_load_takes_is_worth_one() {
        let mut crowd = Crowd::default();
        crowd.taken(ms(100), 2);
        assert!(!crowd.is_worth(Duration::ZERO), "nobody has waited yet");
        crowd.taken(ms(110), 2);
        assert!(crowd.is_worth(ms(20)) && !crowd.is_worth(ms(21)), "two for ten milliseconds: {crowd:?}");
        crowd.taken(ms(120), 1);
        assert!(crowd.is_worth(ms(40)));
        crowd.reset();
        assert!(!crowd.is_worth(ms(1)));
    }

    #[test]
    fn who_is_soon_served_is_no_crowd() {
        let mut crowd = Crowd::default();
        for at in (0..1000).step_by(10) {
            crowd.taken(ms(at), u32::from(at % 20 == 0));
            assert!(!crowd.is_worth(ms(11)), "{at}: {crowd:?}");
        }
    }

    #[test]
    fn one_that_is_left_behind_again_and_again_counts_each_time() {
        let mut crowd = Crowd::default();
        for at in 0..=10 {
            crowd.taken(ms(at * 5), 1);
        }
        assert!(crowd.is_worth(ms(50)) && !crowd.is_worth(ms(51)));
    }

    #[test]
    fn many_that_can_be_joined_are_worth_one_in_the_end() {
        let mut crowd = Crowd::default();
        for _ in 0..9 {
            crowd.ran(ms(80), true);
            crowd.taken(ms(0), 0);
        }
        assert!(crowd.is_worth(ms(90)) && !crowd.is_worth(ms(91)), "{crowd:?}");
        crowd.ran(ms(4), false);
        assert!(crowd.is_worth(ms(86)) && !crowd.is_worth(ms(87)), "one that was alone counts against it");
        crowd.ran(ms(100), false);
        assert!(!crowd.is_worth(ms(1)));
    }
}
