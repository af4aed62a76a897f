//! Short stories: a few events, and what follows.

use super::device::{Answer, Device, State, own, settings};
use crate::residency::{Fit, Need, Refused, Settings, Use};

const FAR: u64 = 1_000_000;

/// A device with sessions of these sizes, loaded one after the other at times 0, 1, 2, ...
fn with(settings: Settings, sizes: &[u64]) -> (Device, Vec<crate::residency::SessionId>) {
    let mut device = Device::new(settings);
    let ids = sizes
        .iter()
        .map(|bytes| {
            let (id, ..) = device.ask(*bytes, FAR).unwrap();
            device.settle(|_| false);
            device.load_ends(Some(*bytes));
            device.now += 1;
            id
        })
        .collect();
    (device, ids)
}

#[test]
fn what_never_fits_is_refused_at_once() {
    let (mut device, _) = with(settings(), &[50]);
    assert_eq!(device.ask(101, FAR).unwrap_err(), Refused::NeverFits { needs: 101, budget: 100 });
    let mapped = Need { own: 10, mapped: 91 };
    assert_eq!(device.core.fit(mapped), Err(Refused::NeverFits { needs: 101, budget: 100 }));
    assert_eq!(device.core.fit(Need { mapped: 90, ..mapped }), Ok(Fit::Fits));
    assert_eq!(device.core.load().refused, 1);
}

#[test]
fn pages_of_files_do_not_add_up() {
    let mut device = Device::new(settings());
    for at in 0..8 {
        let id = crate::residency::SessionId(1000 + at);
        device.core.want(id, Need { own: 1, mapped: 99 }, true).unwrap();
        assert_eq!(device.core.next(0).len(), 1, "it begins");
        device.core.loaded(0, id, Need { own: 1, mapped: 99 });
    }
    assert_eq!(device.core.load().bytes, Need { own: 8, mapped: 8 * 99 });
}

#[test]
fn the_one_used_longest_ago_goes_and_its_memory_is_waited_for() {
    let (mut device, ids) = with(settings(), &[40, 40]);
    device.does(ids[0], true);
    device.now = 20;
    device.does(ids[0], false);
    let (id, waiter, fit) = device.ask(30, FAR).unwrap();
    assert_eq!(fit, Fit::FitsAfterEviction);
    device.settle(|_| false);
    assert_eq!(device.known[&ids[1]].state, State::Leaving, "loaded later, and used before");
    assert!(device.is_queued(id), "its memory is still there");
    device.unloads_end();
    device.settle(|_| false);
    assert_eq!(device.loading(), Some(id));
    device.load_ends(Some(30));
    assert_eq!(device.answers[&waiter], Answer::Loaded);
    assert_eq!(device.core.load().evicted_for_room, 1);
}

#[test]
fn what_works_is_young_or_pinned_stays() {
    let (mut device, ids) = with(settings(), &[30, 30, 30]);
    device.does(ids[0], true);
    device.pin(ids[1], true);
    device.now = 11;
    let (id, ..) = device.ask(40, FAR).unwrap();
    device.settle(|_| false);
    assert!(device.is_queued(id) && device.known.values().all(|known| known.state != State::Leaving));
    assert_eq!(device.core.next_due(device.now), Some(12), "the youngest may go then");
    assert!(device.core.is_blocked());
    device.now = 12;
    device.settle(|_| false);
    assert_eq!(device.known[&ids[2]].state, State::Leaving);
}

#[test]
fn work_that_comes_before_the_eviction_wins() {
    let (mut device, ids) = with(settings(), &[60, 40]);
    device.now = 50;
    let (id, ..) = device.ask(30, FAR).unwrap();
    device.settle(|id| id == ids[0]);
    assert_eq!(device.known[&ids[1]].state, State::Leaving, "the next one goes in its place");
    device.unloads_end();
    device.settle(|_| false);
    assert_eq!(device.loading(), Some(id));
    assert_eq!(device.core.load().evicted_for_room, 1, "one went");
}

#[test]
fn nobody_waits_in_vain() {
    let (mut device, ids) = with(settings(), &[50, 50]);
    // Loaded at 0 and 1, and they stay 10.
    assert_eq!(device.ask(20, 9).unwrap_err(), Refused::NoRoom);
    assert_eq!(device.ask(80, 10).unwrap_err(), Refused::NoRoom);
    assert!(device.ask(20, 10).is_ok());
    device.pin(ids[0], true);
    assert_eq!(device.ask(60, FAR).unwrap_err(), Refused::NoRoom);
}

#[test]
fn a_wait_for_room_ends_at_its_time() {
    let (mut device, ids) = with(settings(), &[90]);
    device.does(ids[0], true);
    let (id, short, _) = device.ask(20, 100).unwrap();
    let long = device.join(id, 200).unwrap();
    device.now = 100;
    assert_eq!(device.core.next_due(99), Some(100));
    device.settle(|_| false);
    assert_eq!(device.answers.get(&short), Some(&Answer::Refused));
    assert!(device.waits.contains_key(&long) && device.is_queued(id));
    device.now = 200;
    device.settle(|_| false);
    assert_eq!(device.answers.get(&long), Some(&Answer::Refused));
    assert!(!device.is_queued(id), "nobody wants it any more");
}

#[test]
fn a_large_one_is_passed_only_so_often() {
    let (mut device, ids) = with(settings(), &[70]);
    device.does(ids[0], true);
    device.now = 50;
    let (large, ..) = device.ask(90, FAR).unwrap();
    let small: Vec<_> = (0..4).map(|_| device.ask(5, FAR).unwrap().0).collect();
    for _ in 0..4 {
        device.settle(|_| false);
        device.load_ends(Some(5));
    }
    let loaded = small.iter().filter(|id| device.known.contains_key(id)).count();
    assert_eq!(loaded, 2, "`passes_max`");
    device.does(ids[0], false);
    device.now = 70;
    device.settle(|_| false);
    device.unloads_end();
    device.settle(|_| false);
    assert_eq!(device.loading(), Some(large));
}

#[test]
fn what_nobody_waits_for_comes_last_and_may_evict_nothing() {
    let (mut device, ids) = with(settings(), &[90]);
    device.now = 50;
    let spare = device.want(20, false).unwrap();
    let keen = device.want(15, true).unwrap();
    let (asked, ..) = device.ask(5, FAR).unwrap();
    device.settle(|_| false);
    assert_eq!(device.loading(), Some(asked));
    device.load_ends(Some(5));
    device.settle(|_| false);
    assert_eq!(device.known[&ids[0]].state, State::Leaving, "for the one that may");
    device.unloads_end();
    // With that room, in order.
    for id in [spare, keen] {
        device.settle(|_| false);
        assert_eq!(device.loading(), Some(id));
        device.load_ends(Some(1));
    }
}

#[test]
fn more_than_was_predicted_makes_others_go() {
    let (mut device, ids) = with(settings(), &[40]);
    device.now = 50;
    device.ask(50, FAR).unwrap();
    device.settle(|_| false);
    device.load_ends(Some(90));
    device.settle(|_| false);
    assert_eq!(device.known[&ids[0]].state, State::Leaving);
}

#[test]
fn what_nobody_uses_goes_unless_it_is_pinned() {
    let (mut device, ids) = with(settings(), &[10, 10, 10]);
    device.pin(ids[1], true);
    device.does(ids[2], true);
    device.settle(|_| false);
    assert_eq!(device.core.next_due(device.now), Some(1000));
    device.now = 1500;
    device.settle(|_| false);
    let states: Vec<_> = ids.iter().map(|id| device.known[id].state).collect();
    assert_eq!(states[0], State::Leaving);
    assert!(matches!(states[1], State::Loaded { .. }));
    assert_eq!(states[2], State::Loaded { at: 2, does: Use::Working });
    assert_eq!(device.core.load().evicted_idle, 1);
}

#[test]
fn the_queue_has_an_end() {
    let mut device = Device::new(Settings { waiting_max: 2, ..settings() });
    let (id, ..) = device.ask(1, FAR).unwrap();
    assert!(device.join(id, FAR).is_some());
    assert_eq!(device.join(id, FAR), None);
    assert_eq!(device.ask(1, FAR).unwrap_err(), Refused::Full { limit: 2 });
    assert_eq!(device.core.load().waiting, 2);
}

#[test]
fn a_failed_load_leaves_nothing() {
    let mut device = Device::new(settings());
    let (id, waiter, _) = device.ask(100, FAR).unwrap();
    device.settle(|_| false);
    device.load_ends(None);
    assert_eq!(device.answers[&waiter], Answer::Failed);
    assert_eq!((device.core.load().bytes, device.core.fit(own(100))), (Need::default(), Ok(Fit::Fits)));
    assert!(!device.core.forget(id));
}
