//! The sampler against a plain f64 reference, and as distributions with fixed seeds.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use proptest::prelude::*;

use super::choose::{Chooser, top};
use super::random::Random;
use super::scan::largest;
use super::*;
use crate::generation::constraint::Mask;

/// Tokens that may be drawn and their probabilities, worked out the plain way. `slack` moves the limits a little, as
/// f32 sums do.
fn reference(logits: &[f32], sampling: &Sampling, slack: f64) -> Vec<(u32, f64)> {
    let mut tokens: Vec<(u32, f64)> = (0_u32..)
        .zip(logits)
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(token, logit)| (token, f64::from(*logit) / f64::from(sampling.temperature)))
        .collect();
    tokens.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    let max = tokens[0].1;
    for (_, value) in &mut tokens {
        *value = (*value - max).exp();
    }
    if sampling.top_k > 0 {
        tokens.truncate(sampling.top_k as usize);
    }
    if sampling.top_p < 1.0 {
        let target = (f64::from(sampling.top_p) + slack) * tokens.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut sum = 0.0;
        let enough = tokens.iter().position(|(_, weight)| {
            sum += weight;
            sum >= target
        });
        tokens.truncate(enough.map_or(tokens.len(), |last| last + 1).max(1));
    }
    tokens.retain(|(_, weight)| *weight >= f64::from(sampling.min_p) * (1.0 - slack));
    let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    tokens.into_iter().map(|(token, weight)| (token, weight / total)).collect()
}

fn draws(logits: &[f32], sampling: &Sampling, count: usize) -> Vec<u32> {
    let mut chooser = Chooser::new(sampling);
    let mut random = Random::new(sampling.seed, 0);
    let (_, max) = largest(logits).unwrap();
    (0..count).map(|_| chooser.draw(logits, max, &mut random)).collect()
}

/// Logits as a model gives them: a few high ones, a long tail.
fn row(seed: u64, vocab: usize, spread: f32) -> Vec<f32> {
    let mut random = Random::new(Some(seed), 0);
    (0..vocab)
        .map(|_| {
            let sum: f64 = (0..4).map(|_| random.unit()).sum();
            (sum as f32 - 2.0) * spread
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nothing_outside_the_truncation_is_drawn(
        seed in any::<u64>(),
        vocab in 1_usize..5000,
        spread in 0.0_f32..12.0,
        temperature in 0.05_f32..2.0,
        top_p in prop_oneof![Just(1.0_f32), 0.0_f32..1.0],
        top_k in prop_oneof![Just(0_u32), 1_u32..200, Just(6000)],
        min_p in prop_oneof![Just(0.0_f32), 0.0_f32..1.0],
    ) {
        let logits = row(seed, vocab, spread);
        let sampling = Sampling { temperature, top_p, top_k, min_p, seed: Some(seed), ..Sampling::default() };
        let allowed = reference(&logits, &sampling, 1e-5);
        for token in draws(&logits, &sampling, 20) {
            prop_assert!(allowed.iter().any(|(one, _)| *one == token), "{token} of {} allowed", allowed.len());
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_reference(
        seed in any::<u64>(),
        vocab in 1_usize..4000,
        spread in 0.0_f32..15.0,
        count in 0_u32..=20,
    ) {
        let mut logits = row(seed, vocab, spread);
        let expect = reference(&logits, &Sampling::default(), 0.0);
        let sampling = Sampling { temperature: 0.3, top_p: 0.5, top_k: 7, seed: Some(seed), ..Sampling::default() };
        let sampled = Sampler::new(&sampling, 0, Some(count), &[]).sample(&mut logits, None);
        prop_assert_eq!(sampled.top.len(), vocab.min(count as usize));
        for ((token, logprob), (want, probability)) in sampled.top.iter().zip(&expect) {
            prop_assert_eq!(token, want);
            prop_assert!((f64::from(*logprob) - probability.ln()).abs() < 2e-5);
        }
        let own = expect.iter().find(|(token, _)| *token == sampled.token).unwrap();
        prop_assert!((f64::from(sampled.logprob) - own.1.ln()).abs() < 2e-5);
    }

    #[test]
    fn greedy_takes_the_likeliest_and_the_lowest_of_equals(
        values in prop::collection::vec(prop_oneof![-3_i8..3, Just(-128)], 1..3000),
        allowed in prop::collection::vec(any::<bool>(), 3000),
        masked in any::<bool>(),
        logprobs in prop::option::of(Just(2_u32)),
    ) {
        let mut logits: Vec<f32> =
            values.iter().map(|value| if *value == -128 { f32::NAN } else { f32::from(*value) }).collect();
        let may = |index: usize| !masked || allowed[index];
        let mut want = None;
        for (index, value) in values.iter().enumerate() {
            if *value > -128 && may(index) && want.is_none_or(|(_, best)| *value > best) {
                want = Some((index as u32, *value));
            }
        }
        let mask = masked.then(|| Mask::of(&allowed));
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let sampled = Sampler::new(&sampling, 0, logprobs, &[]).sample(&mut logits, mask.as_ref());
        prop_assert_eq!(sampled.usable, want.is_some());
        prop_assert_eq!(sampled.usable.then_some(sampled.token), want.map(|(token, _)| token));
    }

    #[test]
    fn a_token_outside_the_mask_is_never_drawn(
        seed in any::<u64>(),
        allowed in prop::collection::vec(prop::bool::weighted(0.1), 1..2000),
        top_p in prop_oneof![Just(1.0_f32), Just(0.9)],
        top_k in prop_oneof![Just(0_u32), Just(40)],
    ) {
        let mask = Mask::of(&allowed);
        let sampling = Sampling { top_p, top_k, seed: Some(seed), ..Sampling::default() };
        let mut sampler = Sampler::new(&sampling, 0, None, &[]);
        // The row is longer than the mask.
        for step in 0..5 {
            let sampled = sampler.sample(&mut row(seed ^ step, allowed.len() + 33, 4.0), Some(&mask));
            prop_assert_eq!(sampled.usable, allowed.contains(&true));
            prop_assert!(!sampled.usable || allowed[sampled.token as usize]);
        }
    }
}

/// Draws many times and compares how often each token came with the reference.
fn check_distribution(sampling: &Sampling) {
    const DRAWS: usize = 10_000;
    for (seed, vocab, spread) in [(1, 12, 2.0), (2, 300, 6.0), (3, 40, 0.0)] {
        let logits = row(seed, vocab, spread);
        let mut counts = vec![0_u32; vocab];
        for token in draws(&logits, &Sampling { seed: Some(seed), ..sampling.clone() }, DRAWS) {
            counts[token as usize] += 1;
        }
        for (token, probability) in reference(&logits, sampling, 0.0) {
            let share = f64::from(counts[token as usize]) / DRAWS as f64;
            // Five standard deviations, with fixed seeds.
            let tolerance = 5.0 * (probability * (1.0 - probability) / DRAWS as f64).sqrt() + 2e-4;
            assert!((share - probability).abs() < tolerance, "{sampling:?}: {token}: {share} against {probability}");
        }
    }
}

#[test]
fn tokens_come_as_often_as_they_should() {
    let plain = Sampling::default();
    check_distribution(&plain);
    check_distribution(&Sampling { temperature: 0.5, ..plain.clone() });
    check_distribution(&Sampling { temperature: 2.0, top_k: 5, ..plain.clone() });
    check_distribution(&Sampling { top_p: 0.7, ..plain.clone() });
    check_distribution(&Sampling { top_p: 0.9, top_k: 20, ..plain.clone() });
    check_distribution(&Sampling { min_p: 0.1, ..plain.clone() });
    check_distribution(&Sampling { min_p: 0.2, top_p: 0.95, top_k: 30, temperature: 0.8, ..plain });
}

#[test]
fn the_same_seed_gives_the_same_tokens() {
    let run = |seed, choice| {
        let sampling = Sampling { seed, top_p: 0.95, ..Sampling::default() };
        let mut sampler = Sampler::new(&sampling, choice, None, &[1, 2]);
        (0..50).map(|step| sampler.sample(&mut row(step, 1000, 3.0), None).token).collect::<Vec<_>>()
    };
    assert_eq!(run(Some(7), 0), run(Some(7), 0));
    assert_ne!(run(Some(7), 0), run(Some(7), 1), "another choice");
    assert_ne!(run(Some(7), 0), run(Some(8), 0), "another seed");
    assert_ne!(run(None, 0), run(None, 0), "no seed");
}

#[test]
fn a_tiny_top_p_or_temperature_is_greedy() {
    let logits = row(5, 5000, 3.0);
    let (best, _) = largest(&logits).unwrap();
    for (temperature, top_p) in [(1.0, 0.0), (1e-6, 1.0), (1e-4, 1.0), (f32::MIN_POSITIVE, 0.5), (2.0, 1e-9)] {
        let sampling = Sampling { temperature, top_p, seed: Some(3), ..Sampling::default() };
        let mut sampler = Sampler::new(&sampling, 0, None, &[]);
        for _ in 0..20 {
            assert_eq!(sampler.sample(&mut logits.clone(), None).token as usize, best);
        }
    }
}

#[test]
fn penalties_follow_the_formulas() {
    let sampling = Sampling {
        temperature: 0.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        repetition_penalty: 2.0,
        logit_bias: vec![(3, -1.5), (3, -0.5), (99, 1.0)],
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(&sampling, 0, None, &[1, 1, 4, 77]);
    let logits = [8.0, 6.0, -1.0, 5.0, -2.0];
    let step = |sampler: &mut Sampler, token: u32| {
        let mut changed = logits;
        assert_eq!(sampler.sample(&mut changed, None).token, token);
        changed
    };
    // 1 and 4 are in the prompt: divided, and multiplied as it is negative. 3 has its bias.
    assert_eq!(step(&mut sampler, 0), [8.0, 3.0, -1.0, 3.0, -4.0]);
    // 0 was generated once: divided, less presence and one frequency.
    assert_eq!(step(&mut sampler, 0), [3.25, 3.0, -1.0, 3.0, -4.0]);
    assert_eq!(step(&mut sampler, 0), [3.0, 3.0, -1.0, 3.0, -4.0]);
    // Presence counts once, frequency each time; the prompt's own tokens had neither until they were generated.
    assert_eq!(step(&mut sampler, 1), [2.75, 3.0, -1.0, 3.0, -4.0]);
    assert_eq!(step(&mut sampler, 3), [2.75, 2.25, -1.0, 3.0, -4.0]);
}

#[test]
fn a_bias_bans_and_forces() {
    let sampling = Sampling { logit_bias: vec![(0, -100.0), (2, 100.0)], seed: Some(1), ..Sampling::default() };
    let mut sampler = Sampler::new(&sampling, 0, None, &[]);
    assert_eq!(sampler.sample(&mut [20.0, 15.0, -10.0], None).token, 2);
}

#[test]
fn a_row_that_is_no_distribution_is_said_to_be_none() {
    let check = |logits: &[f32], expect: Option<u32>| {
        for (temperature, logprobs) in [(0.0, None), (1.0, None), (1.0, Some(3)), (0.0, Some(3))] {
            let sampling = Sampling { temperature, seed: Some(1), ..Sampling::default() };
            let sampled = Sampler::new(&sampling, 0, logprobs, &[]).sample(&mut logits.to_vec(), None);
            assert_eq!(sampled.usable.then_some(sampled.token), expect, "{logits:?}");
            assert!(sampled.top.iter().all(|(_, logprob)| !logprob.is_nan()), "{sampled:?}");
        }
    };
    check(&[], None);
    check(&[f32::NAN; 40], None);
    check(&[f32::NEG_INFINITY; 3], None);
    check(&[f32::NAN, f32::NEG_INFINITY, -3.0, f32::NAN], Some(2));
    check(&[1.0, f32::INFINITY, f32::INFINITY, f32::NAN], Some(1));
    check(&[f32::MIN, f32::MAX], Some(1));
}

#[test]
fn top_tokens_are_found_among_equals_by_their_ids() {
    let mut buffer = Vec::new();
    top(&vec![1.0; 5000], 3, &mut buffer);
    assert_eq!(buffer.iter().map(|candidate| candidate.token).collect::<Vec<_>>(), [0, 1, 2]);
    top(&[1.0, f32::NAN, 3.0, f32::NEG_INFINITY, 2.0], 20, &mut buffer);
    assert_eq!(buffer.iter().map(|candidate| candidate.token).collect::<Vec<_>>(), [2, 4, 0]);
}

#[test]
fn every_parameter_has_a_range_and_a_name() {
    let check = |change: fn(&mut Sampling), expect: &str| {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        assert_eq!(sampling.check(100).unwrap_err().to_string(), expect);
    };
    assert_eq!(Sampling::default().check(1), Ok(()));
    check(|sampling| sampling.temperature = f32::NAN, "`temperature` is NaN; it must be from 0 to 2");
    check(|sampling| sampling.temperature = 2.1, "`temperature` is 2.1; it must be from 0 to 2");
    check(|sampling| sampling.top_p = -0.1, "`top_p` is -0.1; it must be from 0 to 1");
    check(|sampling| sampling.min_p = f32::INFINITY, "`min_p` is inf; it must be from 0 to 1");
    check(|sampling| sampling.presence_penalty = -3.0, "`presence_penalty` is -3; it must be from -2 to 2");
    check(|sampling| sampling.frequency_penalty = f32::NAN, "`frequency_penalty` is NaN; it must be from -2 to 2");
    check(|sampling| sampling.repetition_penalty = 0.0, "`repetition_penalty` is 0; it must be above 0 and at most 10");
    check(
        |sampling| sampling.logit_bias = vec![(100, 1.0)],
        "`logit_bias` is for the token 100; it must be for tokens below 100",
    );
    check(|sampling| sampling.logit_bias = vec![(1, f32::NAN)], "`logit_bias` is NaN; it must be from -100 to 100");
    check(
        |sampling| sampling.logit_bias = vec![(1, 1.0); 1025],
        "`logit_bias` is a map of 1025 tokens; it must be at most 1024 tokens",
    );
}
