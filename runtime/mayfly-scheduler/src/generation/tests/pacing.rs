//! What a long prompt does to those who decode, by the measured costs of a small model.

use super::simulation::{Cost, MS, Simulation, settings};
use crate::generation::{SequenceId, Settings};

/// A 0.5B-shaped int4 model on two cores: 90 tokens/s alone, 300 in eight rows, 400 prompt tokens/s.
const SMALL_MODEL: Cost = Cost { run_ns: 9 * MS, token_ns: 23 * MS / 10 };

fn engine(cost: Cost, batched: bool) -> Simulation {
    let settings = Settings {
        slots: 16,
        context_max: 4_096,
        kv_tokens_max: 100_000,
        prefill_chunk_max: 512,
        batched,
        ..settings()
    };
    let mut simulation = Simulation::new(settings);
    simulation.cost = cost;
    simulation
}

fn gaps_after(simulation: &Simulation, ids: &[SequenceId], since: u64) -> Vec<u64> {
    let mut gaps: Vec<u64> = ids
        .iter()
        .flat_map(|id| simulation.seen(*id).times.windows(2))
        .filter(|pair| pair[1] > since)
        .map(|pair| pair[1] - pair[0])
        .collect();
    gaps.sort_unstable();
    gaps
}

/// Steps until `id` has its first token; how long that took.
fn first_token_ns(simulation: &mut Simulation, id: SequenceId) -> u64 {
    let since = simulation.now;
    while simulation.seen(id).times.is_empty() {
        simulation.step();
    }
    simulation.now - since
}

/// `others` decode when a prompt of 1,000 tokens comes: their gaps and its time to first token, over what they are
/// without each other.
#[track_caller]
fn check(cost: Cost, batched: bool, others: u64, gap_max: f64, first_token_max: f64) {
    let prompt: Vec<u32> = (0..1_000).collect();
    let mut alone = engine(cost, batched);
    let id = alone.add(&prompt, 2);
    let first_token_alone = first_token_ns(&mut alone, id);

    let mut simulation = engine(cost, batched);
    let decoding: Vec<_> = (0..others).map(|_| simulation.add(&[1, 2, 3, 4], 3_000)).collect();
    while decoding.iter().any(|id| simulation.seen(*id).accepted.len() < 10) {
        simulation.step();
    }
    let since = simulation.now;
    simulation.steps(50);
    let gap_alone = *gaps_after(&simulation, &decoding, since).last().expect("they decode");

    let since = simulation.now;
    let id = simulation.add(&prompt, 2);
    let first_token = first_token_ns(&mut simulation, id);
    let gaps = gaps_after(&simulation, &decoding, since);
    let gap = gaps[gaps.len() * 99 / 100];
    let (gap, first_token) = (ratio(gap, gap_alone), ratio(first_token, first_token_alone));
    assert!(gap <= gap_max && first_token <= first_token_max, "gap x{gap:.2}, first token x{first_token:.2}");
}

fn ratio(one: u64, other: u64) -> f64 {
    std::time::Duration::from_nanos(one).as_secs_f64() / std::time::Duration::from_nanos(other).as_secs_f64()
}

#[test]
fn a_long_prompt_beside_others_keeps_gaps_and_its_own_wait_bounded() {
    check(SMALL_MODEL, true, 8, 2.5, 3.0);
    check(SMALL_MODEL, true, 15, 2.5, 3.0);
    // Beside few, the weights that every run reads weigh more.
    check(SMALL_MODEL, true, 2, 2.5, 3.5);
    // Ten times slower: the set time of 20 ms does not matter any more.
    check(Cost { run_ns: 90 * MS, token_ns: 23 * MS }, true, 8, 2.5, 3.0);
    // One row at a time: eight decode steps are everybody's next token.
    check(SMALL_MODEL, false, 8, 2.5, 3.0);
}

#[test]
fn a_prompt_alone_takes_the_largest_chunks() {
    let mut simulation = engine(SMALL_MODEL, true);
    simulation.add(&[1; 1_100], 2);
    let expected = ["prefill 1@0 0..512", "prefill 1@0 512..1024", "prefill 1@0 1024..1100 last", "decode 1@0"];
    assert_eq!(simulation.steps(4), expected);
}
