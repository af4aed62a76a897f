//! The slots of the KV memory: who is in each, how many positions it costs, which one is free.
//!
//! A slot costs what its sequence may still grow to, or what was ever written to it since its memory went back.

use super::submission::{Owner, ReuseScope, SequenceId};

/// Tokens that an ended sequence left in its slot.
#[derive(Clone, Debug)]
pub(super) struct Prefix {
    pub(super) tokens: Vec<u32>,
    pub(super) owner: Owner,
    pub(super) reuse: Option<ReuseScope>,
    pub(super) group: u64,
    /// When it was of use last, in turns.
    pub(super) used: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Occupant {
    Nobody,
    /// A sequence that may grow to `reserved` positions.
    Live {
        id: SequenceId,
        reserved: u64,
    },
    Kept(Prefix),
}

#[derive(Clone, Debug)]
struct Slot {
    occupant: Occupant,
    /// Positions whose memory is in use: the most ever written since the slot was released.
    touched: u32,
}

impl Slot {
    fn cost(&self) -> u64 {
        match self.occupant {
            Occupant::Live { reserved, .. } => reserved.max(u64::from(self.touched)),
            Occupant::Nobody | Occupant::Kept(_) => u64::from(self.touched),
        }
    }

    fn is_free(&self) -> bool {
        matches!(self.occupant, Occupant::Nobody)
    }
}

/// All slots of one KV memory.
#[derive(Clone, Debug)]
pub(super) struct Slots(Vec<Slot>);

impl Slots {
    pub(super) fn new(count: u32) -> Self {
        Self((0..count).map(|_| Slot { occupant: Occupant::Nobody, touched: 0 }).collect())
    }

    pub(super) fn occupant(&self, slot: u32) -> &Occupant {
        &self.0[slot as usize].occupant
    }

    pub(super) fn is_free(&self, slot: u32) -> bool {
        self.0[slot as usize].is_free()
    }

    pub(super) fn is_kept(&self, slot: u32) -> bool {
        matches!(self.0[slot as usize].occupant, Occupant::Kept(_))
    }

    pub(super) fn touched(&self, slot: u32) -> u32 {
        self.0[slot as usize].touched
    }

    fn each(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0u32..).zip(&self.0)
    }

    /// Positions in use or set aside, in all slots.
    pub(super) fn cost(&self) -> u64 {
        self.0.iter().map(Slot::cost).sum()
    }

    /// Positions that live sequences may grow to: what no eviction brings back.
    pub(super) fn reserved(&self) -> u64 {
        let live = |slot: &&Slot| matches!(slot.occupant, Occupant::Live { .. });
        self.0.iter().filter(live).map(Slot::cost).sum()
    }

    /// What all slots would cost with a sequence of `reserved` positions in `slot`.
    pub(super) fn cost_with(&self, slot: u32, reserved: u64) -> u64 {
        let this = &self.0[slot as usize];
        self.cost() - this.cost() + reserved.max(u64::from(this.touched))
    }

    /// Positions kept for reuse.
    pub(super) fn kept_tokens(&self) -> u64 {
        self.kept().map(|(_, prefix)| prefix.tokens.len() as u64).sum()
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = (u32, &Prefix)> {
        self.each().filter_map(|(index, slot)| match &slot.occupant {
            Occupant::Kept(prefix) => Some((index, prefix)),
            Occupant::Nobody | Occupant::Live { .. } => None,
        })
    }

    /// The kept prefix that has been of no use for longest, `except` aside.
    pub(super) fn least_used(&self, except: Option<u32>) -> Option<u32> {
        self.kept()
            .filter(|(slot, _)| Some(*slot) != except)
            .min_by_key(|(_, prefix)| prefix.used)
            .map(|(slot, _)| slot)
    }

    /// A free slot for a sequence that will decode behind `rows` others: the first behind them, else the last one.
    pub(super) fn free_behind(&self, rows: u32) -> Option<u32> {
        let free = || self.each().filter(|(_, slot)| slot.is_free()).map(|(index, _)| index);
        free().find(|slot| *slot >= rows).or_else(|| free().last())
    }

    /// The free slot with the most memory to give back, `except` aside.
    pub(super) fn stale(&self, except: Option<u32>) -> Option<u32> {
        let free = self.each().filter(|(index, slot)| slot.is_free() && slot.touched > 0 && Some(*index) != except);
        free.max_by_key(|(_, slot)| slot.touched).map(|(index, _)| index)
    }

    pub(super) fn settle(&mut self, slot: u32, id: SequenceId, reserved: u64) {
        self.0[slot as usize].occupant = Occupant::Live { id, reserved };
    }

    pub(super) fn keep(&mut self, slot: u32, prefix: Prefix) {
        self.0[slot as usize].occupant = Occupant::Kept(prefix);
    }

    /// The slot's content is of no use any more; its memory stays until it is released.
    pub(super) fn empty(&mut self, slot: u32) {
        self.0[slot as usize].occupant = Occupant::Nobody;
    }

    pub(super) fn used(&mut self, slot: u32, turn: u64) {
        if let Occupant::Kept(prefix) = &mut self.0[slot as usize].occupant {
            prefix.used = turn;
        }
    }

    /// Positions `0..end` of the slot are written.
    pub(super) fn touch(&mut self, slot: u32, end: u32) {
        let touched = &mut self.0[slot as usize].touched;
        *touched = end.max(*touched);
    }

    pub(super) fn released(&mut self, slot: u32) {
        self.0[slot as usize].touched = 0;
    }

    /// Who is in `from` is in `to` now, with `positions`.
    pub(super) fn moved(&mut self, from: u32, to: u32, positions: u32) {
        self.0[to as usize].occupant = std::mem::replace(&mut self.0[from as usize].occupant, Occupant::Nobody);
        self.touch(to, positions);
    }
}
