//! The leaky bucket: requests, tokens or wake-ups per minute, in integers.
//!
//! The level is the quantity times 60e9, so that in one nanosecond exactly `limit` drains: nothing is divided and
//! nothing rounds, however often it is looked at. The bucket holds one minute's worth.

/// What one of a quantity weighs: nanoseconds per minute.
const WEIGHT: i128 = 60_000_000_000;

/// How full it is, as of when it was last looked at.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// Per minute; the rate it drains at and what it holds.
    limit: u64,
    /// Quantity times [`WEIGHT`]; never negative. May be above the capacity: work that was done is counted.
    level: i128,
    /// Nanoseconds on the clock that never goes back.
    at: u64,
}

impl Bucket {
    pub(super) const fn empty(limit: u64, now: u64) -> Self {
        Self { limit, level: 0, at: now }
    }

    /// Drains what has run out since, at the rate that was in force, and takes on the limit that is in force now. A
    /// clock that stands or went back drains nothing.
    pub(super) fn advance(&mut self, limit: u64, now: u64) {
        self.level = self.level_at(now);
        self.at = self.at.max(now);
        self.limit = limit;
    }

    /// The level as it would be at `now`.
    fn level_at(&self, now: u64) -> i128 {
        let drained = i128::from(self.limit).saturating_mul(i128::from(now.saturating_sub(self.at)));
        self.level.saturating_sub(drained).max(0)
    }

    /// Nanoseconds until `quantity` fits beside what is there, rounded up; 0 if it fits now. None if it would not fit
    /// an empty bucket. Call [`Bucket::advance`] first.
    pub(super) fn wait(&self, quantity: u64) -> Option<u64> {
        if quantity > self.limit {
            return None;
        }
        let over = self.level.saturating_add(weight(quantity)).saturating_sub(weight(self.limit));
        Some(if over <= 0 { 0 } else { time_to_drain(over, self.limit) })
    }

    /// Puts `quantity` in, whether it fits or not.
    pub(super) fn add(&mut self, quantity: u64) {
        self.level = self.level.saturating_add(weight(quantity));
    }

    /// Takes `quantity` out again; what has drained already is not there to be given back.
    pub(super) fn give_back(&mut self, quantity: u64) {
        self.level = self.level.saturating_sub(weight(quantity)).max(0);
    }

    /// What is in it, rounded up. For messages.
    pub(super) fn used(&self) -> u64 {
        u64::try_from(divide_up(self.level, WEIGHT)).unwrap_or(u64::MAX)
    }

    /// What would fit at `now` and how long until all would, under the limit given.
    pub(super) fn room(&self, limit: u64, now: u64) -> (u64, u64) {
        let level = self.level_at(now);
        let free = weight(limit).saturating_sub(level).max(0) / WEIGHT;
        (u64::try_from(free).unwrap_or(u64::MAX), time_to_drain(level, limit))
    }

    pub(super) fn is_empty_at(&self, now: u64) -> bool {
        self.level_at(now) == 0
    }
}

fn weight(quantity: u64) -> i128 {
    i128::from(quantity) * WEIGHT
}

fn time_to_drain(level: i128, limit: u64) -> u64 {
    // A limit of zero is refused where limits are set; if it comes all the same, nothing ever drains.
    if limit == 0 {
        return if level == 0 { 0 } else { u64::MAX };
    }
    u64::try_from(divide_up(level, i128::from(limit))).unwrap_or(u64::MAX)
}

/// Both above or at zero, the divisor above it.
const fn divide_up(dividend: i128, divisor: i128) -> i128 {
    dividend / divisor + (dividend % divisor != 0) as i128
}

#[cfg(test)]
mod tests;
