//! What a caller may ask, and what is refused before anything runs.

use super::{Finish, GenerationError, GenerationRequest, HELLO, Host, LAYOUTS, greedy, whole};
use crate::generation::Constraint;
use crate::generation::check_device;
use crate::package::tests::{fixture, stored};
use crate::{Config, Device};

#[tokio::test]
async fn impossible_requests_are_refused_by_name() {
    let host = Host::new("decoder_genai", Config::default());
    let check = async |change: fn(&mut GenerationRequest), says: &str| {
        let mut request = greedy(&HELLO, 5);
        change(&mut request);
        let error = host.start(request).await.expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    };
    check(|request| request.choices = 0, "`n` is 0").await;
    check(|request| request.choices = u32::MAX, "`n` is 4294967295").await;
    check(|request| request.prompt.clear(), "`prompt` is empty").await;
    check(|request| request.prompt.push(270), "the token 270").await;
    check(|request| request.options.max_tokens = 0, "`max_tokens` is 0").await;
    check(|request| request.options.max_tokens = 124, "context is 128 tokens").await;
    check(|request| request.options.max_tokens = u32::MAX, "context is 128 tokens").await;
    check(|request| request.options.sampling.temperature = f32::NAN, "`temperature` is NaN").await;
    check(|request| request.options.stop = vec![String::new()], "`stop`").await;
    check(|request| request.options.logprobs = Some(1000), "`top_logprobs` is 1000").await;
    check(|request| request.options.constraint = Some(Constraint::Regex("(".to_owned())), "regular expression").await;
    assert_eq!(host.inference.residency().loads_total, 0, "nothing was loaded for them");
}

#[tokio::test]
async fn what_cannot_generate_says_so() {
    let host = Host::new("decoder_genai", Config::default());
    let (encoder, _folder) = stored(&fixture("embedder"));
    let refused = host.inference.generate(&std::sync::Arc::new(encoder), Device::Cpu, greedy(&HELLO, 5)).await;
    assert!(matches!(refused, Err(GenerationError::NotADecoder)), "{refused:?}");
    let refused = host.inference.generate(&host.package, Device::Cuda, greedy(&HELLO, 5)).await;
    assert!(matches!(refused, Err(GenerationError::Load(_))), "{refused:?}");
}

/// The provider has no kernel for other attention state: it would be done on the CPU, all of it moved at every step.
#[test]
fn only_half_precision_group_query_attention_runs_on_a_gpu() {
    let check = |layout: &str| {
        let (package, _folder) = stored(&fixture(layout));
        check_device(Device::Cuda, package.info().decoder.as_ref().unwrap())
    };
    assert!(check("decoder_genai_f16").is_ok() && check("decoder_optimum").is_ok());
    let refused = check("decoder_genai").unwrap_err().to_string();
    assert!(refused.contains("F32") && refused.contains("takes F16"), "{refused}");
}

#[tokio::test]
async fn the_whole_context_can_be_used() {
    for layout in LAYOUTS {
        let host = Host::new(layout, Config::default());
        assert_eq!(host.run(greedy(&[7], 127)).await.ids.len(), 127, "{layout}");
        let prompt: Vec<u32> = (0..127).collect();
        assert_eq!(host.run(greedy(&prompt, 1)).await.ids.len(), 1, "{layout}");
    }
}

#[tokio::test]
async fn an_end_token_ends_unless_it_is_ignored() {
    let host = Host::new("decoder_genai", Config::default());
    let biased = |ignore_eos| {
        let mut request = greedy(&HELLO, 5);
        request.options.sampling.logit_bias = vec![(264, 100.0)];
        request.options.ignore_eos = ignore_eos;
        request
    };
    let ended = host.run(biased(false)).await;
    assert_eq!((ended.ids, ended.text.as_str(), ended.finish), (vec![264], "", Some(Finish::Stop)));
    let ignored = host.run(biased(true)).await;
    assert_eq!((ignored.ids, ignored.text.as_str(), ignored.finish), (vec![264; 5], "", Some(Finish::Length)));
}

#[tokio::test]
async fn a_stop_string_ends_and_is_not_given() {
    let host = Host::new("decoder_genai", Config::default());
    let free = host.run(greedy(&HELLO, 20)).await;
    let (at, stop) = free.text.char_indices().filter(|(_, char)| char.is_ascii()).nth(2).unwrap();
    let mut request = greedy(&HELLO, 20);
    request.options.stop = vec![stop.to_string()];
    let made = host.run(request).await;
    assert_eq!(made.finish, Some(Finish::Stop));
    let end = free.text.find(stop).unwrap();
    assert!(end <= at);
    assert_eq!(made.text, free.text[..end]);
}

#[tokio::test]
async fn a_constraint_holds_for_every_choice() {
    for layout in LAYOUTS {
        let host = Host::new(layout, Config::default());
        let mut request = greedy(&HELLO, 40);
        request.choices = 2;
        request.options.ignore_eos = false;
        request.options.sampling.temperature = 1.0;
        request.options.constraint = Some(Constraint::Regex("[0-9]{3}-(yes|no)".to_owned()));
        for made in whole(&mut host.start(request).await.unwrap()).await.unwrap() {
            assert_eq!(made.finish, Some(Finish::Stop), "{made:?}");
            let (digits, word) = made.text.split_once('-').unwrap();
            assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{made:?}");
            assert!(["yes", "no"].contains(&word), "{made:?}");
        }
    }
}

#[tokio::test]
async fn log_probabilities_come_with_the_likeliest() {
    let host = Host::new("decoder_genai", Config::default());
    let mut request = greedy(&HELLO, 3);
    request.options.logprobs = Some(2);
    let mut generation = host.start(request).await.unwrap();
    let mut tokens = Vec::new();
    while let Some(chunk) = generation.next().await.unwrap() {
        tokens.extend(chunk.tokens);
    }
    assert_eq!(tokens.len(), 3);
    for token in tokens {
        assert_eq!(token.top.len(), 2);
        assert_eq!((token.top[0].id, token.top[0].logprob), (token.id, token.logprob));
        assert!(token.logprob < 0.0 && token.top[1].logprob <= token.logprob, "{token:?}");
    }
}
