#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

/// Whether it fits now; if so it is in.
fn take(bucket: &mut Bucket, quantity: u64, now: u64) -> Result<(), Option<u64>> {
    bucket.advance(bucket.limit, now);
    match bucket.wait(quantity) {
        Some(0) => {
            bucket.add(quantity);
            Ok(())
        }
        wait => Err(wait),
    }
}

#[test]
fn a_minutes_worth_at_once_then_one_by_one() {
    let mut bucket = Bucket::empty(60, 0);
    for _ in 0..60 {
        assert_eq!(take(&mut bucket, 1, 0), Ok(()));
    }
    assert_eq!(take(&mut bucket, 1, 0), Err(Some(SECOND)));
    assert_eq!(take(&mut bucket, 1, SECOND - 1), Err(Some(1)));
    assert_eq!(take(&mut bucket, 1, SECOND), Ok(()));
    assert_eq!(bucket.room(60, SECOND), (0, MINUTE));
    assert_eq!(bucket.room(60, SECOND + MINUTE), (60, 0));
}

#[test]
fn what_can_never_fit_has_no_wait() {
    let mut bucket = Bucket::empty(100, 0);
    assert_eq!(take(&mut bucket, 101, 0), Err(None));
    assert_eq!(take(&mut bucket, u64::MAX, 0), Err(None));
    assert_eq!(take(&mut bucket, 100, 0), Ok(()));
}

#[test]
fn time_that_stands_goes_back_or_jumps() {
    let mut bucket = Bucket::empty(60, 10 * SECOND);
    bucket.add(60);
    assert_eq!(take(&mut bucket, 1, 10 * SECOND), Err(Some(SECOND)));
    assert_eq!(take(&mut bucket, 1, 0), Err(Some(SECOND)), "going back drains nothing");
    assert_eq!(take(&mut bucket, 1, 11 * SECOND), Ok(()), "and costs nothing once time goes on");
    assert_eq!(take(&mut bucket, 1, 11 * SECOND), Err(Some(SECOND)), "the same second does not drain twice");
    assert_eq!(take(&mut bucket, 60, u64::MAX), Ok(()), "a huge gap empties it, and no more than that");
    assert_eq!(take(&mut bucket, 1, u64::MAX), Err(Some(SECOND)));
}

#[test]
fn a_change_of_the_limit_applies_at_once() {
    let mut bucket = Bucket::empty(10, 0);
    bucket.add(10);
    bucket.advance(100, 0);
    assert_eq!((bucket.wait(90), bucket.wait(91)), (Some(0), Some(600_000_000)));
    bucket.advance(5, 0);
    assert_eq!(bucket.wait(6), None, "the new limit is the most that can fit");
    assert_eq!(bucket.wait(5), Some(2 * MINUTE), "what was used under the old one drains at the new rate");
}

#[test]
fn giving_back_stops_at_zero() {
    let mut bucket = Bucket::empty(60, 0);
    bucket.add(30);
    bucket.advance(60, 20 * SECOND);
    assert_eq!(bucket.used(), 10);
    bucket.give_back(30);
    assert_eq!((bucket.used(), bucket.wait(60)), (0, Some(0)));
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let mut bucket = Bucket::empty(u64::MAX, 0);
    for _ in 0..10 {
        bucket.add(u64::MAX);
    }
    assert_eq!(bucket.used(), u64::MAX);
    bucket.advance(u64::MAX, u64::MAX);
    assert!(bucket.is_empty_at(u64::MAX));
    bucket.advance(0, u64::MAX);
    assert_eq!(bucket.wait(1), None);
}

/// The naive model: a level in whole quantities and a remainder over 60e9, drained step by step as a rational number.
#[derive(Debug)]
struct Rational {
    whole: i128,
    remainder: i128,
}

impl Rational {
    fn add(&mut self, quantity: i128) {
        self.whole += quantity;
    }

    fn drain(&mut self, limit: u64, nanoseconds: u64) {
        let parts = i128::from(limit) * i128::from(nanoseconds);
        self.whole -= parts / 60_000_000_000;
        self.remainder -= parts % 60_000_000_000;
        if self.remainder < 0 {
            self.whole -= 1;
            self.remainder += 60_000_000_000;
        }
        self.clamp();
    }

    fn clamp(&mut self) {
        if self.whole < 0 {
            (self.whole, self.remainder) = (0, 0);
        }
    }

    fn fits(&self, quantity: u64, limit: u64) -> bool {
        let rounded_up = self.whole + i128::from(self.remainder > 0);
        rounded_up + i128::from(quantity) <= i128::from(limit)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Take(u64),
    Add(u64),
    GiveBack(u64),
    Limit(u64),
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3 * MINUTE).prop_map(Step::Wait),
        2 => (0..1_000u64).prop_map(Step::Wait),
        8 => (0..2_000u64).prop_map(Step::Take),
        1 => (0..5_000u64).prop_map(Step::Add),
        3 => (0..2_000u64).prop_map(Step::GiveBack),
        1 => (1..3_000u64).prop_map(Step::Limit),
    ]
}

proptest! {
    #[test]
    fn behaves_like_rational_arithmetic(limit in 1..3_000u64, steps in prop::collection::vec(some_step(), 0..200)) {
        let (mut limit, mut now) = (limit, 0);
        let (mut bucket, mut naive) = (Bucket::empty(limit, now), Rational { whole: 0, remainder: 0 });
        for step in steps {
            match step {
                Step::Wait(nanoseconds) => {
                    now += nanoseconds;
                    naive.drain(limit, nanoseconds);
                }
                Step::Take(quantity) => {
                    let taken = take(&mut bucket, quantity, now).is_ok();
                    prop_assert_eq!(taken, naive.fits(quantity, limit));
                    if taken {
                        naive.add(i128::from(quantity));
                    }
                }
                Step::Add(quantity) => {
                    bucket.advance(limit, now);
                    bucket.add(quantity);
                    naive.add(i128::from(quantity));
                }
                Step::GiveBack(quantity) => {
                    bucket.advance(limit, now);
                    bucket.give_back(quantity);
                    naive.add(-i128::from(quantity));
                    naive.clamp();
                }
                Step::Limit(new) => {
                    bucket.advance(new, now);
                    limit = new;
                }
            }
            bucket.advance(limit, now);
            prop_assert_eq!(bucket.level, naive.whole * WEIGHT + naive.remainder);
        }
    }

    /// At the stated wait it fits; a nanosecond earlier it does not.
    #[test]
    fn a_lone_retry_at_the_stated_wait_succeeds(
        limit in 1..=1_000_000_000_000u64, full in 0..2_000_000_000_000u64, share in 0..=1_000u64, start in 0..=u64::MAX / 2,
    ) {
        let mut bucket = Bucket::empty(limit, start);
        bucket.add(full);
        let quantity = u64::try_from(u128::from(limit) * u128::from(share) / 1_000).unwrap();
        if let Err(wait) = take(&mut bucket.clone(), quantity, start) {
            let wait = wait.unwrap();
            prop_assert!(take(&mut bucket.clone(), quantity, start + wait - 1).is_err());
            prop_assert!(take(&mut bucket, quantity, start + wait).is_ok());
        }
    }

    /// In any stretch of time no more is let in than a burst and what drains meanwhile; and with callers always waiting,
    /// all of it is.
    #[test]
    fn the_limit_is_kept_and_used_up(limit in 1..100_000u64, sizes in prop::collection::vec(1..1_000u64, 1..300)) {
        let (mut bucket, mut now, mut taken) = (Bucket::empty(limit, 0), 0, 0u128);
        for size in sizes.into_iter().map(|size| size.min(limit)) {
            if let Err(wait) = take(&mut bucket, size, now) {
                now += wait.unwrap();
                prop_assert!(take(&mut bucket, size, now).is_ok());
            }
            taken += u128::from(size);
            let most = u128::from(limit) * u128::from(MINUTE) + u128::from(limit) * u128::from(now);
            prop_assert!(taken * u128::from(MINUTE) <= most);
            prop_assert!(now == 0 || (taken + 1) * u128::from(MINUTE) + u128::from(limit) > most, "no room is lost");
        }
    }
}
