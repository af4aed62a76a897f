//! Runners against the bare loop: the logits themselves.

use super::bare::{Bare, difference, engine_session_of, likeliest};
use super::{LAYOUTS, prompts};
use crate::Device;
use crate::generation::runner::{DecodeRow, Runner, RunnerLimits, runner};

fn runner_of(layout: &str, slots: u32) -> Box<dyn Runner> {
    let (session, decoder) = engine_session_of(layout);
    let limits = RunnerLimits { slots, context: decoder.context, chunk_max: 64 };
    runner(session, &decoder, Device::Cpu, limits).unwrap()
}

/// Chunks of a prompt: the same logits, to the last bit where the graph does the same sums.
#[test]
fn a_prompt_in_chunks_is_the_prompt_at_once() {
    let prompt: Vec<u32> = (0..23).map(|place| place * 7 % 250).collect();
    for layout in LAYOUTS {
        let want = Bare::new(layout).run(&prompt);
        let mut runner = runner_of(layout, 3);
        for (slot, chunks) in [vec![23], vec![9, 11, 3], vec![1, 22]].iter().enumerate() {
            let mut start = 0;
            for &count in chunks {
                runner.prefill(slot as u32, start as u32, &prompt[start..start + count]).unwrap();
                start += count;
            }
            let off = difference(runner.logits(0).unwrap(), &want);
            assert!(off <= 1e-5, "{layout} in {chunks:?}: {off}");
        }
    }
}

#[test]
fn ragged_rows_are_exactly_what_each_is_alone() {
    let prompts = prompts(5);
    let mut runner = runner_of("decoder_genai", 5);
    let mut alone: Vec<Bare> = prompts.iter().map(|_| Bare::new("decoder_genai")).collect();
    let mut rows = Vec::new();
    for ((slot, prompt), bare) in (0..).zip(&prompts).zip(&mut alone) {
        runner.prefill(slot, 0, prompt).unwrap();
        let want = bare.run(prompt);
        assert_eq!(difference(runner.logits(0).unwrap(), &want), 0.0);
        rows.push(DecodeRow { slot, past: prompt.len() as u32, token: likeliest(&want) });
    }
    for _ in 0..20 {
        runner.decode(&rows).unwrap();
        for (place, (row, bare)) in rows.iter_mut().zip(&mut alone).enumerate() {
            let want = bare.run(&[row.token]);
            let logits = runner.logits(place).unwrap();
            assert_eq!(difference(logits, &want), 0.0, "row {place} at {}", row.past);
            *row = DecodeRow { past: row.past + 1, token: likeliest(logits), ..*row };
        }
    }
    // Fewer rows, then one alone in a slot of its own: bound anew.
    runner.decode(&rows[..2]).unwrap();
    assert_eq!(difference(runner.logits(1).unwrap(), &alone[1].run(&[rows[1].token])), 0.0);
    runner.decode(&rows[4..]).unwrap();
    assert_eq!(difference(runner.logits(0).unwrap(), &alone[4].run(&[rows[4].token])), 0.0);
    assert!(runner.logits(1).is_err(), "there was one row");
}

#[test]
fn a_copied_slot_goes_on_as_the_first_one() {
    for layout in LAYOUTS {
        let prompt: Vec<u32> = (0..30).map(|place| place * 3 % 250).collect();
        let mut runner = runner_of(layout, 3);
        runner.prefill(0, 0, &prompt).unwrap();
        runner.prefill(2, 0, &[1, 2, 3]).unwrap();
        runner.copy(0, 2, 12).unwrap();
        runner.prefill(2, 12, &[5, 6]).unwrap();
        let want = Bare::new(layout).run(&[&prompt[..12], &[5, 6]].concat());
        assert!(difference(runner.logits(0).unwrap(), &want) <= 1e-5, "{layout}: a shared beginning");

        runner.release(2);
        let mut bare = Bare::new(layout);
        bare.run(&prompt);
        let row = DecodeRow { slot: 0, past: 30, token: 9 };
        runner.decode(&[row]).unwrap();
        let want = bare.run(&[9]);
        assert!(difference(runner.logits(0).unwrap(), &want) <= 1e-5, "{layout}: whose beginning was copied");

        // Back to an earlier place of the same slot.
        runner.prefill(0, 20, &[7]).unwrap();
        let want = Bare::new(layout).run(&[&prompt[..20], &[7]].concat());
        assert!(difference(runner.logits(0).unwrap(), &want) <= 1e-5, "{layout}: cut");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_harms_nobody() {
    for layout in LAYOUTS {
        let mut runner = runner_of(layout, 2);
        runner.prefill(0, 0, &[1, 2, 3]).unwrap();
        if layout == "decoder_genai" {
            assert!(runner.prefill(1, 127, &[1, 2]).is_err(), "129 positions");
        } else {
            assert!(runner.prefill(1, 5, &[1]).is_err(), "no such past");
        }
        assert!(runner.logits(0).is_err(), "a failed run has no logits");
        runner.decode(&[DecodeRow { slot: 0, past: 3, token: 4 }]).unwrap();
        let mut bare = Bare::new(layout);
        bare.run(&[1, 2, 3]);
        let want = bare.run(&[4]);
        assert!(difference(runner.logits(0).unwrap(), &want) <= 1e-5, "{layout}");
    }
}

#[test]
fn memory_comes_with_positions_and_goes_with_its_slot() {
    let mut runner = runner_of("decoder_genai", 2);
    assert_eq!(runner.bytes(), 0);
    runner.prefill(0, 0, &[1; 20]).unwrap();
    let used = runner.bytes();
    runner.prefill(1, 0, &[1; 40]).unwrap();
    assert!(runner.bytes() > used);
    runner.release(1);
    runner.release(0);
    runner.rest();
    assert_eq!(runner.bytes(), 0);
    runner.prefill(1, 0, &[1, 2, 3]).unwrap();
    let want = Bare::new("decoder_genai").run(&[1, 2, 3]);
    assert_eq!(difference(runner.logits(0).unwrap(), &want), 0.0, "after a rest");
}
