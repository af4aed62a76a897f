//! What a call that is open has at each of its levels.

use std::sync::Arc;

use mayfly_types::{LevelLimits, Money};

use super::Levels;

/// A call from `enter` to `leave`.
#[derive(Debug)]
pub(super) struct OpenCall {
    opened_at: i64,
    /// Reserved, the same at all levels.
    cost: Money,
    places: [usize; 4],
    shares: [Share; 4],
    /// Addresses of the limits that the call brought last: whoever brings the same again brings nothing new. Only
    /// compared.
    brought: [usize; 4],
}

/// What a call has put into the buckets of one level. A bucket that was made later (because the limit was) has none of
/// it, and gives none of it back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    /// Tokens, in the token bucket of that number.
    pub(super) tokens: u64,
    pub(super) tokens_in: u32,
    /// One wake-up, in the wake-up bucket of that number.
    pub(super) woke_in: Option<u32>,
}

impl OpenCall {
    pub(super) fn new(places: [usize; 4], levels: &Levels, opened_at: i64) -> Self {
        let brought = levels.0.each_ref().map(|(_, limits)| address(limits));
        Self { opened_at, cost: Money::ZERO, places, shares: [Share::default(); 4], brought }
    }

    /// Microseconds since the Unix epoch.
    pub(super) const fn opened_at(&self) -> i64 {
        self.opened_at
    }

    pub(super) const fn cost(&self) -> Money {
        self.cost
    }

    /// Where its levels are, from tenant to key.
    pub(super) const fn places(&self) -> [usize; 4] {
        self.places
    }

    /// When it opened and what it has reserved, if it is open at the level of this place.
    pub(super) fn exposure_at(&self, place: usize) -> Option<(i64, Money)> {
        self.places.contains(&place).then_some((self.opened_at, self.cost))
    }

    pub(super) const fn share_mut(&mut self, nth: usize) -> &mut Share {
        &mut self.shares[nth]
    }

    pub(super) fn shares(&self) -> impl Iterator<Item = (Share, usize)> {
        self.shares.into_iter().zip(self.places)
    }

    /// Whether these limits of its `nth` level are others than those it brought last, which these are from now on.
    pub(super) fn brings(&mut self, nth: usize, limits: &Arc<LevelLimits>) -> bool {
        let before = std::mem::replace(&mut self.brought[nth], address(limits));
        before != self.brought[nth]
    }

    /// Moves the reserved cost by the difference, never below zero; gives what it was and is.
    pub(super) fn shift_cost(&mut self, from: Money, to: Money) -> Money {
        let before = self.cost;
        self.cost = before.saturating_sub(from).saturating_add(to).max(Money::ZERO);
        self.cost.saturating_sub(before)
    }
}

fn address(limits: &Arc<LevelLimits>) -> usize {
    Arc::as_ptr(limits).addr()
}
