//! Random numbers that stay the same for a seed, in every version of this program and of its dependencies.
//!
//! xoshiro256++ (Blackman and Vigna), its state filled by splitmix64.

use std::hash::{BuildHasher as _, RandomState};

#[derive(Debug, Clone)]
pub(super) struct Random([u64; 4]);

impl Random {
    /// The numbers of choice `choice` under `seed`; without a seed, numbers nobody can foresee.
    pub(super) fn new(seed: Option<u64>, choice: u32) -> Self {
        // Each `RandomState` has keys of its own, taken from the system once per thread.
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(choice));
        let mut state = seed ^ u64::from(choice).wrapping_mul(0xd134_2543_de82_ef95);
        Self(std::array::from_fn(|_| split_mix(&mut state)))
    }

    /// From 0 up to but not 1.
    pub(super) fn unit(&mut self) -> f64 {
        // The 53 high bits: as many as an f64 holds exactly.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        let Self([a, b, c, d]) = self;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first outputs of xoshiro256++ from the state 1, 2, 3, 4.
        let mut random = Random([1, 2, 3, 4]);
        let first: [u64; 3] = std::array::from_fn(|_| random.next());
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223]);
    }

    #[test]
    fn seeds_and_choices_have_numbers_of_their_own() {
        let first = |seed, choice| Random::new(Some(seed), choice).next();
        assert_eq!(first(7, 0), first(7, 0));
        assert_ne!(first(7, 0), first(7, 1));
        assert_ne!(first(7, 0), first(8, 0));
        assert_ne!(Random::new(None, 0).next(), Random::new(None, 0).next());
    }

    #[test]
    fn numbers_fill_the_unit_range_evenly() {
        let mut random = Random::new(Some(1), 0);
        let draws: Vec<f64> = (0..10_000).map(|_| random.unit()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.015, "{mean}");
    }
}
