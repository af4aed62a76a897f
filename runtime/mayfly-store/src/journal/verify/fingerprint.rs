//! Fingerprints of sums: linear, so that sums need not be kept to be compared.
//!
//! Of each key a random number is made; a fingerprint is the total of number x value. Two sets of sums with the same
//! fingerprint are the same, but for a chance far below that of a broken machine: whoever tampers cannot know the seed.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

/// Makes numbers of keys; another in every walk.
#[derive(Debug, Default, Clone)]
pub(super) struct Seed(RandomState);

impl Seed {
    /// The part of a key that all sums of one row share.
    pub(super) fn base(&self, subject: i64, hour: i64, end_user: &[u8]) -> u64 {
        self.0.hash_one((subject, hour, end_user))
    }

    /// The number of an entry in the index of calls.
    pub(super) fn entry(&self, call: &[u8], part: i64, pos: i64) -> u64 {
        self.0.hash_one((call, part, pos))
    }
}

/// Quantities and money of one hour.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    quantity: u128,
    money: u128,
}

impl Fingerprint {
    /// Adds to the sums of a key.
    pub(super) fn add(&mut self, base: u64, model: i64, meter: i64, price: i64, quantity: i128, money: i128) {
        let number = number(base, model, meter, price);
        self.quantity = self.quantity.wrapping_add(number.wrapping_mul(quantity.cast_unsigned()));
        self.money = self.money.wrapping_add(number.wrapping_mul(money.cast_unsigned()));
    }

    /// Takes from the sums of a key.
    pub(super) fn take(&mut self, base: u64, model: i64, meter: i64, price: i64, quantity: i128, money: i128) {
        self.add(base, model, meter, price, quantity.wrapping_neg(), money.wrapping_neg());
    }
}

/// An odd number for each key, so that no value but zero times it is zero.
fn number(base: u64, model: i64, meter: i64, price: i64) -> u128 {
    let mut state = base;
    for part in [model, meter, price] {
        state = mix(state ^ part.cast_unsigned());
    }
    (u128::from(state) << 64) | u128::from(mix(state) | 1)
}

/// The finalizer of SplitMix64.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Fingerprints by hour.
#[derive(Debug, Default)]
pub(super) struct Fingerprints {
    hours: HashMap<i64, Fingerprint>,
    /// The hour asked for last: rows come hour after hour.
    latest: Option<(i64, Fingerprint)>,
}

impl Fingerprints {
    pub(super) fn of(&mut self, hour: i64) -> &mut Fingerprint {
        if self.latest.is_none_or(|(of, _)| of != hour) {
            self.put_back();
            self.latest = Some((hour, self.hours.remove(&hour).unwrap_or_default()));
        }
        &mut self.latest.as_mut().expect("set just above").1
    }

    fn put_back(&mut self) {
        if let Some((hour, fingerprint)) = self.latest.take() {
            self.hours.insert(hour, fingerprint);
        }
    }

    /// Hours of which not everything that was added has been taken, in order.
    pub(super) fn unequal(mut self) -> Vec<i64> {
        self.put_back();
        let left = self.hours.into_iter().filter(|(_, left)| *left != Fingerprint::default());
        let mut hours: Vec<i64> = left.map(|(hour, _)| hour).collect();
        hours.sort_unstable();
        hours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sums_leave_nothing_and_any_other_value_is_seen() {
        let seed = Seed::default();
        let check = |quantity: i128, money: i128, price: i64, hours: &[i64]| {
            let mut all = Fingerprints::default();
            let (a, b) = (seed.base(1, 7, b""), seed.base(2, 8, b"ada"));
            all.of(7).add(a, 1, 2, 3, 10, 100);
            all.of(8).add(b, 1, 2, 3, 5, 50);
            all.of(7).add(a, 1, 2, 3, 20, 200);
            all.of(7).take(a, 1, 2, price, quantity, money);
            all.of(8).take(b, 1, 2, 3, 5, 50);
            assert_eq!(all.unequal(), hours);
        };
        check(30, 300, 3, &[]);
        check(30, 300, 4, &[7]);
        for bit in 0..100 {
            check(30 ^ (1 << bit), 300, 3, &[7]);
            check(30, 300 ^ (1 << bit), 3, &[7]);
        }
    }
}
