//! The limits of one engine's scheduler.

/// Limits of a [`super::Scheduler`]. Times are nanoseconds.
///
/// Zero is read as one for `slots`, `waiting_max`, `ahead_max` and `prefill_chunk_max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Sequences that hold KV memory at once. The memory itself needs [`Settings::kv_slots`].
    pub slots: u32,
    /// Positions that one slot can hold.
    pub context_max: u32,
    /// Positions that all slots may hold together, those kept for reuse included. While a sequence moves from one slot
    /// to another its positions are there twice, until the [`super::Step::Release`] that follows: that much more, at
    /// most `context_max`, is needed for a moment.
    pub kv_tokens_max: u64,
    /// Sequences that wait for a slot.
    pub waiting_max: u32,
    /// Tokens that may be accepted and not yet read, for each sequence.
    pub ahead_max: u32,
    /// A reader that leaves its sequence paused for this long is cut.
    pub stall_after_ns: u64,
    /// Prompt tokens in one prefill step.
    pub prefill_chunk_max: u32,
    /// How long a prefill step may always take while others decode. Where decoding itself is slower, a prefill step may
    /// take 1.25 times a decode step. 20 to 30 ms is small enough that nobody who reads text sees it.
    pub step_target_ns: u64,
    /// Whether the model can decode several sequences in one run. If not, each decode step has one row, sequences take
    /// turns, and a sequence keeps its slot for life.
    pub batched: bool,
}

impl Settings {
    /// Slots that the KV memory must have: steps name slots `0..kv_slots()`.
    ///
    /// With `batched` it is one more than `slots`: there is always one slot to swap sequences through.
    #[must_use]
    pub fn kv_slots(&self) -> u32 {
        self.slots.max(1).saturating_add(u32::from(self.batched))
    }

    /// Positions that one sequence can ever have.
    pub(super) fn sequence_tokens_max(&self) -> u64 {
        u64::from(self.context_max).min(self.kv_tokens_max)
    }
}
