//! How prefill and decode steps share the time: they take turns, and a prefill step is only as long as those who
//! decode can bear.
//!
//! The size of a chunk follows the time that chunks took. The cost of a run is not proportional to its tokens (the
//! weights are read once whatever their number), so the size is steered, not computed.

/// The first chunk that runs beside decoding sequences, before any was measured.
const CHUNK_FIRST: u32 = 8;
/// No chunk is steered below this: so few tokens take hardly longer than one, and a machine whose speed comes and goes
/// would be steered to one.
const CHUNK_LEAST: u32 = 4;

/// Turns and measured times.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    step_target_ns: u64,
    chunk_max: u32,
    /// Tokens whose prefill takes about the target.
    chunk: u32,
    /// A decode step, smoothed.
    decode_ns: u64,
    /// Decode steps since the last prefill step.
    decodes: u32,
}

impl Pace {
    pub(super) fn new(step_target_ns: u64, chunk_max: u32) -> Self {
        let chunk_max = chunk_max.max(1);
        Self { step_target_ns, chunk_max, chunk: CHUNK_FIRST.min(chunk_max), decode_ns: 0, decodes: u32::MAX }
    }

    /// Whether a prefill step is due where each of `round` decode steps gives those who decode one token each.
    pub(super) fn prefill_is_due(&self, round: u32) -> bool {
        self.decodes >= round
    }

    /// Prompt tokens to run now.
    pub(super) fn chunk(&self, round: u32) -> u32 {
        if round == 0 { self.chunk_max } else { self.chunk }
    }

    pub(super) fn gave_prefill(&mut self) {
        self.decodes = 0;
    }

    pub(super) fn gave_decode(&mut self) {
        self.decodes = self.decodes.saturating_add(1);
    }

    /// A decode step took this long.
    pub(super) fn decoded(&mut self, took_ns: u64) {
        self.decode_ns = match self.decode_ns {
            0 => took_ns,
            smoothed => smoothed / 4 * 3 + took_ns / 4,
        };
    }

    /// A chunk of `tokens` took this long. It says how large the next may be, unless it was the short end of a prompt
    /// and took less than the target.
    pub(super) fn prefilled(&mut self, tokens: u32, took_ns: u64, round: u32) {
        let target = self.target_ns(round);
        if took_ns <= target && tokens < self.chunk {
            return;
        }
        let fits = u128::from(tokens) * u128::from(target) / u128::from(took_ns.max(1));
        let fits = u32::try_from(fits).unwrap_or(u32::MAX);
        let (least, most) = (self.chunk / 2, self.chunk.saturating_mul(2));
        self.chunk = fits.clamp(least, most).clamp(CHUNK_LEAST.min(self.chunk_max), self.chunk_max);
    }

    /// How long a chunk may take: five quarters of what everybody's next token takes anyway, or the set time if that is
    /// more.
    fn target_ns(&self, round: u32) -> u64 {
        let decodes = self.decode_ns.saturating_mul(u64::from(round.max(1)));
        self.step_target_ns.max(decodes.saturating_add(decodes / 4)).max(1)
    }
}
