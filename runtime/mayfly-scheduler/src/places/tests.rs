//! What is promised of places, in single steps and over random days.

use mayfly_types::{DeploymentId, TenantId};

use super::*;

mod properties;

const MS: u64 = 1_000_000;
const NEVER: u64 = u64::MAX;

fn bounds() -> Bounds {
    Bounds { calls_max: 1_000, running_per_deployment_max: 100, waiting_per_deployment_max: 100 }
}

/// A call of deployment `of`, which is its tenant's only one.
fn wish(of: u8, running_max: u32, waiting_max: u32, deadline: u64) -> Wish {
    Wish {
        tenant: TenantId::from_bytes([of; 16]),
        deployment: DeploymentId::from_bytes([of; 16]),
        running_max: Some(running_max),
        waiting_max: Some(waiting_max),
        deadline,
    }
}

#[track_caller]
fn runs(entered: Result<Entered, Refused>) -> CallNumber {
    match entered {
        Ok(Entered::Runs(number)) => number,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn waits(entered: Result<Entered, Refused>) -> CallNumber {
    match entered {
        Ok(Entered::Waits(number)) => number,
        other => panic!("{other:?}"),
    }
}

fn verdicts(places: &mut Places) -> Vec<Verdict> {
    places.verdicts().collect()
}

#[test]
fn one_runs_one_waits_one_is_refused() {
    let mut places = Places::new(bounds());
    let first = runs(places.arrive(&wish(1, 1, 1, NEVER), 0));
    let second = waits(places.arrive(&wish(1, 1, 1, NEVER), 0));
    let full = Refused::LineFull { running_max: 1, waiting_max: 1, estimate: None };
    assert_eq!(places.arrive(&wish(1, 1, 1, NEVER), 0), Err(full));
    assert_eq!((places.open(), places.waiting()), (2, 1));
    places.leave(first, 20 * MS);
    assert_eq!(verdicts(&mut places), [Verdict::Start(second)]);
    let third = waits(places.arrive(&wish(1, 1, 1, NEVER), 20 * MS));
    let full = Refused::LineFull { running_max: 1, waiting_max: 1, estimate: Some(20 * MS) };
    assert_eq!(places.arrive(&wish(1, 1, 1, NEVER), 20 * MS), Err(full), "now it is known how long one takes");
    places.leave(third, 21 * MS);
    places.leave(second, 22 * MS);
    assert_eq!(verdicts(&mut places), [], "the one that waited has left");
    assert!(places.is_empty());
}

#[test]
fn a_line_at_its_limit_holds_nobody_else_up() {
    let mut places = Places::new(bounds());
    runs(places.arrive(&wish(1, 1, 0, NEVER), 0));
    assert!(places.arrive(&wish(1, 1, 0, NEVER), 0).is_err());
    runs(places.arrive(&wish(2, 1, 0, NEVER), 0));
}

#[test]
fn who_cannot_be_served_in_time_is_told_at_once() {
    let mut places = Places::new(bounds());
    let first = runs(places.arrive(&wish(1, 1, 9, NEVER), 0));
    let second = waits(places.arrive(&wish(1, 1, 9, NEVER), 0));
    places.leave(first, 20 * MS);
    // One runs since then; the next would begin after 20 ms and needs 20 ms.
    let at = 20 * MS;
    assert_eq!(places.arrive(&wish(1, 1, 9, at + 39 * MS), at), Err(Refused::TooLate { wait: 20 * MS }));
    waits(places.arrive(&wish(1, 1, 9, at + 40 * MS), at));
    assert_eq!(places.arrive(&wish(1, 1, 9, at + 59 * MS), at), Err(Refused::TooLate { wait: 40 * MS }));
    assert_eq!(verdicts(&mut places), [Verdict::Start(second)]);
}

#[test]
fn a_turn_that_comes_too_late_goes_to_the_next() {
    let mut places = Places::new(bounds());
    let first = runs(places.arrive(&wish(1, 1, 9, NEVER), 0));
    let late = waits(places.arrive(&wish(1, 1, 9, 5), 0));
    let next = waits(places.arrive(&wish(1, 1, 9, 50), 0));
    places.leave(first, 5);
    assert_eq!(verdicts(&mut places), [Verdict::Expire(late), Verdict::Start(next)]);
    assert_eq!((places.open(), places.waiting()), (2, 0));
    places.leave(late, 6);
    places.leave(next, 7);
    assert!(places.is_empty());
}

#[test]
fn limits_change_under_open_calls() {
    let mut places = Places::new(bounds());
    let first = runs(places.arrive(&wish(1, 1, 9, NEVER), 0));
    let second = waits(places.arrive(&wish(1, 1, 9, NEVER), 0));
    let third = waits(places.arrive(&wish(1, 2, 9, NEVER), 0));
    assert_eq!(verdicts(&mut places), [Verdict::Start(second)], "a second place: for who came before");
    // Back to one place: nobody is thrown out, and nobody begins until both have left.
    assert!(places.arrive(&wish(1, 1, 0, NEVER), 0).is_err());
    places.leave(first, 1);
    assert_eq!(verdicts(&mut places), []);
    places.leave(second, 2);
    assert_eq!(verdicts(&mut places), [Verdict::Start(third)]);
}

#[test]
fn what_the_node_allows_comes_first() {
    let mut places =
        Places::new(Bounds { calls_max: 100, running_per_deployment_max: 2, waiting_per_deployment_max: 1 });
    let refused = |running_max, waiting_max| Refused::LineFull { running_max, waiting_max, estimate: None };
    for _ in 0..2 {
        runs(places.arrive(&wish(1, 50, 50, NEVER), 0));
    }
    waits(places.arrive(&wish(1, 50, 50, NEVER), 0));
    assert_eq!(places.arrive(&wish(1, 50, 50, NEVER), 0), Err(refused(2, 1)));
    // Without limits of its own none waits; with a number of places only, as many wait as run.
    let plain = Wish { running_max: None, waiting_max: None, ..wish(2, 0, 0, NEVER) };
    for _ in 0..2 {
        runs(places.arrive(&plain, 0));
    }
    assert_eq!(places.arrive(&plain, 0), Err(refused(2, 0)));
    let one = Wish { running_max: Some(1), waiting_max: None, ..wish(3, 0, 0, NEVER) };
    runs(places.arrive(&one, 0));
    waits(places.arrive(&one, 0));
    assert_eq!(places.arrive(&one, 0), Err(refused(1, 1)));
}

#[test]
fn who_holds_most_is_refused_first() {
    let mut places =
        Places::new(Bounds { calls_max: 100, running_per_deployment_max: 1_000, waiting_per_deployment_max: 0 });
    let mut held = 0;
    let refused = loop {
        match places.arrive(&wish(1, 1_000, 0, NEVER), 0) {
            Ok(_) => held += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((held, refused), (80, Refused::Share { open: 80, calls_max: 100 }));
    // Another deployment of the same tenant still gets places, and another tenant after that.
    let of_same_tenant = Wish { deployment: DeploymentId::from_bytes([9; 16]), ..wish(1, 1_000, 0, NEVER) };
    let more = (0..100).filter(|_| places.arrive(&of_same_tenant, 0).is_ok()).count();
    assert_eq!(more, 9, "the tenant has 89 then, and 8 times the 11 that are free are 88");
    let other = (0..100).filter(|_| places.arrive(&wish(2, 1_000, 0, NEVER), 0).is_ok()).count();
    assert_eq!(other, 9, "until 9 is 4 times what is free, rounded up");
    assert!(places.open() < 100);
}
