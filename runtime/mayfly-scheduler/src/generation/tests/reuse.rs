//! Prefixes: who gets them, how they get there, when they go.

use super::simulation::{Simulation, settings};
use crate::generation::{SequenceId, Settings, Submission};

const SYSTEM: [u32; 20] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4];

fn asks(question: &[u32]) -> Vec<u32> {
    [&SYSTEM, question].concat()
}

/// Prompt tokens that `prompt` takes over after a first sequence with [`SYSTEM`] and another end.
#[track_caller]
fn check(first: (u128, Option<u8>), then: (u128, Option<u8>), prompt: &[u32], cached: u32) {
    let mut simulation = Simulation::new(settings());
    simulation.add_for(first.0, first.1, &asks(&[1]), 3);
    simulation.drain();
    let id = simulation.add_for(then.0, then.1, prompt, 3);
    simulation.drain();
    simulation.check_all_ended();
    assert_eq!(simulation.seen(id).cached, cached);
}

#[test]
fn a_prefix_is_reused_within_its_scope_only() {
    check((1, Some(1)), (1, Some(1)), &asks(&[2]), 20);
    check((1, Some(1)), (2, Some(1)), &asks(&[2]), 20);
    check((1, Some(1)), (1, Some(2)), &asks(&[2]), 0);
    check((1, Some(1)), (1, None), &asks(&[2]), 0);
    check((1, None), (1, None), &asks(&[2]), 0);
    check((1, None), (1, Some(1)), &asks(&[2]), 0);
}

#[test]
fn at_least_one_token_is_run() {
    check((1, Some(1)), (1, Some(1)), &asks(&[1]), 20);
    check((1, Some(1)), (1, Some(1)), &SYSTEM, 19);
    check((1, Some(1)), (1, Some(1)), &SYSTEM[..1], 0);
}

#[test]
fn the_next_turn_of_a_chat_goes_on_in_its_slot() {
    let mut simulation = Simulation::new(settings());
    let first = simulation.add_for(1, Some(1), &asks(&[1]), 3);
    simulation.drain();
    // The last accepted token was never run.
    let said = simulation.seen(first).accepted.clone();
    let next = simulation.add_for(1, Some(1), &[&asks(&[1])[..], &said, &[2, 2]].concat(), 3);
    assert_eq!(simulation.step(), "prefill 2@0 23..26 last");
    assert_eq!(simulation.seen(next).cached, 23);
}

#[test]
fn a_short_beginning_is_copied_and_the_rest_stays() {
    let mut simulation = Simulation::new(settings());
    simulation.add_for(1, Some(1), &asks(&[1; 10]), 3);
    simulation.drain();
    simulation.add_for(1, Some(1), &asks(&[2; 10]), 3);
    assert_eq!(simulation.steps(2), ["copy 0>1 x20", "prefill 2@1 20..28"]);
    simulation.drain();
    let third = simulation.add_for(1, Some(1), &asks(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 9]), 3);
    simulation.drain();
    assert_eq!(simulation.seen(third).cached, 30);
}

#[test]
fn a_sequence_that_still_runs_lends_its_prefix() {
    let mut simulation = Simulation::new(settings());
    simulation.add_for(1, Some(1), &asks(&[1]), 30);
    simulation.steps(4);
    let second = simulation.add_for(1, Some(1), &asks(&[2]), 3);
    simulation.drain();
    assert_eq!(simulation.seen(second).cached, 20);
    simulation.check_all_ended();
}

/// Choices of one request, by how many slots there are; the prompt is run once, but for its last token.
#[track_caller]
fn check_choices(slots: u32, choices: u32, scope: Option<u8>) {
    let mut simulation = Simulation::new(Settings { slots, ..settings() });
    let first = simulation.add_for(1, scope, &SYSTEM, 4);
    let request = simulation.seen(first).submission.clone();
    let others: Vec<SequenceId> = (1..choices)
        .map(|_| {
            let id = simulation.request(&SYSTEM, 4).id;
            simulation.submit(Submission { id, ..request.clone() }).expect("there is room")
        })
        .collect();
    simulation.drain();
    simulation.check_all_ended();
    assert_eq!(simulation.seen(first).fresh, 20);
    for id in others {
        assert_eq!((simulation.seen(id).fresh, simulation.seen(id).cached), (1, 19), "{id:?}");
    }
    let kept = simulation.scheduler.load().kv_tokens_kept;
    assert_eq!(kept > 0, scope.is_some(), "{kept} positions kept");
}

#[test]
fn choices_of_one_request_share_its_prompt() {
    check_choices(4, 3, None);
    check_choices(4, 3, Some(1));
    // More choices than slots: the prompt stays for those that wait.
    check_choices(2, 5, None);
    check_choices(1, 3, None);
}

#[test]
fn kept_prefixes_give_way_to_what_runs() {
    let settings = Settings { kv_tokens_max: 64, ..settings() };
    let mut simulation = Simulation::new(settings);
    simulation.add_for(1, Some(1), &asks(&[1]), 3);
    simulation.drain();
    simulation.add_for(1, Some(2), &asks(&[1]), 3);
    simulation.drain();
    assert_eq!(simulation.scheduler.load().kv_tokens_kept, 46);
    // 40 more: the older of the two goes, the younger stays.
    simulation.add_for(1, Some(3), &[7; 36], 4);
    simulation.drain();
    let younger = simulation.add_for(1, Some(2), &asks(&[2]), 3);
    simulation.drain();
    assert_eq!(simulation.seen(younger).cached, 20);
    let older = simulation.add_for(1, Some(1), &asks(&[2]), 3);
    simulation.drain();
    assert_eq!(simulation.seen(older).cached, 0);
    simulation.check_all_ended();
}

#[test]
fn a_prefix_that_has_no_room_beside_its_copy_is_taken_in_place() {
    let mut simulation = Simulation::new(Settings { kv_tokens_max: 64, ..settings() });
    simulation.add_for(1, Some(1), &asks(&[1; 20]), 3);
    simulation.drain();
    simulation.add_for(1, Some(1), &asks(&[2; 20]), 10);
    assert_eq!(simulation.step(), "prefill 2@0 20..28");
    simulation.drain();
    simulation.check_all_ended();
}

#[test]
fn a_prefix_whose_move_failed_is_not_used_again() {
    let mut simulation = Simulation::new(settings());
    simulation.add_for(1, Some(1), &asks(&[1]), 3);
    simulation.drain();
    simulation.add_for(1, Some(2), &[7; 3], 5);
    assert_eq!(simulation.step(), "prefill 2@1 0..3 last");
    // The prefix is in the way of the first row: its copy fails, and nobody is over.
    assert_eq!(simulation.fail(), []);
    let again = simulation.add_for(1, Some(1), &asks(&[2]), 3);
    simulation.drain();
    simulation.check_all_ended();
    assert_eq!(simulation.seen(again).cached, 0);
}
