//! Caps and credit, and how the ledger's word and what happens meanwhile come together.

use super::*;

/// Asks for all that is unknown and answers with `lease`.
fn read(limits: &mut Limits, levels: &Levels, lease: &Lease, now: Now) {
    for level in limits.unknown(levels, now) {
        limits.load(level, lease, now);
    }
}

fn spent(amount: i128, position: i64) -> (Ask, Option<Position>) {
    (pico(amount), Some(Position(position)))
}

/// A call that owes `amount`, from door to end.
fn whole_call(limits: &mut Limits, levels: &Levels, amount: i128, position: i64, now: Now) -> Result<(), Refusal> {
    let call = limits.enter(levels, false, now)?;
    let reserved = limits.reserve(levels, &call, pico(amount), now);
    let (owed, end) = if reserved.is_ok() { spent(amount, position) } else { (nothing(), None) };
    limits.leave(levels, call, owed, owed, end, false, now);
    reserved
}

#[test]
fn a_cap_is_never_passed_and_says_what_was_spent() {
    let levels = tenant_only(cap(1_000_000_000_000, Period::Month));
    let mut limits = Limits::default();
    let unknown = limits.enter(&levels, false, at(0)).unwrap_err();
    check_refusal(&unknown, RefusalKind::Rate, None, "tenant money is still being read from the ledger; retry");
    assert_eq!(limits.unknown(&levels, at(0)), [tenant()]);
    limits.load(tenant(), &lease(5, 0, 900_000_000_000), at(0));
    assert!(limits.unknown(&levels, at(0)).is_empty());
    let call = limits.enter(&levels, false, at(0)).unwrap();
    limits.reserve(&levels, &call, pico(60_000_000_000), at(0)).unwrap();
    let refusal = limits.reserve(&levels, &call, pico(40_000_000_001), at(0)).unwrap_err();
    let message = "tenant limit spend = 1 per month: 0.9 spent, 0.06 held, 0.040000000001 requested; wait for the next \
                   month or have the limit raised";
    check_refusal(&refusal, RefusalKind::Money, None, message);
    limits.reserve(&levels, &call, pico(40_000_000_000), at(0)).unwrap();
    let refusal = limits.enter(&levels, false, at(0)).unwrap_err();
    let message =
        "tenant limit spend = 1 per month: 0.9 spent, 0.1 held; wait for the next month or have the limit raised";
    check_refusal(&refusal, RefusalKind::Money, None, message);
    let refusal = limits.reserve(&levels, &call, pico(1_000_000_000_001), at(0)).unwrap_err();
    let message =
        "tenant limit spend = 1 per month: 1.000000000001 requested, which can never fit; ask for less at once";
    check_refusal(&refusal, RefusalKind::NeverFits, None, message);
    assert!(limits.reserve(&levels, &call, tokens(9), at(0)).is_ok(), "free work goes on");
    limits.leave(&levels, call, pico(100_000_000_000), pico(99_999_999_999), Some(Position(6)), false, at(0));
    assert!(whole_call(&mut limits, &levels, 2, 7, at(0)).is_err());
    assert!(whole_call(&mut limits, &levels, 1, 7, at(0)).is_ok());
    assert!(limits.enter(&levels, false, at(0)).is_err());
}

#[test]
fn credit_is_all_there_is() {
    let levels = tenant_only(LevelLimits { prepaid: true, ..LevelLimits::default() });
    let credit =
        |position, credit: Option<i128>| Lease { credit: credit.map(Money::from_pico), ..lease(position, 0, 7) };
    let mut limits = Limits::default();
    read(&mut limits, &levels, &credit(1, None), at(0));
    let refusal = limits.enter(&levels, false, at(0)).unwrap_err();
    let message = "tenant limit prepaid: no credit was granted; have credit granted";
    check_refusal(&refusal, RefusalKind::Money, None, message);
    limits.forget_money();
    read(&mut limits, &levels, &credit(2, Some(100)), at(0));
    whole_call(&mut limits, &levels, 60, 3, at(0)).unwrap();
    let call = limits.enter(&levels, false, at(0)).unwrap();
    limits.reserve(&levels, &call, pico(30), at(0)).unwrap();
    let refusal = limits.reserve(&levels, &call, pico(11), at(0)).unwrap_err();
    let message = "tenant limit prepaid: 0.00000000004 of credit left, 0.00000000003 of it held, 0.000000000011 requested; \
                   have credit granted";
    check_refusal(&refusal, RefusalKind::Money, None, message);
    // Taken back while the call is open: it goes on with what it has, the next does not enter.
    limits.forget_money();
    assert!(limits.reserve(&levels, &call, pico(1), at(0)).is_ok());
    read(&mut limits, &levels, &credit(4, Some(-20)), at(0));
    assert_eq!(limits.enter(&levels, false, at(0)).unwrap_err().kind, RefusalKind::Money);
    assert!(limits.reserve(&levels, &call, pico(1), at(0)).is_err());
}

/// What is left of a cap of 100, found by trying.
fn left(limits: &mut Limits, levels: &Levels, now: Now) -> i128 {
    let call = match limits.enter(levels, false, now) {
        Ok(call) => call,
        Err(refusal) => {
            assert_eq!(refusal.kind, RefusalKind::Money, "{refusal}");
            return 0;
        }
    };
    let left = (0..=100).rev().find(|&amount| {
        let fits = limits.reserve(levels, &call, pico(amount), now).is_ok();
        if fits {
            limits.correct(levels, &call, pico(amount), nothing(), now);
        }
        fits
    });
    limits.leave(levels, call, nothing(), nothing(), None, false, now);
    left.unwrap()
}

#[test]
fn settlements_around_a_lease_count_once_however_they_fall() {
    let levels = tenant_only(cap(100, Period::Month));
    let start = |limits: &mut Limits| {
        read(limits, &levels, &lease(10, 0, 0), at(0));
        let call = limits.enter(&levels, false, at(0)).unwrap();
        limits.reserve(&levels, &call, pico(30), at(0)).unwrap();
        limits.forget_money();
        call
    };
    let end = |limits: &mut Limits, call| {
        limits.leave(&levels, call, pico(30), pico(20), Some(Position(11)), false, at(0));
    };
    let ask = |limits: &mut Limits| assert_eq!(limits.unknown(&levels, at(0)), [tenant()]);
    // (the lease contains the settlement, it leaves before the asking / before the loading / after)
    for (contains, order) in [(true, 0), (true, 1), (true, 2), (false, 1), (false, 2)] {
        let mut limits = Limits::default();
        let call = start(&mut limits);
        let answer = if contains { lease(11, 0, 20) } else { lease(10, 0, 0) };
        match order {
            0 => {
                end(&mut limits, call);
                ask(&mut limits);
                limits.load(tenant(), &answer, at(0));
            }
            1 => {
                ask(&mut limits);
                end(&mut limits, call);
                limits.load(tenant(), &answer, at(0));
            }
            _ => {
                ask(&mut limits);
                limits.load(tenant(), &answer, at(0));
                end(&mut limits, call);
            }
        }
        assert_eq!(left(&mut limits, &levels, at(0)), 80, "contained: {contains}, order {order}");
    }
}

#[test]
fn an_answer_to_an_earlier_question_is_not_taken_for_a_new_one() {
    let levels = tenant_only(cap(100, Period::Month));
    let mut limits = Limits::default();
    limits.load(tenant(), &lease(1, 0, 0), at(0));
    assert_eq!(limits.enter(&levels, false, at(0)).unwrap_err().kind, RefusalKind::Rate, "nobody had asked");
    // Rows are corrected while the ledger is read: whichever answer comes first, one more is awaited.
    assert_eq!(limits.unknown(&levels, at(0)), [tenant()]);
    limits.forget_money();
    limits.load(tenant(), &lease(1, 0, 0), at(0));
    assert_eq!(limits.unknown(&levels, at(0)), [tenant()]);
    limits.load(tenant(), &lease(2, 0, 90), at(0));
    assert_eq!(left(&mut limits, &levels, at(0)), 10);
    // Asked twice at once: the second answer, as old as the first, does not undo what was settled between.
    limits.forget_money();
    assert_eq!(limits.unknown(&levels, at(0)).len() + limits.unknown(&levels, at(0)).len(), 2);
    limits.load(tenant(), &lease(2, 0, 90), at(0));
    whole_call(&mut limits, &levels, 6, 3, at(0)).unwrap();
    limits.load(tenant(), &lease(2, 0, 90), at(0));
    assert_eq!(left(&mut limits, &levels, at(0)), 4);
    // The limit goes and comes back while the ledger is read; what was settled in between was seen by nobody.
    let unlimited = tenant_only(LevelLimits::default());
    limits.forget_money();
    assert_eq!(limits.unknown(&levels, at(0)), [tenant()]);
    whole_call(&mut limits, &unlimited, 3, 4, at(0)).unwrap();
    assert_eq!(limits.unknown(&levels, at(0)), [tenant()]);
    limits.load(tenant(), &lease(3, 0, 96), at(0));
    assert_eq!(limits.unknown(&levels, at(0)), [tenant()], "that answer was older than the settlement");
    limits.load(tenant(), &lease(4, 0, 99), at(0));
    assert_eq!(limits.unknown(&levels, at(0)), [tenant()], "it could have been that of the purse before");
    limits.load(tenant(), &lease(4, 0, 99), at(0));
    assert_eq!(left(&mut limits, &levels, at(0)), 1);
}

#[test]
fn money_is_spent_in_the_period_the_call_opened_in() {
    let levels = tenant_only(cap(100, Period::Hour));
    let (first, second) = (Now { monotonic: 0, wall: HOUR - 1 }, Now { monotonic: 1_000, wall: HOUR });
    let mut limits = Limits::default();
    read(&mut limits, &levels, &lease(1, 0, 50), first);
    let call = limits.enter(&levels, false, first).unwrap();
    limits.reserve(&levels, &call, pico(30), first).unwrap();
    read(&mut limits, &levels, &lease(1, HOUR, 0), second);
    assert_eq!(left(&mut limits, &levels, second), 100, "what it holds is not of this hour");
    assert!(limits.reserve(&levels, &call, pico(21), second).is_err(), "its own hour has 20 left");
    limits.reserve(&levels, &call, pico(20), second).unwrap();
    let other = limits.enter(&levels, false, second).unwrap();
    limits.reserve(&levels, &other, pico(70), second).unwrap();
    limits.leave(&levels, call, pico(50), pico(45), Some(Position(2)), false, second);
    assert_eq!(left(&mut limits, &levels, second), 30);
    limits.leave(&levels, other, pico(70), pico(70), Some(Position(3)), false, second);
    // The clock goes back: the hour before has what it had.
    read(&mut limits, &levels, &lease(3, 0, 95), first);
    assert_eq!(left(&mut limits, &levels, first), 5);
    read(&mut limits, &levels, &lease(3, HOUR, 70), second);
    assert_eq!(left(&mut limits, &levels, second), 30);
}

#[test]
fn a_cap_that_comes_with_calls_open_counts_what_they_hold() {
    let capped = tenant_only(cap(100, Period::Hour));
    let unlimited = tenant_only(LevelLimits::default());
    let mut limits = Limits::default();
    let call = limits.enter(&unlimited, false, at(0)).unwrap();
    limits.reserve(&unlimited, &call, pico(30), at(0)).unwrap();
    read(&mut limits, &capped, &lease(1, 0, 50), at(0));
    assert_eq!(left(&mut limits, &capped, at(0)), 20);
    limits.leave(&unlimited, call, pico(30), pico(10), Some(Position(2)), false, at(0));
    assert_eq!(left(&mut limits, &capped, at(0)), 40);
    // Another length of period: all is read again, what is open is held.
    let call = limits.enter(&capped, false, at(0)).unwrap();
    limits.reserve(&capped, &call, pico(5), at(0)).unwrap();
    let daily = tenant_only(cap(100, Period::Day));
    read(&mut limits, &daily, &lease(2, 0, 80), at(0));
    assert_eq!(left(&mut limits, &daily, at(0)), 15);
    let raised = tenant_only(cap(90, Period::Day));
    assert_eq!(left(&mut limits, &raised, at(0)), 5, "another amount applies at once");
    limits.leave(&raised, call, pico(5), nothing(), None, false, at(0));
    assert_eq!(left(&mut limits, &raised, at(0)), 10, "a void call spends nothing");
    // And the day of a call that is open stays, whatever other days come, although its cap came after the call.
    let call = limits.enter(&unlimited, false, at(0)).unwrap();
    read(&mut limits, &raised, &lease(2, 0, 80), at(0));
    read(&mut limits, &raised, &lease(2, 0, 80), at(0));
    for day in 1..5 {
        let then = Now { monotonic: 0, wall: day * 24 * HOUR };
        read(&mut limits, &raised, &lease(2, then.wall, 0), then);
        assert_eq!(left(&mut limits, &raised, then), 90);
    }
    assert!(limits.reserve(&unlimited, &call, pico(11), at(0)).is_err());
    assert!(limits.reserve(&unlimited, &call, pico(10), at(0)).is_ok());
}

#[test]
fn counters_survive_a_restart() {
    let levels = tenant_only(cap(100, Period::Month));
    let mut before = Limits::default();
    read(&mut before, &levels, &lease(0, 0, 0), at(0));
    let mut ledger = 0;
    for position in 1..=9 {
        whole_call(&mut before, &levels, 10, position, at(0)).unwrap();
        ledger += 10;
    }
    let mut after = Limits::default();
    read(&mut after, &levels, &lease(9, 0, ledger), at(0));
    assert_eq!((left(&mut before, &levels, at(0)), left(&mut after, &levels, at(0))), (10, 10));
}

/// 64 callers against a cap, all between their check and their spending at the same time.
#[test]
fn budget_check_then_increment_cannot_race() {
    let levels = tenant_only(cap(1_000, Period::Month));
    let mut limits = Limits::default();
    read(&mut limits, &levels, &lease(0, 0, 0), at(0));
    let calls: Vec<_> = (0..64).map(|_| limits.enter(&levels, false, at(0)).unwrap()).collect();
    let mut held = vec![0; 64];
    for round in 0..10 {
        for (nth, call) in calls.iter().enumerate() {
            let more = i128::try_from(nth % 7 + round).unwrap();
            if limits.reserve(&levels, call, pico(more), at(0)).is_ok() {
                held[nth] += more;
            }
        }
    }
    assert_eq!(held.iter().sum::<i128>(), 1_000, "all of it, and not a pico more");
    let mut spent = 0;
    for ((call, held), position) in calls.into_iter().zip(held).zip(1..) {
        spent += held;
        limits.leave(&levels, call, pico(held), pico(held), Some(Position(position)), false, at(0));
    }
    assert_eq!((spent, left(&mut limits, &levels, at(0))), (1_000, 0));
}
