//! Runners against the bare loop: the logits themselves.

use super::bare::{Bare, difference, engine_session_of, likeliest, options};
use super::prompts;
use crate::Device;
use crate::generation::kv::Placement;
use crate::generation::runner::{DecodeRow, Runner, RunnerLimits, runner};

/// A graph, where its attention state is, and how far logits may be from those of the bare loop on the CPU: nothing where
/// the same operations do the same sums, and where a prompt is cut into chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) layout: &'static str,
    pub(super) placement: Placement,
    pub(super) same: f32,
    pub(super) chunked: f32,
}

impl Way {
    const fn new(layout: &'static str, placement: Placement) -> Self {
        Self { layout, placement, same: 0.0, chunked: 1e-5 }
    }

    pub(super) fn is_group_query(self) -> bool {
        self.layout.starts_with("decoder_genai")
    }

    fn runner(self, slots: u32) -> Box<dyn Runner> {
        let device = match self.placement {
            Placement::Host => Device::Cpu,
            Placement::Device(device) => device,
        };
        let (session, decoder) = engine_session_of(self.layout, device);
        let limits = RunnerLimits { slots, context: decoder.context, chunk_max: 64 };
        runner(session, &decoder, self.placement, &options().library, limits).unwrap()
    }

    /// `logits` are within `bound` of what the bare loop gave.
    fn check(self, what: &str, logits: &[f32], want: &[f32], bound: f32) {
        let off = difference(logits, want);
        if matches!(self.placement, Placement::Device(Device::Cuda)) {
            eprintln!("{}: {what}: off by {off}, at most {bound}", self.layout);
        }
        assert!(off <= bound, "{self:?}: {what}: {off}");
    }
}

/// The CPU as it is, and as if it were a device with memory of its own.
const WAYS: [Way; 6] = [
    Way::new("decoder_genai", Placement::Host),
    Way::new("decoder_optimum", Placement::Host),
    Way::new("decoder_genai", Placement::Device(Device::Cpu)),
    Way::new("decoder_optimum", Placement::Device(Device::Cpu)),
    half(Placement::Host),
    half(Placement::Device(Device::Cpu)),
];

/// A row of half precision is rounded in another place than several.
const fn half(placement: Placement) -> Way {
    Way { same: 0.02, chunked: 0.02, ..Way::new("decoder_genai_f16", placement) }
}

fn group_query() -> impl Iterator<Item = Way> {
    WAYS.into_iter().filter(|way| way.is_group_query())
}

/// Chunks of a prompt: the same logits, to the last bit where the graph does the same sums.
#[test]
fn a_prompt_in_chunks_is_the_prompt_at_once() {
    WAYS.into_iter().for_each(chunks);
}

pub(super) fn chunks(way: Way) {
    let prompt: Vec<u32> = (0..23).map(|place| place * 7 % 250).collect();
    let want = Bare::new(way.layout).run(&prompt);
    let mut runner = way.runner(3);
    for (slot, chunks) in [vec![23], vec![9, 11, 3], vec![1, 22]].iter().enumerate() {
        let mut start = 0;
        for &count in chunks {
            runner.prefill(slot as u32, start as u32, &prompt[start..start + count]).unwrap();
            start += count;
        }
        way.check(&format!("in {chunks:?}"), runner.logits(0).unwrap(), &want, way.chunked);
    }
}

#[test]
fn ragged_rows_are_exactly_what_each_is_alone() {
    group_query().for_each(ragged);
}

pub(super) fn ragged(way: Way) {
    let prompts = prompts(5);
    let mut runner = way.runner(5);
    let mut alone: Vec<Bare> = prompts.iter().map(|_| Bare::new(way.layout)).collect();
    let mut rows = Vec::new();
    for ((slot, prompt), bare) in (0..).zip(&prompts).zip(&mut alone) {
        runner.prefill(slot, 0, prompt).unwrap();
        let want = bare.run(prompt);
        way.check(&format!("prompt of {}", prompt.len()), runner.logits(0).unwrap(), &want, way.same);
        rows.push(DecodeRow { slot, past: prompt.len() as u32, token: likeliest(&want) });
    }
    for _ in 0..20 {
        runner.decode(&rows).unwrap();
        for (place, (row, bare)) in rows.iter_mut().zip(&mut alone).enumerate() {
            let want = bare.run(&[row.token]);
            way.check(&format!("row {place} at {}", row.past), runner.logits(place).unwrap(), &want, way.same);
            *row = DecodeRow { past: row.past + 1, token: likeliest(&want), ..*row };
        }
    }
    // Fewer rows, then one alone in a slot of its own: bound anew.
    runner.decode(&rows[..2]).unwrap();
    way.check("of two", runner.logits(1).unwrap(), &alone[1].run(&[rows[1].token]), way.same);
    runner.decode(&rows[4..]).unwrap();
    way.check("alone", runner.logits(0).unwrap(), &alone[4].run(&[rows[4].token]), way.same);
    assert!(runner.logits(1).is_err(), "there was one row");
}

#[test]
fn a_copied_slot_goes_on_as_the_first_one() {
    WAYS.into_iter().for_each(copies);
}

pub(super) fn copies(way: Way) {
    let prompt: Vec<u32> = (0..30).map(|place| place * 3 % 250).collect();
    let mut runner = way.runner(3);
    runner.prefill(0, 0, &prompt).unwrap();
    runner.prefill(2, 0, &[1, 2, 3]).unwrap();
    runner.copy(0, 2, 12).unwrap();
    runner.prefill(2, 12, &[5, 6]).unwrap();
    let want = Bare::new(way.layout).run(&[&prompt[..12], &[5, 6]].concat());
    way.check("a shared beginning", runner.logits(0).unwrap(), &want, way.chunked);

    runner.release(2);
    let mut bare = Bare::new(way.layout);
    bare.run(&prompt);
    let row = DecodeRow { slot: 0, past: 30, token: 9 };
    runner.decode(&[row]).unwrap();
    let want = bare.run(&[9]);
    way.check("whose beginning was copied", runner.logits(0).unwrap(), &want, way.chunked);

    // Back to an earlier place of the same slot.
    runner.prefill(0, 20, &[7]).unwrap();
    let want = Bare::new(way.layout).run(&[&prompt[..20], &[7]].concat());
    way.check("cut", runner.logits(0).unwrap(), &want, way.chunked);
}

#[test]
fn what_does_not_fit_is_refused_and_harms_nobody() {
    WAYS.into_iter().for_each(refusals);
}

pub(super) fn refusals(way: Way) {
    let mut runner = way.runner(2);
    runner.prefill(0, 0, &[1, 2, 3]).unwrap();
    if way.is_group_query() {
        assert!(runner.prefill(1, 127, &[1, 2]).is_err(), "129 positions");
    } else {
        assert!(runner.prefill(1, 5, &[1]).is_err(), "no such past");
    }
    assert!(runner.logits(0).is_err(), "a failed run has no logits");
    runner.decode(&[DecodeRow { slot: 0, past: 3, token: 4 }]).unwrap();
    let mut bare = Bare::new(way.layout);
    bare.run(&[1, 2, 3]);
    let want = bare.run(&[4]);
    way.check("after a refusal", runner.logits(0).unwrap(), &want, way.chunked);
}

#[test]
fn memory_comes_with_positions_and_goes_with_its_slot() {
    let way = WAYS[0];
    let mut runner = way.runner(2);
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

#[test]
fn a_devices_memory_is_taken_whole() {
    let runner = WAYS[2].runner(2);
    // Two slots of 128 positions, two layers' keys and values, two heads of 16 numbers of four bytes.
    assert_eq!(runner.bytes(), 2 * 128 * 2 * 2 * 2 * 16 * 4);
}
