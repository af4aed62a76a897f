//! Brings the sequences that decode into slots `0..n`, one move at a time.
//!
//! Nothing is moved when a sequence pauses or ends, only when a decode step needs the rows without holes; and a slot
//! that is in the way and still of use goes behind them first. With one slot more than sequences there is always a way.

use super::slots::Slots;

/// Who is in slot `from` goes to slot `to`, which is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: u32,
    pub(super) to: u32,
}

/// The next move that brings `rows` (the slots of the sequences that decode) closer to `0..rows.len()`; none if they
/// are there. Gives up a kept prefix where no slot is free.
pub(super) fn next_move(slots: &mut Slots, rows: &[u32]) -> Option<Move> {
    let count = u32::try_from(rows.len()).expect("at most one row for each slot");
    let last = rows.iter().copied().filter(|slot| *slot >= count).max()?;
    let holes: Vec<u32> = (0..count).filter(|slot| !rows.contains(slot)).collect();
    if let Some(free) = holes.iter().copied().find(|slot| slots.is_free(*slot)) {
        return Some(Move { from: last, to: free });
    }
    let in_the_way = holes.iter().copied().find(|slot| slots.is_kept(*slot)).or(holes.first().copied());
    let in_the_way = in_the_way.expect("a row behind the others leaves a hole among them");
    let free = slots.free_behind(count).unwrap_or_else(|| {
        let given_up = slots.least_used(None).expect("there is a slot more than sequences");
        slots.empty(given_up);
        given_up
    });
    if free < count { Some(Move { from: last, to: free }) } else { Some(Move { from: in_the_way, to: free }) }
}
