//! What the scheduler tells its caller: steps to run, notices of what began and ended.

use super::submission::SequenceId;

/// What to run now. Every step but [`Step::Idle`] is confirmed by [`super::Scheduler::ran`] (or
/// [`super::Scheduler::fail_running`]) before the next one is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to run before an event, or this time at the latest.
    Idle {
        /// When a deadline or a stalled reader is due.
        until_ns: Option<u64>,
    },
    /// Copy the first `positions` of slot `from` to slot `to`, over whatever is there: a sequence moves, or a new one
    /// begins with a prefix of another. `from` keeps its positions.
    Copy {
        /// The slot to read.
        from: u32,
        /// The slot to write.
        to: u32,
        /// How many positions, from the first on.
        positions: u32,
    },
    /// Run these tokens of `id` at positions `start..` in `slot`. Whatever the slot holds from `start` on is void.
    Prefill {
        /// The sequence.
        id: SequenceId,
        /// Where its positions are.
        slot: u32,
        /// Positions in the slot already: the past of this run.
        start: u32,
        /// At least one.
        tokens: Vec<u32>,
        /// The prompt ends here: the logits of the last token decide the first new token.
        last: bool,
    },
    /// One token for each row. Batched: row `i` is slot `i`, for every `i` in `0..rows.len()`. Else there is one row.
    Decode {
        /// At least one.
        rows: Vec<Row>,
    },
    /// Nothing in this slot is needed any more: its memory may go back to the system.
    Release {
        /// The slot.
        slot: u32,
    },
}

/// One sequence of a [`Step::Decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence.
    pub id: SequenceId,
    /// Where its positions are; batched, the index of the row.
    pub slot: u32,
    /// Positions in the slot already: where the token goes.
    pub past: u32,
    /// The token to run: the one accepted last.
    pub token: u32,
}

/// What happened to a sequence, for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The first chunk of its prompt is in the step just given.
    Started {
        /// The sequence.
        id: SequenceId,
        /// Prompt tokens taken from a reused prefix: they are not run.
        cached: u32,
    },
    /// It is over, and not because a token finished it or its run failed. Its slot is free already.
    Ended {
        /// The sequence.
        id: SequenceId,
        /// Why.
        why: Ended,
    },
}

/// Why a sequence ended before it was finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its deadline passed.
    Deadline,
    /// Its reader took nothing for too long.
    Stalled,
    /// [`super::Scheduler::leave`] was called.
    Left,
}
