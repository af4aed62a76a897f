//! Passes over a whole row of logits, written so that the compiler can use vector instructions: rows have up to 152,000
//! values, and every sequence needs its passes at every step.

/// Values between two looks at a running result.
pub(super) const BLOCK: usize = 1024;
const LANES: usize = 16;
/// Weights of exponents below this are 0: e^-87 is the smallest normal f32.
pub(super) const EXPONENT_MIN: f32 = -87.0;

/// The largest value and its lowest index. NaN and minus infinity are never it; none if there is nothing else.
pub(super) fn largest(values: &[f32]) -> Option<(usize, f32)> {
    let mut best = f32::NEG_INFINITY;
    let mut start = 0;
    for (index, block) in values.chunks(BLOCK).enumerate() {
        let top = block_max(block);
        if top > best {
            best = top;
            start = index * BLOCK;
        }
    }
    if best == f32::NEG_INFINITY {
        return None;
    }
    let within = values[start..].iter().position(|value| *value == best)?;
    Some((start + within, best))
}

/// As [`largest`], among the values whose bit is set in `words`.
pub(super) fn largest_allowed(values: &[f32], words: &[u32]) -> Option<(usize, f32)> {
    let mut best = None;
    let mut most = f32::NEG_INFINITY;
    for (index, (word, group)) in words.iter().zip(values.chunks(32)).enumerate() {
        let mut left = *word;
        if left == u32::MAX && block_max(group) <= most {
            continue;
        }
        while left != 0 {
            let bit = left.trailing_zeros() as usize;
            left &= left - 1;
            if let Some(value) = group.get(bit).filter(|value| **value > most) {
                most = *value;
                best = Some((index * 32 + bit, *value));
            }
        }
    }
    best
}

/// Sets every value whose bit is not set in `words` to minus infinity, also those behind the last word.
pub(super) fn forbid(values: &mut [f32], words: &[u32]) {
    let known = values.len().min(words.len() * 32);
    let (known, behind) = values.split_at_mut(known);
    behind.fill(f32::NEG_INFINITY);
    for (word, group) in words.iter().zip(known.chunks_mut(32)) {
        match *word {
            u32::MAX => {}
            0 => group.fill(f32::NEG_INFINITY),
            word => {
                for (bit, value) in group.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *value = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// The largest value of a block; minus infinity if it has only NaN.
pub(super) fn block_max(block: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = block.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            // Not `f32::max`: this form is one instruction, and a NaN in `value` never wins.
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(chunks.remainder())
        .fold(f32::NEG_INFINITY, |most, value| if *value > most { *value } else { most })
}

/// How logits become weights: `e^((logit - max) / temperature)`, 0 where that exponent is below `floor`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weighing {
    pub(super) max: f32,
    pub(super) inverse_temperature: f32,
    pub(super) floor: f32,
}

impl Weighing {
    /// Of the distribution itself, without temperature and truncation.
    pub(super) fn plain(max: f32) -> Self {
        Self { max, inverse_temperature: 1.0, floor: EXPONENT_MIN }
    }

    #[inline(always)]
    pub(super) fn exponent(self, logit: f32) -> f32 {
        (logit - self.max) * self.inverse_temperature
    }

    #[inline(always)]
    pub(super) fn weight(self, logit: f32) -> f32 {
        let exponent = self.exponent(logit);
        // NaN and minus infinity fail both comparisons and weigh nothing. Selects and a product, no branch.
        let bounded = if exponent > EXPONENT_MIN { exponent } else { EXPONENT_MIN };
        let kept = if exponent >= self.floor { 1.0 } else { 0.0 };
        exp(bounded) * kept
    }

    /// The sum of a block's weights.
    pub(super) fn block_sum(self, block: &[f32]) -> f64 {
        // Under a mask or `min_p` most blocks have nothing.
        if self.exponent(block_max(block)) < self.floor {
            return 0.0;
        }
        let mut lanes = [0.0_f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                lanes[lane] += self.weight(chunk[lane]);
            }
        }
        let rest = rest.iter().map(|logit| f64::from(self.weight(*logit))).sum::<f64>();
        lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>() + rest
    }

    /// The sum of all weights.
    pub(super) fn sum(self, logits: &[f32]) -> f64 {
        logits.chunks(BLOCK).map(|block| self.block_sum(block)).sum()
    }
}

/// e^x for x from [`EXPONENT_MIN`] to 0, relative error below 3e-7. The standard library's `exp` is a call per value
/// and takes several times as long; this is plain arithmetic, the same on every machine.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the constants as they are published")]
fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds to a whole number, which is then in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, so that the product with a whole number is exact in the first.
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_40e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = x - whole * LN2_HIGH - whole * LN2_LOW;
    // Cephes' expf polynomial on -ln 2 / 2 ..= ln 2 / 2.
    let sum = 1.987_569_15e-4_f32 * rest + 1.398_199_95e-3;
    let sum = sum * rest + 8.333_451_91e-3;
    let sum = sum * rest + 4.166_579_59e-2;
    let sum = sum * rest + 1.666_666_55e-1;
    let sum = sum * rest + 5.000_000_12e-1;
    let fraction = sum * rest * rest + rest + 1.0;
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    fraction * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_enough_everywhere() {
        for step in 0..=870_000_u32 {
            let x = -f64::from(step) / 10_000.0;
            #[expect(clippy::cast_possible_truncation, reason = "the value under test is an f32")]
            let x = x as f32;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 3e-7, "e^{x}: relative error {error}");
        }
    }

    #[test]
    fn the_largest_is_found_at_its_lowest_place() {
        let check = |values: &[f32], expect: Option<(usize, f32)>| assert_eq!(largest(values), expect, "{values:?}");
        check(&[], None);
        check(&[f32::NAN, f32::NEG_INFINITY], None);
        check(&[f32::NAN, 1.0, 2.0, 2.0, f32::NAN], Some((2, 2.0)));
        let mut long = vec![0.0; 3 * BLOCK + 5];
        check(&long, Some((0, 0.0)));
        for place in [3 * BLOCK + 4, 2 * BLOCK, BLOCK - 1, 17] {
            long[place] = 1.0;
            check(&long, Some((place, 1.0)));
        }
    }

    #[test]
    fn a_mask_is_applied_bit_by_bit() {
        let words = [0b1010, u32::MAX, 0];
        let mut values: Vec<f32> = (0..130).map(|index| f32::from(u8::try_from(index).expect("130 fit u8"))).collect();
        assert_eq!(largest_allowed(&values, &words), Some((63, 63.0)));
        forbid(&mut values, &words);
        let left: Vec<usize> = (0..130).filter(|index| values[*index] > f32::NEG_INFINITY).collect();
        assert_eq!(left, [1, 3].into_iter().chain(32..64).collect::<Vec<_>>());
        assert_eq!(largest_allowed(&[1.0, 2.0], &[0b1001]), Some((0, 1.0)), "bits behind the row count for nothing");
        assert_eq!(largest_allowed(&[f32::NAN], &[1]), None);
    }
}
