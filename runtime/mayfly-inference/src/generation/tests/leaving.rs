//! Readers that leave, stall or run out of time, at each stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{
    ABC, Account, Finish, GenerationError, GenerationRequest, HELLO, HELLO_GOES_ON, Host, LAYOUTS, greedy, whole,
};
use crate::Config;

fn one_slot() -> Config {
    Config { generation_slots: 1, ..Config::default() }
}

#[tokio::test]
async fn nothing_runs_for_a_call_that_is_over() {
    let host = Host::new("decoder_genai", Config::default());
    let account = Arc::new(Account::default());
    let cancel = CancellationToken::new();
    cancel.cancel();
    let over = [
        GenerationRequest { cancel, ..greedy(&HELLO, 5) },
        GenerationRequest { deadline: Instant::now(), ..greedy(&HELLO, 5) },
    ];
    for request in over {
        let request = GenerationRequest { account: Arc::<Account>::clone(&account), ..request };
        assert!(matches!(host.start(request).await, Err(GenerationError::Stopped)));
    }
    assert_eq!((account.inputs(), account.outputs()), (vec![], 0));
}

#[tokio::test]
async fn a_reader_is_followed_by_sixteen_tokens_at_most() {
    for layout in LAYOUTS {
        let host = Host::new(layout, Config::default());
        let account = Arc::new(Account::default());
        let request = GenerationRequest { account: Arc::<Account>::clone(&account), ..greedy(&HELLO, 100) };
        let mut generation = host.start(request).await.unwrap();
        host.until("it runs ahead", |_| account.outputs() >= 16).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(account.outputs(), 16, "{layout}");
        let first = generation.next().await.unwrap().unwrap();
        assert_eq!(first.tokens.len(), 16, "what is ready comes at once");
        assert_eq!(first.tokens.iter().map(|token| token.id).collect::<Vec<_>>(), HELLO_GOES_ON[..16]);
        assert_eq!(whole(&mut generation).await.unwrap()[0].ids.len(), 84);
        assert_eq!(account.outputs(), 100);
    }
}

#[tokio::test]
async fn who_drops_a_generation_frees_its_slot_and_pays_no_more() {
    for layout in LAYOUTS {
        let host = Host::new(layout, one_slot());
        let account = Arc::new(Account::default());
        let request = GenerationRequest { account: Arc::<Account>::clone(&account), ..greedy(&HELLO, 100) };
        let mut generation = host.start(request).await.unwrap();
        generation.next().await.unwrap();
        // Somebody waits for the slot.
        let mut next = host.start(greedy(&ABC, 10)).await.unwrap();
        drop(generation);
        assert_eq!(whole(&mut next).await.unwrap()[0].ids.len(), 10);
        let charged = account.outputs();
        assert!(charged <= 33, "{charged}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(account.outputs(), charged);
    }
}

#[tokio::test]
async fn cancelled_in_the_queue_it_never_begins() {
    let host = Host::new("decoder_genai", one_slot());
    let first = host.start(greedy(&HELLO, 100)).await.unwrap();
    let account = Arc::new(Account::default());
    let request = GenerationRequest { account: Arc::<Account>::clone(&account), choices: 2, ..greedy(&ABC, 10) };
    let mut waiting = host.start(request).await.unwrap();
    host.until("two wait", |load| load.waiting == 2).await;
    waiting.cancel();
    let made = whole(&mut waiting).await.unwrap();
    assert!(made.iter().all(|choice| choice.ids.is_empty() && choice.finish == Some(Finish::Cancelled)), "{made:?}");
    assert_eq!((account.inputs(), account.outputs()), (vec![], 0));
    drop(first);
    host.until("nobody is left", |load| load.active + load.waiting == 0).await;
}

#[tokio::test]
async fn cancelled_in_the_middle_it_ends_with_what_there_is() {
    let host = Host::new("decoder_genai", Config::default());
    let mut generation = host.start(greedy(&HELLO, 100)).await.unwrap();
    let first = generation.next().await.unwrap().unwrap();
    generation.cancel();
    let rest = whole(&mut generation).await.unwrap().remove(0);
    assert_eq!(rest.finish, Some(Finish::Cancelled));
    let made = first.tokens.len() + rest.ids.len();
    assert!(made < 100, "{made}");
    assert_eq!(generation.usage().completion_tokens, made as u64);
    assert!(generation.next().await.unwrap().is_none(), "and stays over");
}

#[tokio::test]
async fn one_choice_ends_and_the_others_go_on() {
    for layout in LAYOUTS {
        let host = Host::new(layout, Config::default());
        let account = Arc::new(Account::default());
        let request = GenerationRequest { account: Arc::<Account>::clone(&account), choices: 3, ..greedy(&HELLO, 60) };
        let mut generation = host.start(request).await.unwrap();
        let first = generation.next().await.unwrap().unwrap();
        generation.end_choice(first.choice);
        generation.end_choice(first.choice);
        // Nobody's.
        generation.end_choice(3);
        let made = whole(&mut generation).await.unwrap();
        for (number, choice) in (0..).zip(&made) {
            if number == first.choice {
                assert_eq!(choice.finish, Some(Finish::Cancelled), "{layout}");
                assert!(first.tokens.len() + choice.ids.len() <= 33, "{layout}: {choice:?}");
            } else {
                assert_eq!((choice.finish, choice.ids.len()), (Some(Finish::Length), 60), "{layout}: choice {number}");
            }
        }
        let read = first.tokens.len() + made.iter().map(|choice| choice.ids.len()).sum::<usize>();
        assert_eq!((generation.usage().completion_tokens, u64::from(account.outputs())), (read as u64, read as u64));
        // It is over: nothing is left to end.
        generation.end_choice(first.choice);
        host.until("nobody is left", |load| load.active + load.waiting == 0).await;
    }
}

#[tokio::test]
async fn a_cancelled_call_stops() {
    let host = Host::new("decoder_genai", Config::default());
    let cancel = CancellationToken::new();
    let mut generation = host.start(GenerationRequest { cancel: cancel.clone(), ..greedy(&HELLO, 100) }).await.unwrap();
    generation.next().await.unwrap();
    cancel.cancel();
    assert!(matches!(whole(&mut generation).await, Err(GenerationError::Stopped)));
    assert!(generation.next().await.unwrap().is_none(), "an error comes once");
    host.until("it is gone", |load| load.active == 0).await;
}

#[tokio::test]
async fn a_deadline_ends_what_runs_and_what_waits() {
    let host = Host::new("decoder_genai", one_slot());
    // Loaded before the clock runs.
    host.run(greedy(&HELLO, 1)).await;
    let deadline = Instant::now() + Duration::from_millis(300);
    let mut running = host.start(GenerationRequest { deadline, ..greedy(&HELLO, 100) }).await.unwrap();
    let mut waiting = host.start(GenerationRequest { deadline, ..greedy(&ABC, 10) }).await.unwrap();
    assert!(matches!(waiting.next().await, Err(GenerationError::Stopped)));
    assert!(Instant::now() >= deadline);
    // What was made before it is still given.
    assert_eq!(running.next().await.unwrap().unwrap().tokens.len(), 16);
    assert!(matches!(running.next().await, Err(GenerationError::Stopped)));
    host.until("both are gone", |load| load.active + load.waiting == 0).await;
}

#[tokio::test]
async fn a_stalled_reader_is_cut() {
    let host = Host::new("decoder_genai", Config { generation_stall_ms: 100, ..one_slot() });
    let mut stalled = host.start(greedy(&HELLO, 100)).await.unwrap();
    // Waits for the slot that only the cut frees.
    assert_eq!(host.run(greedy(&ABC, 10)).await.ids.len(), 10);
    assert_eq!(stalled.next().await.unwrap().unwrap().tokens.len(), 16);
    assert!(matches!(stalled.next().await, Err(GenerationError::Stalled)));
    assert!(stalled.next().await.unwrap().is_none());
}

#[tokio::test]
async fn ready_is_when_next_does_not_wait() {
    let host = Host::new("decoder_genai", Config::default());
    let mut generation = host.start(greedy(&HELLO, 3)).await.unwrap();
    let mut chunks = 0;
    loop {
        generation.ready().await;
        let next = futures::FutureExt::now_or_never(generation.next()).expect("it was ready");
        let Some(chunk) = next.unwrap() else { break };
        chunks += chunk.tokens.len();
    }
    assert_eq!(chunks, 3);
    generation.ready().await;
}
