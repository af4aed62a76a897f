//! `mayfly:inference/generation` as a guest sees it, and what it costs. The guest is `tests/fixtures/guests/generate`; the
//! models are `decoder_genai` and `decoder_optimum` of `tests/fixtures/models`, whose weights are the same.

mod filter;
mod hostile;
pub(crate) mod stage;

use std::sync::Arc;
use std::time::Duration;

use mayfly_types::{DeploymentId, KeyId, Meter};
use serde_json::json;

use self::stage::{Account, Stage, Who, greedy};
use crate::scene::read;
use crate::trials;

trials!(
    text_comes_to_its_end,
    the_model_s_own_configuration_counts,
    the_long_way_costs_the_same,
    a_prompt_fed_one_by_one_costs_its_length,
    choices_share_the_prompt,
    a_reused_prefix_is_counted_apart,
    keys_share_prefixes_if_their_deployment_s_owner_wants_it,
    chats_and_texts_are_encoded,
    frames_leave_as_they_come,
    cancelling_half_way,
    dropping_a_stream_ends_its_work,
    several_streams_are_waited_for_together,
    a_reader_that_waits_is_waited_for,
    a_caller_that_leaves_ends_the_work,
    a_deadline_ends_the_work,
);

pub(crate) fn all_trials() -> impl Iterator<Item = libtest_mimic::Trial> {
    trials().into_iter().chain(filter::trials()).chain(hostile::trials())
}

const LAYOUTS: [&str; 2] = ["decoder_genai", "decoder_optimum"];
/// `hello world`.
const HELLO: [u32; 5] = [259, 260, 261, 75, 67];
/// What follows, greedily.
const AFTER_HELLO: [u32; 20] =
    [13, 62, 104, 4, 170, 116, 144, 102, 224, 267, 208, 208, 50, 231, 208, 50, 231, 208, 193, 37];

fn bill(input: u64, output: u64) -> Vec<(Meter, u64)> {
    vec![(Meter::InputTokens, input), (Meter::OutputTokens, output)]
}

async fn text_comes_to_its_end() {
    for layout in LAYOUTS {
        let stage = Stage::with(layout).await;
        let (answer, account) = stage.ask("/", greedy(&HELLO, 20)).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["tokens"], json!(AFTER_HELLO), "{layout}: {answer}");
        assert_eq!((&choice["finish"], &answer["usage"]), (&json!("length"), &json!([5, 0, 20])));
        assert_eq!((account.held(), account.charged()), (bill(5, 20), bill(5, 20)));
        assert!(account.ran(), "a tenant's own models are billed by time");
    }
}

async fn the_model_s_own_configuration_counts() {
    let stage = Stage::genai().await;
    // Its `genai_config.json` asks for a repetition penalty of 1.1, so 208 does not come twice in a row.
    let mut plan = greedy(&HELLO, 12);
    plan["options"].as_object_mut().unwrap().remove("repetition_penalty");
    let (answer, _) = stage.ask("/", plan).await;
    let tokens = answer["choices"][0]["tokens"].as_array().unwrap().clone();
    assert_eq!(tokens[..11], json!(AFTER_HELLO).as_array().unwrap()[..11]);
    assert_eq!((AFTER_HELLO[11], tokens[11].as_u64()), (208, Some(106)));
}

async fn the_long_way_costs_the_same() {
    for layout in LAYOUTS {
        let stage = Stage::with(layout).await;
        for cut in [1, 2, 4, 5] {
            let (answer, account) = stage.ask(&format!("/loop?cut={cut}&new=20"), greedy(&HELLO, 20)).await;
            assert_eq!(answer["tokens"], json!(AFTER_HELLO), "{layout}, {cut} at a time");
            assert_eq!(account.charged(), bill(5, 20), "{layout}, {cut} at a time");
        }
    }
}

async fn a_prompt_fed_one_by_one_costs_its_length() {
    let stage = Stage::genai().await;
    let prompt: Vec<u32> = (0..100).collect();
    let (_, account) = stage.ask("/loop?cut=1&new=1", greedy(&prompt, 1)).await;
    assert_eq!(account.charged(), bill(100, 1));
}

async fn choices_share_the_prompt() {
    let stage = Stage::genai().await;
    let plan = json!({ "tokens": HELLO, "options": {
        "choices": 3, "max_tokens": 7, "seed": 5, "temperature": 1.5, "ignore_eos": true, "logprobs": 2 } });
    let (answer, account) = stage.ask("/", plan).await;
    assert_eq!(answer["choices"].as_array().unwrap().len(), 3, "{answer}");
    assert_eq!((account.held(), account.charged()), (bill(5, 21), bill(5, 21)));
    assert_eq!(answer["usage"], json!([5, 0, 21]));
    let logprobs = answer["logprobs"].as_array().unwrap();
    assert!(logprobs.len() == 21 && logprobs.iter().all(|token| token[0].as_f64().unwrap() < 0.0 && token[1] == 2));
}

async fn a_reused_prefix_is_counted_apart() {
    let stage = Stage::genai().await;
    let prompt: Vec<u32> = (1..90).collect();
    let (who, plan) = (Who::new(), greedy(&prompt, 4));
    let costs = async |who| {
        let account = Arc::<Account>::default();
        let answer = stage.ask_as("/", plan.clone(), who, &account).await;
        (answer["choices"][0]["tokens"].clone(), account)
    };
    let (tokens, first) = costs(who).await;
    assert_eq!(first.charged(), bill(89, 4));
    let (again, second) = costs(who).await;
    assert_eq!(again, tokens);
    let charged = second.charged();
    let of = |meter| charged.iter().find(|(m, _)| *m == meter).map_or(0, |(_, quantity)| *quantity);
    let (fresh, cached) = (of(Meter::InputTokens), of(Meter::CachedInputTokens));
    assert!(cached > 0 && fresh > 0 && fresh + cached == 89, "{charged:?}");
    // Another key of the same deployment knows nothing of it.
    let (again, third) = costs(Who { key: KeyId::new(), ..who }).await;
    assert_eq!((again, third.charged()), (tokens, bill(89, 4)));
}

async fn keys_share_prefixes_if_their_deployment_s_owner_wants_it() {
    let stage = Stage::genai().await.ruled(|grants| grants.share_prefixes = true);
    let prompt: Vec<u32> = (1..90).collect();
    let cached = async |who| {
        let (answer, account) = (greedy(&prompt, 4), Arc::<Account>::default());
        let answer = stage.ask_as("/", answer, who, &account).await;
        let cached = account.charged().iter().find(|(meter, _)| *meter == Meter::CachedInputTokens).map(|(_, n)| *n);
        (answer["choices"][0]["tokens"].clone(), cached)
    };
    let who = Who::new();
    let (tokens, first) = cached(who).await;
    assert_eq!(first, None);
    let (again, second) = cached(Who { key: KeyId::new(), ..who }).await;
    assert_eq!(again, tokens);
    assert!(second.is_some_and(|cached| cached > 0), "{second:?}");
    // Another deployment knows nothing of it, also with the same key and owner.
    assert_eq!(cached(Who { deployment: DeploymentId::new(), ..who }).await, (tokens, None));
}

async fn chats_and_texts_are_encoded() {
    let stage = Stage::genai().await;
    let (answer, _) = stage.ask("/count", json!({ "text": "hello world" })).await;
    let plain = answer["tokens"].as_u64().unwrap();
    assert!((5..=6).contains(&plain), "{answer}");
    let chat = json!({ "chat": { "messages": [{ "role": "user", "content": "hello world" }] } });
    let (answer, account) = stage.ask("/count", chat.clone()).await;
    let count = answer["tokens"].as_u64().unwrap();
    assert!(count > plain, "{answer}");
    assert_eq!(account.held(), []);
    let mut plan = chat;
    plan["options"] = json!({ "max_tokens": 3, "temperature": 0, "ignore_eos": true });
    let (answer, account) = stage.ask("/", plan).await;
    assert_eq!(answer["usage"], json!([count, 0, 3]), "{answer}");
    assert_eq!(account.charged(), bill(count, 3));
}

async fn frames_leave_as_they_come() {
    let stage = Stage::genai().await;
    let account = Arc::<Account>::default();
    let plan = json!({ "text": "hello", "options": { "max_tokens": 12, "temperature": 0, "ignore_eos": true } });
    let answer = stage.answer("/text", &plan, Who::new(), &account).await;
    answer.body_end.unwrap();
    assert!(std::str::from_utf8(&answer.body).is_ok(), "never half a character");
    account.settled().await;
    assert_eq!(account.output(), 12);
}

async fn cancelling_half_way() {
    for layout in LAYOUTS {
        let stage = Stage::with(layout).await;
        let (answer, account) = stage.ask("/cancel?after=3", greedy(&HELLO, 100)).await;
        let read = answer["before"]["choices"][0]["tokens"].as_array().unwrap().len() as u64;
        assert!((3..=51).contains(&read), "{answer}");
        assert_eq!(answer["rest"]["choices"][0]["finish"], "cancelled", "{answer}");
        assert_eq!(answer["again"]["chunks"], 0, "nothing comes after the end");
        assert!(account.output() < 100 && account.output() <= read + 18, "{answer} {account:?}");
        assert_eq!(answer["again"]["usage"][2], account.output(), "the guest is told what is billed");
        assert_eq!(account.held(), bill(5, 100));
    }
}

async fn dropping_a_stream_ends_its_work() {
    let stage = Stage::genai().await;
    let (answer, account) = stage.ask("/drop?after=2&ms=50", greedy(&HELLO, 120)).await;
    let read = answer["choices"][0]["tokens"].as_array().unwrap().len() as u64;
    assert!(account.output() >= read && account.output() <= read + 18, "{answer} {account:?}");
}

async fn several_streams_are_waited_for_together() {
    for layout in LAYOUTS {
        let stage = Stage::with(layout).await;
        let (answer, account) = stage.ask("/both?streams=4", greedy(&HELLO, 20)).await;
        let streams = answer["streams"].as_array().unwrap();
        assert_eq!(streams.len(), 4);
        for stream in streams {
            assert_eq!(stream[0]["tokens"], json!(AFTER_HELLO), "{layout}: {answer}");
        }
        assert_eq!(account.output(), 80);
    }
}

async fn a_reader_that_waits_is_waited_for() {
    let stage = Stage::genai().await;
    let (answer, account) = stage.ask("/idle?ms=300", greedy(&HELLO, 60)).await;
    let ahead = answer["idle"][2].as_u64().unwrap();
    assert!((1..=17).contains(&ahead), "the engine runs at most 16 tokens ahead: {answer}");
    assert_eq!(answer["read"]["choices"][0]["tokens"].as_array().unwrap().len(), 60);
    assert_eq!(account.output(), 60);
}

async fn a_caller_that_leaves_ends_the_work() {
    let stage = Stage::genai().await;
    let account = Arc::<Account>::default();
    // The guest sleeps with an open stream; dropping the call's future is the caller's leaving.
    let invocation = stage.invocation("/idle?ms=60000", &greedy(&HELLO, 120), Who::new(), &account).await;
    let cancel = invocation.cancel.clone();
    let leave = async {
        while account.output() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cancel.cancel();
    };
    let (ran, ()) = tokio::join!(stage.scene.host.run(&stage.scene.inference, invocation), leave);
    assert!(ran.is_err());
    account.settled().await;
    assert!(account.output() <= 17, "{account:?}");
    assert_eq!(stage.scene.host.stats().instances, 0);
}

async fn a_deadline_ends_the_work() {
    let mut stage = Stage::genai().await;
    // The model is there, so that the deadline passes within the generation.
    stage.ask("/", greedy(&HELLO, 1)).await;
    stage.scene.limits.deadline_ms_max = 300;
    let account = Arc::<Account>::default();
    let (error, _) = stage.start("/idle?ms=60000", &greedy(&HELLO, 120), &account).await.unwrap_err();
    assert!(matches!(error, mayfly_host::HostError::Deadline { limit_ms: 300 }), "{error}");
    account.settled().await;
    assert!((1..=17).contains(&account.output()), "{account:?}");
    stage.scene.limits.deadline_ms_max = 30_000;
    let running = stage.start("/", &greedy(&HELLO, 20), &Arc::default()).await.unwrap();
    assert_eq!(read(running).await.status, 200);
}
