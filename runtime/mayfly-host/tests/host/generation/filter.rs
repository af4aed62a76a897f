//! What a deployment's filter leaves of a generation, and what that costs.

use mayfly_host::{Grants, text_filter};
use mayfly_types::FilterSpec;
use serde_json::{Value, json};

use super::stage::{Stage, greedy};
use super::{AFTER_HELLO, HELLO, LAYOUTS, bill};
use crate::trials;

trials!(
    a_choice_ends_before_a_blocked_text,
    what_only_begins_like_a_blocked_text_comes_whole,
    one_choice_is_cut_and_the_others_are_not,
    a_reader_that_cancels_gets_what_was_held_back,
);

/// What the tokens of `AFTER_HELLO` say. The model's weights are drawn, so half of it is no text.
const SAID: &str = "._\u{fffd}%\u{fffd}\u{529}\u{fffd}\u{14}\u{14}S\u{fffd}\u{14}S\u{fffd}\u{14}\u{5}F";

fn blocking(text: &str) -> impl FnOnce(&mut Grants) {
    let filter = text_filter(&FilterSpec { block: vec![text.to_owned()] }).unwrap();
    |grants| grants.filter = filter
}

async fn a_choice_ends_before_a_blocked_text() {
    for layout in LAYOUTS {
        // The capital of a letter that is two tokens, behind one that was never finished.
        let stage = Stage::with(layout).await.ruled(blocking("\u{528}"));
        let (answer, account) = stage.ask("/", greedy(&HELLO, 100)).await;
        let choice = &answer["choices"][0];
        assert_eq!((&choice["text"], &choice["finish"]), (&json!(SAID[..9]), &json!("content-filter")), "{layout}");
        assert_eq!(choice["tokens"], json!(AFTER_HELLO[..6]), "{layout}");
        // Eight tokens say it. They may be read as late as the sixteenth, and the engine may be as far ahead again.
        assert!((8..=16 + 17).contains(&account.output()), "{layout}: {account:?}");
        assert_eq!(answer["usage"], json!([5, 0, account.output()]), "{layout}: the guest is told what is billed");
        assert_eq!(account.held(), bill(5, 100));
    }
}

async fn what_only_begins_like_a_blocked_text_comes_whole() {
    for layout in LAYOUTS {
        // The beginning of it comes twice within, and once at the end.
        for blocked in ["s\u{fffd}\u{14}x", "fine"] {
            let stage = Stage::with(layout).await.ruled(blocking(blocked));
            let (answer, account) = stage.ask("/", greedy(&HELLO, 20)).await;
            let choice = &answer["choices"][0];
            assert_eq!((&choice["text"], &choice["finish"]), (&json!(SAID), &json!("length")), "{layout}, {blocked}");
            assert_eq!(choice["tokens"], json!(AFTER_HELLO), "{layout}, {blocked}");
            assert_eq!(account.charged(), bill(5, 20));
        }
    }
}

fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

async fn one_choice_is_cut_and_the_others_are_not() {
    let plan = json!({ "tokens": HELLO, "options": {
        "choices": 3, "max_tokens": 30, "seed": 5, "temperature": 1.5, "ignore_eos": true, "logprobs": 1 } });
    let (whole, _) = Stage::genai().await.ask("/", plan.clone()).await;
    let text = |answer: &Value, choice: usize| answer["choices"][choice]["text"].as_str().unwrap().to_owned();
    let (one, others) = (text(&whole, 0), folded(&(text(&whole, 1) + "\0" + &text(&whole, 2))));
    // Two characters that only choice 0 says, and not at its beginning.
    let places: Vec<usize> = one.char_indices().map(|(at, _)| at).collect();
    let first = |two: &str| places.iter().copied().find(|at| folded(&one[*at..]).starts_with(&folded(two)));
    let (at, blocked) = places[2..]
        .windows(3)
        .map(|place| (place[0], &one[place[0]..place[2]]))
        .find(|(at, two)| !others.contains(&folded(two)) && first(two) == Some(*at))
        .unwrap();

    let (answer, account) = Stage::genai().await.ruled(blocking(blocked)).ask("/", plan).await;
    let cut = &answer["choices"][0];
    assert_eq!((&cut["text"], &cut["finish"]), (&json!(one[..at]), &json!("content-filter")), "{blocked:?} {whole}");
    for choice in 1..3 {
        assert_eq!(answer["choices"][choice], whole["choices"][choice], "{blocked:?}");
    }
    let told: usize = (0..3).map(|choice| answer["choices"][choice]["tokens"].as_array().unwrap().len()).sum();
    assert_eq!(answer["logprobs"].as_array().unwrap().len(), told);
    assert_eq!(answer["usage"], json!([5, 0, account.output()]));
    assert!(account.output() <= 90 && account.output() > told as u64, "{account:?}");
}

async fn a_reader_that_cancels_gets_what_was_held_back() {
    // All the engine is ahead with begins like the blocked text.
    let blocked = format!("{SAID} and more");
    let stage = Stage::genai().await.ruled(blocking(&blocked));
    let (answer, account) = stage.ask("/cancel?after=1", greedy(&HELLO, 19)).await;
    let (before, rest) = (&answer["before"]["choices"][0], &answer["rest"]["choices"][0]);
    let said = format!("{}{}", before["text"].as_str().unwrap(), rest["text"].as_str().unwrap());
    // It may have been stopped within a character.
    assert!(SAID.starts_with(said.trim_end_matches('\u{fffd}')) && !said.is_empty(), "{answer}");
    assert_eq!(before["text"], "");
    let tokens = rest["tokens"].as_array().unwrap().len() as u64;
    assert_eq!(tokens, account.output(), "{answer}");
}
