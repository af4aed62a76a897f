//! Admission: limits of all levels, held in one step or not at all. Pure: time is an argument.
//!
//! [`Limits`] keeps, for each level that has calls or usage, its open calls, its leaky buckets and its money. Whoever
//! owns it guards it with a lock and loads what is spent from the ledger ([`Leases`]).

mod bucket;
mod lease;
mod level;
mod obstacle;
mod open;
mod purse;

use std::collections::HashMap;
use std::sync::Arc;

use mayfly_types::{LevelId, LevelLimits, Money, Refusal};
use slab::Slab;

pub use lease::{Lease, Leases};

use self::{level::Level, obstacle::Obstacle, open::OpenCall};
use crate::Position;

/// One moment on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds on a clock that never goes back. Drains buckets.
    pub monotonic: u64,
    /// Microseconds since the Unix epoch. Chooses periods.
    pub wall: i64,
}

/// The levels of one call with their limits as of now, from tenant to key.
///
/// Limits that differ from those seen before apply at once, to the calls that are open too. A call may keep the `Levels`
/// it entered with: they do not bring back limits that were replaced meanwhile.
#[derive(Debug, Clone)]
pub struct Levels(pub [(LevelId, Arc<LevelLimits>); 4]);

/// What a call has reserved, or asks for more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ask {
    /// Input, cached and output tokens together.
    pub tokens: u64,
    /// At the call's prices.
    pub cost: Money,
}

/// A call that was let in. Give it back with [`Limits::leave`].
#[derive(Debug)]
#[must_use]
pub struct Entered {
    /// Its place among the open calls.
    call: usize,
}

/// How near a call's levels are to their limits: for headers. Of several levels the tightest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The limit per minute.
    pub limit: u64,
    /// What is left now.
    pub remaining: u64,
    /// Nanoseconds until all of it is there again.
    pub reset: u64,
}

/// Rooms of the two limits that callers are told of; none where no level has the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Standing {
    pub requests: Option<Room>,
    pub tokens: Option<Room>,
}

/// All levels in use. Levels without calls whose buckets have run empty and whose money nobody counts take no memory.
#[derive(Debug, Default)]
pub struct Limits {
    places: HashMap<LevelId, usize>,
    levels: Slab<Level>,
    calls: Slab<OpenCall>,
    /// The newest settlement of any call.
    newest: Position,
}

/// Levels that nobody has touched for so long may go: longer than a lease is read for.
const REST_NANOS_MIN: u64 = 60_000_000_000;

impl Limits {
    /// Levels of `levels` whose money is limited and not known for the period of `now`. The caller asks [`Leases`] for
    /// each, and hands the answers to [`Limits::load`]; from this call on settlements are remembered until then. It asks
    /// again if some are still unknown after that: money was forgotten, or the period ended, while the ledger was read.
    /// One question at a time for each level: of several answers the older could be taken for the newer.
    pub fn unknown(&mut self, levels: &Levels, now: Now) -> Vec<LevelId> {
        let (mut unknown, newest) = (Vec::new(), self.newest);
        for (id, limits) in levels.0.iter().filter(|(_, limits)| limits.counts_money()) {
            let place = self.place(*id, limits, now);
            if let Some(purse) = self.levels[place].purse_mut()
                && !purse.ask(now.wall, newest)
            {
                unknown.push(*id);
            }
        }
        unknown
    }

    /// What the ledger says of a level's money. Settlements it does not contain yet ([`Lease::position`]) are added. An
    /// answer that was not asked for, or is older than what is known, changes nothing.
    pub fn load(&mut self, level: LevelId, lease: &Lease, now: Now) {
        let Some(&place) = self.places.get(&level) else { return };
        let level = &mut self.levels[place];
        level.touch(now);
        if let Some(purse) = level.purse_mut() {
            purse.load(lease);
        }
    }

    /// Credit was granted or rows were corrected: money has to be loaded again before the next call enters. Calls that
    /// are open go on with what was known.
    pub fn forget_money(&mut self) {
        self.levels.iter_mut().filter_map(|(_, level)| level.purse_mut()).for_each(purse::Purse::forget);
    }

    /// Lets a call in: concurrency, requests/min, wake-ups/min (if it `wakes` something), money above zero. It opens at
    /// `now`, which has to be the ledger's opening time of the call.
    ///
    /// # Errors
    /// [`Refusal`] naming level, limit, used and requested; nothing is taken. Of several the one that is in the way
    /// longest: money, then concurrency, then the rate with the longest wait; of equal ones that of the outer level. A
    /// level whose money is not known refuses ([`Limits::unknown`] comes first).
    pub fn enter(&mut self, levels: &Levels, wakes: bool, now: Now) -> Result<Entered, Refusal> {
        let places = levels.0.each_ref().map(|(id, limits)| self.place(*id, limits, now));
        self.admit(places, |level| level.door(wakes, now))?;
        let mut call = OpenCall::new(places, levels, now.wall);
        for (nth, &place) in places.iter().enumerate() {
            self.levels[place].enter(call.share_mut(nth), wakes, now);
        }
        Ok(Entered { call: self.calls.insert(call) })
    }

    /// Reserves `more` for a call, at all levels or at none.
    ///
    /// # Errors
    /// [`Refusal`]: `Rate` with the exact wait, `Money`, or `NeverFits` for what could not fit an empty bucket or cap.
    pub fn reserve(&mut self, levels: &Levels, entered: &Entered, more: Ask, now: Now) -> Result<(), Refusal> {
        let (places, opened_at) = self.refresh(levels, entered, now);
        self.admit(places, |level| level.room(more, opened_at))?;
        self.shift(entered, Ask::default(), more);
        Ok(())
    }

    /// Replaces what a call has reserved by what it has come to: gives back (never below zero) or adds beyond the
    /// limits (work that was done is owed).
    pub fn correct(&mut self, levels: &Levels, entered: &Entered, from: Ask, to: Ask, now: Now) {
        self.refresh(levels, entered, now);
        self.shift(entered, from, to);
    }

    /// The end of a call: `reserved` goes, `owed` (zero if void) stays used; money owed is spent in the period the call
    /// opened in. `at`: where the ledger has its end; none if it has none. `woke`: whether it did wake something.
    #[expect(clippy::too_many_arguments, reason = "all that is known at an end")]
    pub fn leave(
        &mut self,
        levels: &Levels,
        entered: Entered,
        reserved: Ask,
        owed: Ask,
        at: Option<Position>,
        woke: bool,
        now: Now,
    ) {
        self.refresh(levels, &entered, now);
        self.shift(&entered, reserved, owed);
        self.newest = self.newest.max(at.unwrap_or_default());
        let call = self.calls.remove(entered.call);
        for (share, place) in call.shares() {
            self.levels[place].leave(share, &call, owed.cost, at, woke);
        }
    }

    /// How near the limits are.
    pub fn standing(&self, levels: &Levels, now: Now) -> Standing {
        let mut standing = Standing::default();
        for (id, limits) in &levels.0 {
            let (requests, tokens) = match self.places.get(id) {
                Some(&place) => self.levels[place].rooms(now),
                None => (whole(limits.requests_per_minute), whole(limits.tokens_per_minute)),
            };
            standing.requests = tightest(standing.requests, requests);
            standing.tokens = tightest(standing.tokens, tokens);
        }
        standing
    }

    /// Calls open at one level.
    pub fn open(&self, level: LevelId) -> u32 {
        self.places.get(&level).map_or(0, |&place| self.levels[place].open())
    }

    /// Levels in memory.
    pub fn len(&self) -> usize {
        self.levels.len()
    }

    /// Whether no level is in memory.
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Forgets levels at rest: no open calls, empty buckets, nobody came for a minute. Money that is limited is loaded
    /// again when needed.
    pub fn sweep(&mut self, now: Now) {
        let Self { places, levels, calls, .. } = self;
        levels.retain(|_, level| {
            let stays = !level.is_at_rest(now, REST_NANOS_MIN);
            if !stays {
                places.remove(&level.id());
            }
            stays
        });
        levels.shrink_to_fit();
        calls.shrink_to_fit();
        if places.len() < places.capacity() / 4 {
            places.shrink_to_fit();
        }
    }

    /// The place of a level, under the limits it has now.
    fn place(&mut self, id: LevelId, limits: &Arc<LevelLimits>, now: Now) -> usize {
        let Self { places, levels, calls, .. } = self;
        let place = *places.entry(id).or_insert_with(|| levels.insert(Level::new(id)));
        let level = &mut levels[place];
        level.touch(now);
        level.limit(limits, now, || calls.iter().filter_map(|(_, call)| call.exposure_at(place)));
        place
    }

    /// Brings the levels of an open call to `now`, and to limits that are newer than those it came with.
    fn refresh(&mut self, levels: &Levels, entered: &Entered, now: Now) -> ([usize; 4], i64) {
        let (places, opened_at) = (self.calls[entered.call].places(), self.calls[entered.call].opened_at());
        for (nth, (_, limits)) in levels.0.iter().enumerate() {
            let changed = self.calls[entered.call].brings(nth, limits);
            let Self { levels, calls, .. } = self;
            let level = &mut levels[places[nth]];
            level.touch(now);
            if changed {
                level.limit(limits, now, || calls.iter().filter_map(|(_, call)| call.exposure_at(places[nth])));
            } else {
                level.advance(now);
            }
        }
        (places, opened_at)
    }

    /// Whether all of a call's levels agree; what is most in the way if not.
    fn admit(&self, places: [usize; 4], obstacle: impl Fn(&Level) -> Option<Obstacle>) -> Result<(), Refusal> {
        let mut worst: Option<(Obstacle, &Level)> = None;
        for level in places.map(|place| &self.levels[place]) {
            if let Some(found) = obstacle(level)
                && worst.as_ref().is_none_or(|(worst, _)| found.is_worse_than(worst))
            {
                worst = Some((found, level));
            }
        }
        worst.map_or(Ok(()), |(obstacle, level)| Err(obstacle.refusal(level.id())))
    }

    /// Moves what a call has reserved from `from` to `to`, at all its levels.
    fn shift(&mut self, entered: &Entered, from: Ask, to: Ask) {
        let call = &mut self.calls[entered.call];
        let opened_at = call.opened_at();
        let cost = call.shift_cost(from.cost, to.cost);
        for (nth, place) in call.places().into_iter().enumerate() {
            self.levels[place].shift(call.share_mut(nth), from.tokens, to.tokens, cost, opened_at);
        }
    }
}

/// A limit nothing has been taken from.
fn whole(limit: Option<u64>) -> Option<Room> {
    limit.map(|limit| Room { limit, remaining: limit, reset: 0 })
}

/// The room with less left; of equal ones that of the outer level.
fn tightest(outer: Option<Room>, inner: Option<Room>) -> Option<Room> {
    match (outer, inner) {
        (Some(outer), Some(inner)) => Some(if inner.remaining < outer.remaining { inner } else { outer }),
        (outer, inner) => outer.or(inner),
    }
}

#[cfg(test)]
mod tests;
