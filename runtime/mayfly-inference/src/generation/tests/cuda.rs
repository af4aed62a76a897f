//! Generation on a GPU, against the bare loop on the CPU. Opt-in: `MAYFLY_TEST_CUDA=1` on a machine with a GPU and the CUDA
//! build of ONNX Runtime; elsewhere these tests say so and pass.
//!
//! The GPU's sums are of another order and, for f32, of fewer bits (TF32), so logits are close and not equal: see
//! [`BOUND`]. Tokens are compared up to the first one that is within that of another.

use futures::future::join_all;

use super::bare::{Bare, likeliest};
use super::runs::{self, Way};
use super::{Host, greedy, prompts};
use crate::generation::kv::Placement;
use crate::{Config, Device};

/// How far a logit may be from the CPU's. Those of the fixtures are between -10 and 10.
const BOUND: f32 = 0.08;

const WAYS: [Way; 2] = [way("decoder_genai_f16"), way("decoder_optimum")];

const fn way(layout: &'static str) -> Way {
    Way { layout, placement: Placement::Device(Device::Cuda), same: BOUND, chunked: BOUND }
}

/// Whether these tests are asked for.
fn asked(test: &str) -> bool {
    let asked = std::env::var_os("MAYFLY_TEST_CUDA").is_some_and(|value| value == "1");
    if !asked {
        eprintln!("{test}: skipped, as MAYFLY_TEST_CUDA is not 1");
    }
    asked
}

#[test]
fn cuda_a_prompt_in_chunks_is_the_prompt_at_once() {
    if asked("chunks") {
        WAYS.into_iter().for_each(runs::chunks);
    }
}

#[test]
fn cuda_ragged_rows_are_what_each_is_alone() {
    if asked("ragged rows") {
        runs::ragged(WAYS[0]);
    }
}

#[test]
fn cuda_a_copied_slot_goes_on_as_the_first_one() {
    if asked("copies") {
        WAYS.into_iter().for_each(runs::copies);
    }
}

#[test]
fn cuda_what_does_not_fit_is_refused_and_harms_nobody() {
    if asked("refusals") {
        WAYS.into_iter().for_each(runs::refusals);
    }
}

/// Many at once, in few slots and small chunks: they wait, move when others end, and reuse each other's beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuda_greedy_tokens_in_a_crowd_are_the_cpus() {
    if !asked("a crowd") {
        return;
    }
    let prompts = prompts(12);
    for layout in ["decoder_genai_f16", "decoder_optimum"] {
        let config = Config { generation_slots: 4, generation_prefill_chunk_max: 5, ..Config::default() };
        let host = Host { device: Device::Cuda, ..Host::new(layout, config) };
        for round in 0..2 {
            let one = async |number: usize| {
                let mut request = greedy(&prompts[number], 40 - number as u32 * 3);
                request.reuse = Some([number as u8 % 3; 32]);
                (number, host.run(request).await.ids)
            };
            let made = join_all((0..prompts.len()).map(one)).await;
            let compared: usize = made.iter().map(|(number, ids)| agree(layout, &prompts[*number], ids)).sum();
            let all: usize = made.iter().map(|(_, ids)| ids.len()).sum();
            eprintln!("{layout}, round {round}: {compared} of {all} tokens could be compared and are the CPU's");
            assert!(compared > all / 4, "{layout}: {compared} of {all}");
        }
        eprintln!("{layout}: {:?}", host.load());
    }
}

/// How many of `made` are what the CPU makes of `prompt`, up to the first that is as likely as another.
fn agree(layout: &str, prompt: &[u32], made: &[u32]) -> usize {
    let mut bare = Bare::new(layout);
    let mut logits = bare.run(prompt);
    for (place, &token) in made.iter().enumerate() {
        let best = likeliest(&logits);
        if token != best {
            let gap = logits[best as usize] - logits[token as usize];
            assert!(
                gap <= 2.0 * BOUND,
                "{layout}: token {place} of {prompt:?} is {token}, on the CPU {best}, by {gap}"
            );
            return place;
        }
        logits = bare.run(&[token]);
    }
    made.len()
}

/// Where there is a GPU its generation must not be one of the CPU's: attention state of other types is refused.
#[tokio::test]
async fn cuda_single_precision_is_refused_and_says_why() {
    if !asked("single precision") {
        return;
    }
    let host = Host { device: Device::Cuda, ..Host::new("decoder_genai", Config::default()) };
    let refused = host.start(greedy(&[1, 2, 3], 4)).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("takes F16"), "{refused}");
}
