//! Concurrency, requests, tokens and wake-ups.

use super::*;

#[test]
fn concurrency_is_counted_at_each_level() {
    let of_key = LevelLimits { concurrency: Some(2), ..LevelLimits::default() };
    let levels = levels([LevelLimits::default(), LevelLimits::default(), LevelLimits::default(), of_key]);
    let mut limits = Limits::default();
    let first = limits.enter(&levels, false, at(0)).unwrap();
    let _second = limits.enter(&levels, false, at(0)).unwrap();
    let refusal = limits.enter(&levels, false, at(0)).unwrap_err();
    let message = "key limit concurrency = 2: 2 used, 1 requested; retry when an open call has ended";
    check_refusal(&refusal, RefusalKind::Rate, None, message);
    assert_eq!(ids(1).map(|id| limits.open(id)), [2; 4], "a refused call is open nowhere");
    limits.leave(&levels, first, nothing(), nothing(), None, false, at(1));
    assert!(limits.enter(&levels, false, at(1)).is_ok());
}

#[test]
fn a_refusal_says_level_limit_used_requested_and_the_exact_wait() {
    let levels = tenant_only(LevelLimits { tokens_per_minute: Some(1_000), ..LevelLimits::default() });
    let mut limits = Limits::default();
    let call = limits.enter(&levels, false, at(0)).unwrap();
    limits.reserve(&levels, &call, tokens(950), at(0)).unwrap();
    let refusal = limits.reserve(&levels, &call, tokens(100), at(0)).unwrap_err();
    let message = "tenant limit tokens_per_minute = 1000: 950 used, 100 requested; retry in 3.000 s";
    check_refusal(&refusal, RefusalKind::Rate, Some(3_000), message);
    assert!(limits.reserve(&levels, &call, tokens(100), at(3 * SECOND - 1)).is_err());
    assert!(limits.reserve(&levels, &call, tokens(100), at(3 * SECOND)).is_ok());
    let refusal = limits.reserve(&levels, &call, tokens(1_001), at(100 * SECOND)).unwrap_err();
    let message = "tenant limit tokens_per_minute = 1000: 1001 requested, which can never fit; ask for less at once";
    check_refusal(&refusal, RefusalKind::NeverFits, None, message);
}

#[test]
fn all_levels_or_none() {
    let of = |tokens_per_minute| LevelLimits { tokens_per_minute, ..LevelLimits::default() };
    let levels = levels([of(Some(1_000)), of(Some(500)), of(None), of(Some(60))]);
    let mut limits = Limits::default();
    let call = limits.enter(&levels, false, at(0)).unwrap();
    limits.reserve(&levels, &call, tokens(60), at(0)).unwrap();
    let refusal = limits.reserve(&levels, &call, tokens(30), at(0)).unwrap_err();
    assert!(refusal.message.starts_with("key limit tokens_per_minute = 60: 60 used, 30 requested"), "{refusal}");
    let room = limits.standing(&levels, at(0)).tokens.unwrap();
    assert_eq!((room.limit, room.remaining, room.reset), (60, 0, 60 * SECOND), "the tightest is told");
    limits.correct(&levels, &call, tokens(60), nothing(), at(0));
    assert_eq!(limits.standing(&levels, at(0)).tokens.unwrap().remaining, 60);
    // The project has exactly its 500 left: the refused 30 were taken nowhere.
    let wide = Levels(levels.0.clone().map(|(id, limits)| match id {
        LevelId::Key(_) => (id, Arc::default()),
        _ => (id, limits),
    }));
    assert!(limits.reserve(&wide, &call, tokens(500), at(0)).is_ok());
}

#[test]
fn of_several_waits_the_longest_is_told_and_is_enough() {
    let levels = levels([
        LevelLimits { requests_per_minute: Some(60), ..LevelLimits::default() },
        LevelLimits::default(),
        LevelLimits { wakeups_per_minute: Some(6), ..LevelLimits::default() },
        LevelLimits { requests_per_minute: Some(600), ..LevelLimits::default() },
    ]);
    let mut limits = Limits::default();
    for nth in 0..60 {
        let wakes = nth < 6;
        let call = limits.enter(&levels, wakes, at(0)).unwrap();
        limits.leave(&levels, call, nothing(), nothing(), None, wakes, at(0));
    }
    let warm = limits.enter(&levels, false, at(0)).unwrap_err();
    let message = "tenant limit requests_per_minute = 60: 60 used, 1 requested; retry in 1.000 s";
    check_refusal(&warm, RefusalKind::Rate, Some(1_000), message);
    let cold = limits.enter(&levels, true, at(0)).unwrap_err();
    let message = "deployment limit wakeups_per_minute = 6: 6 used, 1 requested; retry in 10.000 s";
    check_refusal(&cold, RefusalKind::Rate, Some(10_000), message);
    assert!(limits.enter(&levels, true, at(10 * SECOND - 1)).is_err());
    assert!(limits.enter(&levels, true, at(10 * SECOND)).is_ok());
}

#[test]
fn a_wake_up_that_was_none_is_given_back() {
    let levels = tenant_only(LevelLimits { wakeups_per_minute: Some(1), ..LevelLimits::default() });
    let mut limits = Limits::default();
    let call = limits.enter(&levels, true, at(0)).unwrap();
    assert!(limits.enter(&levels, true, at(0)).is_err());
    limits.leave(&levels, call, nothing(), nothing(), None, false, at(0));
    let call = limits.enter(&levels, true, at(0)).unwrap();
    limits.leave(&levels, call, nothing(), nothing(), None, true, at(0));
    assert!(limits.enter(&levels, true, at(0)).is_err());
}

#[test]
fn the_end_corrects_to_what_was_used_even_beyond_the_limit() {
    let levels = tenant_only(LevelLimits { tokens_per_minute: Some(100), ..LevelLimits::default() });
    let remaining = |limits: &Limits, now| limits.standing(&levels, now).tokens.unwrap().remaining;
    let mut limits = Limits::default();
    let call = limits.enter(&levels, false, at(0)).unwrap();
    limits.reserve(&levels, &call, tokens(80), at(0)).unwrap();
    limits.leave(&levels, call, tokens(80), tokens(30), None, false, at(0));
    assert_eq!(remaining(&limits, at(0)), 70);
    let call = limits.enter(&levels, false, at(0)).unwrap();
    limits.reserve(&levels, &call, tokens(70), at(0)).unwrap();
    limits.leave(&levels, call, tokens(70), tokens(170), None, false, at(0));
    assert_eq!((remaining(&limits, at(0)), remaining(&limits, at(60 * SECOND))), (0, 0), "200 used of 100 a minute");
    assert_eq!(remaining(&limits, at(61 * SECOND)), 1);
}

#[test]
fn limits_added_and_removed_with_calls_open_stay_exact() {
    let limited = tenant_only(LevelLimits {
        tokens_per_minute: Some(100),
        wakeups_per_minute: Some(1),
        ..LevelLimits::default()
    });
    let unlimited = tenant_only(LevelLimits::default());
    let remaining = |limits: &Limits| limits.standing(&limited, at(0)).tokens.unwrap().remaining;
    let mut limits = Limits::default();
    let before = limits.enter(&unlimited, true, at(0)).unwrap();
    limits.reserve(&unlimited, &before, tokens(10_000), at(0)).unwrap();
    let call = limits.enter(&limited, true, at(0)).unwrap();
    limits.reserve(&limited, &call, tokens(60), at(0)).unwrap();
    // What was taken under no limit is not in the bucket and gives nothing back to it.
    limits.correct(&unlimited, &before, tokens(10_000), tokens(9_000), at(0));
    assert_eq!(remaining(&limits), 40);
    assert!(limits.reserve(&unlimited, &before, tokens(41), at(0)).is_err(), "old limits do not come back with it");
    limits.reserve(&unlimited, &before, tokens(40), at(0)).unwrap();
    assert_eq!(remaining(&limits), 0);
    limits.leave(&unlimited, before, tokens(9_040), nothing(), None, false, at(0));
    assert_eq!(remaining(&limits), 40, "only the 40 are given back");
    assert!(limits.enter(&limited, true, at(0)).is_err(), "and no wake-up of its own");
    // Removed and added again: a new bucket, to which the call that is open owes nothing.
    let other = limits.enter(&unlimited, false, at(0)).unwrap();
    limits.leave(&unlimited, other, nothing(), nothing(), None, false, at(0));
    let again = limits.enter(&limited, false, at(0)).unwrap();
    limits.reserve(&limited, &again, tokens(50), at(0)).unwrap();
    limits.leave(&limited, call, tokens(60), nothing(), None, false, at(0));
    assert_eq!(remaining(&limits), 50);
}

#[test]
fn a_change_applies_at_once_to_open_calls_too() {
    let with = |tokens_per_minute| tenant_only(LevelLimits { tokens_per_minute, ..LevelLimits::default() });
    let (few, many) = (with(Some(10)), with(Some(1_000)));
    let mut limits = Limits::default();
    let call = limits.enter(&few, false, at(0)).unwrap();
    assert!(limits.reserve(&few, &call, tokens(500), at(0)).is_err());
    assert!(limits.reserve(&many, &call, tokens(500), at(0)).is_ok(), "brought by the call itself");
    let less = with(Some(501));
    let _other = limits.enter(&less, false, at(0)).unwrap();
    assert!(limits.reserve(&many, &call, tokens(2), at(0)).is_err(), "brought by another call");
    assert!(limits.reserve(&many, &call, tokens(1), at(0)).is_ok());
}

#[test]
fn levels_at_rest_take_no_memory() {
    let levels = tenant_only(LevelLimits { tokens_per_minute: Some(100), ..LevelLimits::default() });
    let mut limits = Limits::default();
    let call = limits.enter(&levels, false, at(0)).unwrap();
    limits.reserve(&levels, &call, tokens(100), at(0)).unwrap();
    limits.correct(&levels, &call, tokens(100), tokens(200), at(0));
    limits.sweep(at(100 * SECOND));
    assert_eq!(limits.len(), 4, "a call is open");
    limits.leave(&levels, call, tokens(200), tokens(200), None, false, at(0));
    limits.sweep(at(119 * SECOND));
    assert_eq!(limits.len(), 1, "the tenant's bucket still drains");
    assert_eq!(limits.standing(&levels, at(119 * SECOND)).tokens.unwrap().remaining, 98);
    limits.sweep(at(120 * SECOND));
    assert!(limits.is_empty());
    assert_eq!(limits.standing(&levels, at(120 * SECOND)).tokens.unwrap().remaining, 100);
}
