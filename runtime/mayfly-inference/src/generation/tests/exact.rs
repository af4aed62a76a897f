//! The same tokens, whoever else runs and however they were run.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::bare::Bare;
use super::{
    ABC, ABC_GOES_ON, Account, Finish, GenerationRequest, HELLO, HELLO_GOES_ON, Host, LAYOUTS, Sampling, greedy,
    prompts, whole,
};
use crate::Config;

#[tokio::test]
async fn greedy_tokens_are_those_of_the_reference() {
    for layout in LAYOUTS {
        let host = Host::new(layout, Config::default());
        for (prompt, tokens) in [(&HELLO[..], HELLO_GOES_ON), (&ABC[..], ABC_GOES_ON)] {
            let made = host.run(greedy(prompt, 20)).await;
            assert_eq!((made.ids.as_slice(), made.finish), (&tokens[..], Some(Finish::Length)), "{layout}");
        }
    }
}

/// The bare loop's tokens for each prompt.
fn alone(layout: &str, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    prompts.iter().map(|prompt| Bare::new(layout).greedy(prompt, count)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_tokens_are_the_same_in_a_crowd() {
    let prompts = prompts(12);
    for layout in LAYOUTS {
        let want = alone(layout, &prompts, 40);
        // Few slots and small chunks: sequences wait, prefill in pieces, and move when others end.
        let config = Config { generation_slots: 4, generation_prefill_chunk_max: 5, ..Config::default() };
        let host = Host::new(layout, config);
        let one = async |number: usize| {
            // Of different lengths, so that slots come free in the middle.
            let count = 40 - number * 3;
            let request = GenerationRequest { owner: number as u128 % 3, ..greedy(&prompts[number], count as u32) };
            let mut generation = host.start(request).await.unwrap();
            let made = whole(&mut generation).await.unwrap().remove(0);
            assert_eq!(made.ids, want[number][..count], "{layout} {number}");
            assert_eq!(generation.usage().completion_tokens, count as u64);
        };
        join_all((0..prompts.len()).map(one)).await;
        host.until("everybody is gone", |load| load.active == 0 && load.waiting == 0).await;
        assert!(host.load().steps > 40, "{:?}", host.load());
    }
}

#[tokio::test]
async fn a_reused_prefix_changes_no_token_and_is_charged_apart() {
    for layout in LAYOUTS {
        let host = Host::new(layout, Config::default());
        let prompt: Vec<u32> = (0..60).map(|place| place * 13 % 250).collect();
        let longer = [&prompt[..], &[3, 1, 4, 1, 5]].concat();
        let want = alone(layout, &[prompt.clone(), longer.clone()], 10);
        let check = async |prompt: &[u32], reuse: Option<[u8; 32]>, tokens: &[u32], cached: u32| {
            let account = Arc::new(Account::default());
            let request = GenerationRequest { reuse, account: Arc::<Account>::clone(&account), ..greedy(prompt, 10) };
            let mut generation = host.start(request).await.unwrap();
            let made = whole(&mut generation).await.unwrap().remove(0);
            assert_eq!(made.ids, tokens, "{layout}");
            assert_eq!(account.inputs(), [(prompt.len() as u32 - cached, cached)], "{layout}");
            let usage = generation.usage();
            assert_eq!((usage.prompt_tokens, usage.cached_tokens), (prompt.len() as u64, cached.into()));
            assert_eq!((usage.completion_tokens, account.outputs()), (10, 10));
            let time = *account.time.lock().unwrap();
            assert!(time > Duration::ZERO);
            // The engine tells of itself once its step is over.
            host.until("its time is within the engine's", |load| time <= load.run).await;
        };
        check(&prompt, Some([1; 32]), &want[0], 0).await;
        check(&prompt, Some([1; 32]), &want[0], 59).await;
        check(&longer, Some([1; 32]), &want[1], 60).await;
        check(&longer, Some([2; 32]), &want[1], 0).await;
        check(&longer, None, &want[1], 0).await;
        check(&prompt, Some([1; 32]), &want[0], 59).await;
    }
}

#[tokio::test]
async fn choices_share_their_prompt() {
    for layout in LAYOUTS {
        let host = Host::new(layout, Config::default());
        let account = Arc::new(Account::default());
        let request = GenerationRequest { choices: 3, account: Arc::<Account>::clone(&account), ..greedy(&HELLO, 20) };
        let made = whole(&mut host.start(request).await.unwrap()).await.unwrap();
        assert_eq!(made.len(), 3);
        for choice in made {
            assert_eq!(choice.ids, HELLO_GOES_ON, "{layout}");
        }
        assert_eq!((account.inputs(), account.outputs()), (vec![(5, 0)], 60), "{layout}: the prompt once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_gives_the_same_tokens_alone_and_in_a_crowd() {
    let host = Host::new("decoder_genai", Config { generation_slots: 4, ..Config::default() });
    let seeded = |seed: u64| {
        let mut request = greedy(&HELLO, 30);
        request.options.sampling = Sampling { temperature: 1.0, top_p: 0.95, seed: Some(seed), ..Sampling::default() };
        request
    };
    let mut alone = Vec::new();
    for seed in 0..8 {
        alone.push(host.run(seeded(seed)).await);
    }
    let crowd = join_all((0..8).map(|seed| host.run(seeded(seed)))).await;
    assert_eq!(alone, crowd);
    assert_ne!(alone[0], alone[1]);
}
