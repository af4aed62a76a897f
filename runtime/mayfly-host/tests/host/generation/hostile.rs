//! What a guest must not get away with. Nothing is held, and nothing runs, for what is refused.

use std::sync::Arc;

use mayfly_types::{Meter, RefusalKind};
use serde_json::{Value, json};

use super::HELLO;
use super::stage::{Account, Stage, Who, greedy};
use crate::trials;

trials!(
    options_are_checked,
    the_context_is_checked,
    prompts_are_checked,
    grants_and_kinds_are_checked,
    models_nobody_has_approved_generate_nothing,
    ten_thousand_streams,
    limits_of_the_caller,
    a_trap_gives_everything_back,
);

/// Each plan's error begins so.
async fn check(stage: &Stage, cases: impl IntoIterator<Item = (Value, &str)>) {
    for (plan, expect) in cases {
        let error = stage.error(plan.clone()).await;
        assert!(error.starts_with(expect), "{plan}: {error}");
    }
}

async fn models_nobody_has_approved_generate_nothing() {
    let place = |place| move |grants: &mut mayfly_host::Grants| grants.models.get_mut("model").unwrap().place = place;
    let plan = || json!({ "tokens": HELLO });
    let nowhere = Stage::genai().await.ruled(place(mayfly_host::Place::Nowhere));
    check(&nowhere, [(plan(), "invalid: the model `tiny` waits for the operator's approval")]).await;
}

async fn options_are_checked() {
    let stage = Stage::genai().await;
    let with = |options: Value| json!({ "tokens": HELLO, "options": options });
    check(
        &stage,
        [
            (with(json!({ "choices": 0 })), "invalid: `choices` is 0; it must be from 1 to 128"),
            (with(json!({ "choices": u32::MAX })), "invalid: `choices` is 4294967295"),
            (with(json!({ "max_tokens": 0 })), "invalid: `max_tokens` is 0; it must be at least 1"),
            (with(json!({ "temperature": "nan" })), "invalid: `temperature` is NaN"),
            (with(json!({ "temperature": "inf" })), "invalid: `temperature` is inf"),
            (with(json!({ "temperature": -0.1 })), "invalid: `temperature` is -0.1"),
            (with(json!({ "top_p": "nan" })), "invalid: `top_p` is NaN"),
            (with(json!({ "top_p": 1.5 })), "invalid: `top_p` is 1.5"),
            (with(json!({ "min_p": -1 })), "invalid: `min_p` is -1"),
            (with(json!({ "presence_penalty": 3 })), "invalid: `presence_penalty` is 3"),
            (with(json!({ "frequency_penalty": "inf" })), "invalid: `frequency_penalty` is inf"),
            (with(json!({ "repetition_penalty": 0 })), "invalid: `repetition_penalty` is 0"),
            (with(json!({ "logit_bias": [[4_000_000, 1]] })), "invalid: `logit_bias`"),
            (with(json!({ "logit_bias": [[1, "nan"]] })), "invalid: `logit_bias`"),
            (with(json!({ "logit_bias": vec![(1, 1); 5000] })), "invalid: `logit_bias`"),
            (with(json!({ "stop": [""] })), "invalid: `stop` is a string of 0 bytes"),
            (with(json!({ "stop": vec!["x"; 1000] })), "invalid: `stop` is a list of 1000 strings"),
            (with(json!({ "logprobs": u32::MAX })), "invalid: `top_logprobs` is 4294967295"),
        ],
    )
    .await;
}

async fn the_context_is_checked() {
    let stage = Stage::genai().await;
    let long: Vec<u32> = vec![1; 128];
    let overflow = "context-overflow: this model's maximum context length is 128 tokens; the prompt has";
    check(
        &stage,
        [
            (greedy(&HELLO, u32::MAX), &*format!("{overflow} 5 and 4294967295 more")),
            (greedy(&HELLO, 124), &format!("{overflow} 5 and 124 more")),
            (greedy(&long, 1), &format!("{overflow} 128 and 1 more")),
            (json!({ "tokens": long }), &format!("{overflow} 128 and 1 more")),
            (json!({ "tokens": long, "repeat": 10_000 }), &format!("{overflow} 1280000 and 1 more")),
            (json!({ "text": "word ", "repeat": 1000 }), overflow),
        ],
    )
    .await;
    // What is left of it is what a generation gets that names no number.
    let (answer, account) = stage.ask("/", json!({ "tokens": vec![1; 100], "options": { "ignore_eos": true } })).await;
    assert_eq!((&answer["choices"][0]["finish"], &answer["usage"]), (&json!("length"), &json!([100, 0, 28])));
    assert_eq!(account.held(), [(Meter::InputTokens, 100), (Meter::OutputTokens, 28)]);
}

async fn prompts_are_checked() {
    let stage = Stage::genai().await;
    let chat = |text: &str| json!({ "chat_text": text });
    check(
        &stage,
        [
            (json!({ "tokens": [] }), "invalid: the prompt has no tokens"),
            (json!({ "tokens": [1, 270] }), "invalid: token 1 of the prompt is 270; the model's vocabulary has 270"),
            (json!({ "tokens": [u32::MAX] }), "invalid: token 0 of the prompt is 4294967295"),
            (json!({ "text": "0123456789", "repeat": 200_000 }), "invalid: the prompt has 2000000 bytes"),
            (chat("{"), "invalid: the chat is not as expected"),
            (chat(r#"{"messages": [], "tool": []}"#), "invalid: the chat is not as expected: unknown field `tool`"),
            (chat(&"[".repeat(100_000)), "invalid: the chat is not as expected"),
            (chat(r#"{"messages": []}"#), "invalid: "),
            (chat(r#"{"messages": 7}"#), "invalid: "),
        ],
    )
    .await;
}

async fn grants_and_kinds_are_checked() {
    let stage = Stage::genai().await;
    check(
        &stage,
        [
            (json!({ "alias": "other", "tokens": HELLO }), "invalid: no model is granted under this alias"),
            (json!({ "alias": "../model", "tokens": HELLO }), "invalid: no model is granted under this alias"),
            (json!({ "alias": "rows", "tokens": HELLO }), "invalid: the model `rows` cannot generate text: "),
        ],
    )
    .await;
}

async fn ten_thousand_streams() {
    let stage = Stage::genai().await;
    let (answer, account) = stage.ask("/open?streams=10000", greedy(&HELLO, 100)).await;
    let open = answer["open"].as_u64().unwrap();
    assert!((1..=64).contains(&open), "{answer}");
    let kind = answer["error"]["kind"].as_str().unwrap();
    assert!(matches!(kind, "invalid" | "busy"), "{answer}");
    // Each ran at most so far ahead of a reader that never came.
    assert!(account.output() <= open * 17, "{open} {account:?}");
    let (answer, _) = stage.ask("/", greedy(&HELLO, 3)).await;
    assert_eq!(answer["usage"], json!([5, 0, 3]), "the next caller is served");
}

async fn limits_of_the_caller() {
    let stage = Stage::genai().await;
    for (kind, expect) in [
        (RefusalKind::Rate, "limited"),
        (RefusalKind::NeverFits, "limited"),
        (RefusalKind::Money, "limited"),
        (RefusalKind::Closed, "stopped"),
    ] {
        let account = Account::refusing(kind);
        let running = stage.start("/", &greedy(&HELLO, 3), &account).await.unwrap();
        // Whoever answers the caller finds the refusal here, with its retry time.
        assert_eq!(running.clock.refusal().unwrap().retry_after_ms, Some(1500));
        let answer: Value = serde_json::from_slice(&crate::scene::read(running).await.body).unwrap();
        assert_eq!(answer["error"]["kind"], expect, "{answer}");
        if expect == "limited" {
            assert_eq!(answer["error"]["text"], "key k: 5 of 5 output_tokens are used");
        }
        assert_eq!(account.charged(), [], "{kind:?}");
    }
}

async fn a_trap_gives_everything_back() {
    let stage = Stage::genai().await;
    let account = Arc::<Account>::default();
    let mut plan = greedy(&HELLO, 100);
    plan["alias"] = json!("model");
    let mut invocation = stage.invocation("/open?streams=40", &plan, Who::new(), &account).await;
    // It keeps 40 streams and needs a handle for each.
    let limits = mayfly_types::GuestLimits { handles_max: 20, ..(*invocation.limits).clone() };
    invocation.limits = Arc::new(limits);
    let (error, _) = stage.scene.host.run(&stage.scene.inference, invocation).await.unwrap_err();
    assert!(error.to_string().contains("handles_max = 20"), "{error}");
    account.settled().await;
    assert_eq!(stage.scene.host.stats().instances, 0);
}
