//! Which calls have a span.

use mayfly_calls::TraceParent;

/// How many there are of what is random in a request's id: its last 32 bits. Those before them count, within one
/// millisecond.
const RANDOM: u64 = 1 << 32;

/// Decides by the trace's id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sampler {
    /// Ids whose random part is below this are taken.
    taken: u64,
}

impl Sampler {
    /// `ratio`: 0 to 1.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "32 bits of a number from 0 to 1"
    )]
    pub(crate) fn new(ratio: f64) -> Self {
        Self { taken: (ratio.clamp(0.0, 1.0) * RANDOM as f64) as u64 }
    }

    /// A caller that records its part of the trace wants ours too, and one that does not does not.
    pub(crate) fn takes(self, parent: Option<&TraceParent>, trace: &[u8; 16]) -> bool {
        let [.., a, b, c, d] = *trace;
        let random = u64::from(u32::from_be_bytes([a, b, c, d]));
        parent.map_or(random < self.taken, |parent| parent.sampled)
    }
}

#[cfg(test)]
mod tests {
    use mayfly_types::RequestId;

    use super::*;

    fn taken(ratio: f64) -> usize {
        let sampler = Sampler::new(ratio);
        (0..10_000).filter(|_| sampler.takes(None, &RequestId::new().to_bytes())).count()
    }

    #[test]
    fn all_none_and_a_part() {
        assert_eq!((taken(0.0), taken(1.0)), (0, 10_000));
        let quarter = taken(0.25);
        assert!((2_200..2_800).contains(&quarter), "{quarter}");
    }

    #[test]
    fn the_caller_s_choice_is_followed() {
        let parent = |sampled| TraceParent { trace: [1; 16], span: [1; 8], sampled };
        assert!(Sampler::new(0.0).takes(Some(&parent(true)), &[1; 16]));
        assert!(!Sampler::new(1.0).takes(Some(&parent(false)), &[1; 16]));
    }
}
