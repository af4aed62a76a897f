//! One sequence or a few, step by step.

use super::simulation::{End, MS, Simulation, settings};
use crate::generation::{Ended, Refused, SequenceId, Settings, Step, Submission};

/// The first steps are exactly these.
#[track_caller]
fn check(simulation: &mut Simulation, expected: &[&str]) {
    assert_eq!(simulation.steps(expected.len()), expected);
}

#[test]
fn a_prompt_is_prefilled_in_chunks_then_decoded_and_its_memory_goes_back() {
    let mut simulation = Simulation::new(settings());
    let id = simulation.add(&[1; 10], 3);
    check(
        &mut simulation,
        &["prefill 1@0 0..8", "prefill 1@0 8..10 last", "decode 1@0", "decode 1@0", "release 0", "idle"],
    );
    assert_eq!(simulation.seen(id).end, Some(End::Finished));
    simulation.check_all_ended();
}

#[test]
fn one_token_is_the_prefills() {
    let mut simulation = Simulation::new(settings());
    simulation.add(&[1], 1);
    check(&mut simulation, &["prefill 1@0 0..1 last", "release 0", "idle"]);
    simulation.check_all_ended();
}

#[test]
fn chunks_and_decodes_take_turns() {
    let mut simulation = Simulation::new(Settings { prefill_chunk_max: 4, ..settings() });
    simulation.add(&[1; 3], 20);
    check(&mut simulation, &["prefill 1@0 0..3 last", "decode 1@0"]);
    simulation.add(&[2; 10], 20);
    let expected = [
        "prefill 2@1 0..4",
        "decode 1@0",
        "prefill 2@1 4..8",
        "decode 1@0",
        "prefill 2@1 8..10 last",
        "decode 1@0 2@1",
    ];
    check(&mut simulation, &expected);
}

#[test]
fn the_last_row_fills_the_slot_of_one_that_ended() {
    let mut simulation = Simulation::new(settings());
    let first = simulation.add(&[1; 3], 20);
    simulation.add(&[2; 4], 20);
    simulation.add(&[3; 5], 20);
    simulation.steps(5);
    check(&mut simulation, &["decode 1@0 2@1 3@2"]);
    simulation.leave(first);
    check(&mut simulation, &["copy 2>0 x6", "decode 3@0 2@1"]);
    assert_eq!(simulation.seen(first).end, Some(End::Cut(Ended::Left)));
}

#[test]
fn a_sequence_that_moves_before_its_first_chunk_leaves_no_memory_behind_beyond_the_limit() {
    let mut simulation = Simulation::new(Settings { kv_tokens_max: 47, ..settings() });
    simulation.add(&[1; 3], 10);
    let left = simulation.add(&[2; 16], 4);
    simulation.steps(6);
    simulation.add(&[3; 9], 3);
    check(&mut simulation, &["prefill 3@2 0..8", "decode 1@0 2@1"]);
    simulation.leave(left);
    // It gets slot 1, where the one that left wrote 18 positions, and is in the way there before it ran.
    simulation.add(&[4; 15], 5);
    let expected = ["prefill 3@2 8..9 last", "release 1", "copy 2>1 x9", "release 2", "decode 1@0 3@1"];
    check(&mut simulation, &expected);
    simulation.drain();
    simulation.check_all_ended();
}

#[test]
fn a_small_sequence_does_not_sit_on_the_memory_of_a_large_one() {
    let mut simulation = Simulation::new(settings());
    simulation.add(&[1; 3], 10);
    let large = simulation.add(&[2; 16], 10);
    simulation.steps(6);
    simulation.leave(large);
    simulation.add(&[3; 2], 2);
    check(&mut simulation, &["release 1", "prefill 3@1 0..2 last", "decode 1@0 3@1"]);
}

#[test]
fn a_paused_sequence_goes_behind_and_comes_back() {
    let mut simulation = Simulation::new(Settings { ahead_max: 2, slots: 2, ..settings() });
    simulation.readers_keep_up = false;
    let slow = simulation.add(&[1; 3], 20);
    let fast = simulation.add(&[2; 3], 20);
    check(&mut simulation, &["prefill 1@0 0..3 last", "decode 1@0", "prefill 2@1 0..3 last"]);
    // The first is two tokens ahead: the second needs slot 0, and the spare slot takes the first.
    check(&mut simulation, &["copy 0>2 x4", "copy 1>0 x3", "decode 2@0"]);
    check(&mut simulation, &["release 1", "idle until 1006 ms"]);
    simulation.read(fast, 2);
    check(&mut simulation, &["decode 2@0"]);
    simulation.read(slow, 1);
    check(&mut simulation, &["copy 2>1 x4", "decode 2@0 1@1"]);
}

#[test]
fn a_reader_that_takes_nothing_is_cut() {
    let mut simulation = Simulation::new(Settings { ahead_max: 3, ..settings() });
    simulation.readers_keep_up = false;
    let id = simulation.add(&[1; 3], 20);
    simulation.steps(3);
    check(&mut simulation, &["idle until 1008 ms"]);
    simulation.now = 900 * MS;
    simulation.read(id, 1);
    check(&mut simulation, &["idle until 1900 ms"]);
    simulation.now = 1900 * MS;
    simulation.step();
    assert_eq!(simulation.seen(id).end, Some(End::Cut(Ended::Stalled)));
    assert_eq!(simulation.seen(id).accepted.len(), 3);
}

#[test]
fn a_deadline_ends_those_that_run_and_those_that_wait() {
    let mut simulation = Simulation::new(Settings { slots: 1, ..settings() });
    let ids = [40, 50].map(|ms| {
        let request = simulation.request(&[1; 30], 30);
        simulation.submit(Submission { deadline_ns: ms * MS, ..request }).expect("there is room")
    });
    while simulation.now < 50 * MS {
        simulation.step();
    }
    simulation.drain();
    for id in ids {
        assert_eq!(simulation.seen(id).end, Some(End::Cut(Ended::Deadline)), "{id:?}");
    }
}

#[test]
fn leaving_ends_at_once_wherever_the_sequence_is() {
    let mut simulation = Simulation::new(Settings { slots: 2, ..settings() });
    let decoding = simulation.add(&[1; 3], 20);
    simulation.step();
    let prefilling = simulation.add(&[2; 30], 20);
    simulation.step();
    let waiting = simulation.add(&[3; 3], 20);
    for id in [decoding, prefilling, waiting] {
        simulation.leave(id);
        simulation.leave(id);
    }
    simulation.step();
    for id in [decoding, prefilling, waiting] {
        assert_eq!(simulation.seen(id).end, Some(End::Cut(Ended::Left)), "{id:?}");
    }
    simulation.drain();
}

#[test]
fn a_failed_run_takes_only_those_in_it() {
    let mut simulation = Simulation::new(settings());
    let first = simulation.add_for(1, Some(1), &[1, 2, 3], 20);
    let second = simulation.add_for(1, Some(1), &[2; 3], 20);
    check(&mut simulation, &["prefill 1@0 0..3 last", "decode 1@0", "prefill 2@1 0..3 last"]);
    let third = simulation.add_for(1, Some(1), &[3; 3], 20);
    assert_eq!(simulation.fail(), [first, second]);
    assert_eq!(simulation.fail(), [third]);
    // Nothing of a failed run is reused.
    let again = simulation.add_for(1, Some(1), &[1, 2, 3, 4], 2);
    simulation.drain();
    assert_eq!(simulation.seen(again).cached, 0);
    simulation.check_all_ended();
}

#[test]
fn an_unconfirmed_step_lets_nothing_else_run() {
    let mut simulation = Simulation::new(settings());
    simulation.add(&[1; 3], 2);
    let scheduler = &mut simulation.scheduler;
    assert!(matches!(scheduler.next(0), Step::Prefill { .. }));
    assert_eq!(scheduler.next(0), Step::Idle { until_ns: Some(u64::MAX) });
}

#[test]
fn calls_about_nobody_change_nothing() {
    let mut simulation = Simulation::new(settings());
    let ended = simulation.add(&[1; 3], 1);
    simulation.drain();
    let waiting = simulation.add(&[1; 3], 3);
    let before = simulation.scheduler.load();
    let scheduler = &mut simulation.scheduler;
    for id in [ended, SequenceId(99)] {
        assert!(scheduler.accepted(0, id, 1, true), "it is over");
        scheduler.read(0, id, 1);
        scheduler.leave(0, id);
    }
    // Its prompt was not run yet.
    scheduler.accepted(0, waiting, 1, true);
    scheduler.ran(0, 5);
    assert_eq!(scheduler.fail_running(0), []);
    assert_eq!((scheduler.notices(), scheduler.load()), (vec![], before));
    simulation.drain();
    simulation.check_all_ended();
}

#[test]
fn one_row_at_a_time_where_the_model_cannot_batch() {
    let mut simulation = Simulation::new(Settings { batched: false, slots: 2, ..settings() });
    simulation.add(&[1; 3], 4);
    simulation.add(&[2; 3], 4);
    let expected = [
        "prefill 1@0 0..3 last",
        "decode 1@0",
        "prefill 2@1 0..3 last",
        "decode 2@1",
        "decode 1@0",
        "decode 2@1",
        "decode 1@0",
        "decode 2@1",
    ];
    check(&mut simulation, &expected);
    simulation.drain();
    simulation.check_all_ended();
}

#[test]
fn what_cannot_be_run_is_refused() {
    let mut simulation = Simulation::new(Settings { waiting_max: 2, ..settings() });
    let mut check = |prompt: &[u32], new: u32, expected: Refused| {
        let request = simulation.request(prompt, new);
        assert_eq!(simulation.submit(request), Err(expected));
    };
    check(&[], 1, Refused::NothingToRun);
    check(&[1], 0, Refused::NothingToRun);
    check(&[1; 60], 5, Refused::NeverFits { tokens: 65, limit: 64 });
    check(&[1], u32::MAX, Refused::NeverFits { tokens: 1 << 32, limit: 64 });
    let id = simulation.add(&[1; 60], 4);
    let again = Submission { id, ..simulation.request(&[1], 1) };
    assert_eq!(simulation.submit(again), Err(Refused::Duplicate { id }));
    simulation.add(&[1], 1);
    let third = simulation.request(&[1], 1);
    let refused = simulation.submit(third).expect_err("two wait already");
    assert_eq!(refused, Refused::QueueFull { waiting: 2, limit: 2 });
    assert_eq!(refused.to_string(), "2 sequences wait already, of at most 2");
}
