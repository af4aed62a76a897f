//! One run from hold to answer, and every way it can end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_types::RefusalKind;

use super::account::{Account, Event};
use super::guest::{ADD, Request};

const INVALID_ARGUMENT: u32 = 100;
const TIMEOUT: u32 = 102;
const RUNTIME_ERROR: u32 = 103;

/// Held, charged the same at its start, given back.
fn ran_once(account: &Account) {
    let events = account.events();
    let [Event::Held(held), Event::Charged(charged), Event::Released] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(held, charged);
    assert!(!held.is_empty());
}

#[tokio::test]
async fn a_run_is_held_charged_and_given_back() {
    let request = Request::new();
    let answer = request.run(ADD).await;
    assert_eq!(answer.result.unwrap(), (0, [0, 0, 0x40, 0x40].repeat(2)), "1.5 + 1.5, twice");
    assert_eq!(answer.live_bytes, 8, "the inputs are gone, the output is there");
    ran_once(&request.account);
    let timings = request.clock.read();
    assert!(timings.inference > Duration::ZERO);
    assert!(timings.model_load.is_some(), "the first run loads");
}

#[tokio::test]
async fn what_fails_in_the_graph_is_owed() {
    let body = ADD.replacen("(i32.const 2) (i32.const 8)", "(i32.const 3) (i32.const 12)", 1);
    let request = Request::new();
    let answer = request.run(&body).await;
    let (status, text) = answer.text();
    assert_eq!(status, RUNTIME_ERROR, "{text}");
    assert!(!text.contains('/'), "no path: {text}");
    assert_eq!(answer.live_bytes, 0);
    ran_once(&request.account);
}

#[tokio::test]
async fn what_fails_its_check_costs_nothing() {
    let x_twice = ADD.replace("(i32.const 8) (call", "(i32.const 4) (call");
    let unknown = ADD.replace("(i32.const 8) (call", "(i32.const 12) (call");
    let missing = ADD.replace("$run (i32.const 2)", "$run (i32.const 1)");
    let none = "(call $run (i32.const 0))".to_owned();
    // The `y` that was made and not given stays the guest's.
    let cases = [
        (x_twice, "`x` is given twice", 0),
        (unknown, "no input `n`", 0),
        (missing, "missing inputs: y", 8),
        (none, "missing inputs: x, y", 0),
    ];
    for (body, expected, live_bytes) in cases {
        let request = Request::new();
        let answer = request.run(&body).await;
        let (status, text) = answer.text();
        assert_eq!(status, INVALID_ARGUMENT, "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(request.account.events().is_empty());
        assert_eq!(answer.live_bytes, live_bytes, "what was given is gone");
    }
}

#[tokio::test]
async fn a_refused_hold_is_told_and_remembered() {
    let request = Request { account: Account::refusing(), ..Request::new() };
    let (status, text) = request.run(ADD).await.text();
    assert_eq!((status, text.as_str()), (RUNTIME_ERROR, "key k: 5 of 5 input_tokens are used"));
    assert!(request.account.events().is_empty(), "nothing ran");
    assert_eq!(request.clock.refusal().unwrap().kind, RefusalKind::Money);
}

#[tokio::test]
async fn nothing_runs_after_the_end_of_a_call() {
    let request = Request::new();
    request.cancel.cancel();
    let (status, text) = request.run(ADD).await.text();
    assert_eq!(status, RUNTIME_ERROR);
    assert!(text.contains("the call is over"), "{text}");
    assert!(request.account.events().is_empty());
}

#[tokio::test]
async fn nothing_runs_past_the_deadline() {
    let request = Request { deadline: Instant::now(), ..Request::new() };
    let (status, text) = request.run(ADD).await.text();
    assert_eq!(status, TIMEOUT);
    assert!(text.contains("deadline_ms_max"), "{text}");
    assert!(request.account.events().is_empty());
}

/// An account whose holds never come.
#[derive(Debug)]
struct Silent;

impl mayfly_types::Budget for Silent {
    fn hold<'a>(
        &'a self,
        _lines: &'a [mayfly_types::Line],
    ) -> futures::future::BoxFuture<'a, Result<mayfly_types::HoldId, mayfly_types::Refusal>> {
        Box::pin(std::future::pending())
    }

    fn charge(&self, _hold: mayfly_types::HoldId, _lines: &[mayfly_types::Line]) {
        panic!("nothing was held");
    }

    fn release(&self, _hold: mayfly_types::HoldId) {
        panic!("nothing was held");
    }
}

#[tokio::test]
async fn waiting_for_a_hold_ends_with_the_call() {
    let state = |deadline, cancel: &tokio_util::sync::CancellationToken| {
        crate::nn::NnState::new(
            mayfly_inference::Inference::start(mayfly_inference::Config::default()).unwrap(),
            Arc::default(),
            Arc::new(Silent),
            Arc::default(),
            deadline,
            cancel.clone(),
            crate::Clock::default(),
        )
    };
    let cancel = tokio_util::sync::CancellationToken::new();
    let soon = state(Instant::now() + Duration::from_millis(20), &cancel);
    assert!(soon.hold(&[]).await.unwrap_err().text.contains("deadline_ms_max"));
    let late = state(Instant::now() + Duration::from_secs(60), &cancel);
    cancel.cancel();
    assert!(late.hold(&[]).await.unwrap_err().text.contains("the call is over"));
}
