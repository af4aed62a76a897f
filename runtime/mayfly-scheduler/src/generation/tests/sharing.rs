//! Owners share the engine by tokens, and nobody waits for ever.

use std::collections::BTreeMap;

use super::simulation::{Simulation, settings};
use crate::generation::{Owner, SequenceId, Settings, queues::PASSED_OVER_MAX};

/// Tokens that each owner was served: prompt tokens run and tokens accepted.
fn served(simulation: &Simulation) -> BTreeMap<Owner, u64> {
    let mut served = BTreeMap::new();
    for seen in simulation.sequences.values() {
        *served.entry(seen.submission.owner).or_default() += u64::from(seen.fresh) + seen.accepted.len() as u64;
    }
    served
}

/// Keeps `count` sequences of `owner` in the engine.
fn keep_busy(simulation: &mut Simulation, owner: u128, count: usize, prompt: &[u32], new: u32) {
    let open = simulation.open();
    let theirs = open.iter().filter(|id| simulation.seen(**id).submission.owner == Owner(owner)).count();
    for _ in theirs..count {
        simulation.add_for(owner, None, prompt, new);
    }
}

/// Two owners that always wait, with these prompts and answers, get the same share.
#[track_caller]
fn check_shares(batched: bool, one: (usize, u32), other: (usize, u32)) {
    let mut simulation = Simulation::new(Settings { batched, ..settings() });
    for _ in 0..3_000 {
        keep_busy(&mut simulation, 1, 20, &vec![1; one.0], one.1);
        keep_busy(&mut simulation, 2, 6, &vec![2; other.0], other.1);
        simulation.step();
    }
    let served = served(&simulation);
    let (one, other) = (served[&Owner(1)], served[&Owner(2)]);
    // What a whole engine full of the largest sequences holds.
    let bound = u64::from(simulation.settings.slots * simulation.settings.context_max);
    assert!(one.abs_diff(other) <= bound && one > 4 * bound, "{served:?}");
}

#[test]
fn owners_that_wait_are_served_the_same_tokens() {
    check_shares(true, (4, 4), (4, 4));
    check_shares(true, (4, 4), (40, 20));
    check_shares(true, (30, 1), (2, 30));
    check_shares(false, (4, 4), (40, 20));
}

#[test]
fn a_newcomer_passes_the_queue_of_a_busy_owner_but_saves_nothing_up() {
    let mut simulation = Simulation::new(Settings { slots: 1, ..settings() });
    for _ in 0..50 {
        simulation.add_for(1, None, &[1; 4], 4);
    }
    simulation.steps(60);
    let newcomers: Vec<_> = (0..10).map(|_| simulation.add_for(2, None, &[2; 4], 4)).collect();
    let done = |simulation: &Simulation| newcomers.iter().filter(|id| simulation.seen(**id).end.is_some()).count();
    simulation.steps(10);
    assert!(done(&simulation) >= 1, "the newcomer waits behind the queue");
    simulation.steps(20);
    assert!(done(&simulation) <= 4, "the newcomer was alone for a while");
}

/// Steps until `id` has a slot, while `load` comes before every step.
fn steps_until_started(simulation: &mut Simulation, id: SequenceId, mut load: impl FnMut(&mut Simulation)) -> u32 {
    for steps in 0..20_000 {
        load(simulation);
        simulation.step();
        if simulation.seen(id).started {
            return steps;
        }
    }
    panic!("{id:?} starves");
}

#[test]
fn a_stream_of_new_owners_starves_nobody() {
    let mut simulation = Simulation::new(Settings { slots: 2, ..settings() });
    simulation.add_for(1, None, &[1; 40], 20);
    simulation.drain();
    // Owner 1 has debts only while somebody else is here.
    simulation.add_for(2, None, &[1; 2], 60);
    simulation.add_for(1, None, &[1; 40], 20);
    simulation.steps(20);
    let waits = simulation.add_for(1, None, &[1; 4], 4);
    let mut owner = 100;
    let steps = steps_until_started(&mut simulation, waits, |simulation| {
        while simulation.open().len() < 8 {
            owner += 1;
            simulation.add_for(owner, None, &[3; 2], 2);
        }
    });
    // Each of those that may pass takes two steps and a release at most, two slots at a time.
    assert!(steps < PASSED_OVER_MAX * 8, "{steps} steps");
}

#[test]
fn a_large_sequence_is_not_passed_by_small_ones_for_ever() {
    let mut simulation = Simulation::new(Settings { kv_tokens_max: 64, ..settings() });
    keep_busy(&mut simulation, 1, 8, &[1; 4], 8);
    simulation.steps(20);
    let large = simulation.add_for(2, None, &[2; 50], 14);
    let steps = steps_until_started(&mut simulation, large, |simulation| {
        keep_busy(simulation, 1, 8, &[1; 4], 8);
    });
    assert!(steps > 20, "it never had to wait, so nothing was tested");
    assert!(steps < PASSED_OVER_MAX * 20, "{steps} steps");
}

#[test]
fn prompts_of_several_owners_take_turns() {
    let mut simulation = Simulation::new(settings());
    simulation.add_for(1, None, &[1; 24], 1);
    simulation.add_for(1, None, &[1; 24], 1);
    simulation.add_for(2, None, &[2; 16], 1);
    let expected = [
        "prefill 1@0 0..8",
        "prefill 3@1 0..8",
        "prefill 1@0 8..16",
        "prefill 3@1 8..16 last",
        "prefill 1@0 16..24 last",
        "prefill 2@2 0..8",
    ];
    assert_eq!(simulation.steps(expected.len()), expected);
}

#[test]
fn an_owner_with_many_sequences_gets_no_more_turns_where_rows_run_alone() {
    let mut simulation = Simulation::new(Settings { batched: false, slots: 5, ..settings() });
    let many: Vec<_> = (0..4).map(|_| simulation.add_for(1, None, &[1; 2], 60)).collect();
    let alone = simulation.add_for(2, None, &[2; 2], 60);
    simulation.steps(60);
    let tokens = |id: &SequenceId| simulation.seen(*id).accepted.len();
    let theirs: Vec<usize> = many.iter().map(tokens).collect();
    let all: usize = theirs.iter().sum();
    assert!(all.abs_diff(tokens(&alone)) <= 12, "{theirs:?} and {}", tokens(&alone));
    assert!(theirs.iter().max() <= theirs.iter().min().map(|least| least + 6).as_ref(), "{theirs:?}");
}
