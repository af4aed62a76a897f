//! What the first read of an output costs, and when its hold is given back.

use std::sync::Arc;

use mayfly_inference::{ElementType, Seen, Tensor};
use mayfly_types::{Digest, Line, Meter, ModelId};

use super::account::{Account, Event};
use super::guest::{package, tensor_json};
use crate::nn::compute::take_apart;
use crate::nn::live::LiveBytes;
use crate::nn::tensor::{HostTensor, OnRead};

fn cost() -> Event {
    Event::Charged(vec![(Meter::OutputTokens, 3)])
}

/// An output of `origin` whose first read costs three output tokens; the hold lives in the output alone.
async fn output(account: &Arc<Account>, live: &LiveBytes, origin: Digest) -> HostTensor {
    let hold = account.take().await;
    let tensor = Tensor::from_bytes(ElementType::U8, &[4], b"abcd").unwrap();
    let share = live.take(tensor.byte_len()).unwrap();
    let line = Line { meter: Meter::OutputTokens, model: Some(ModelId::new()), quantity: 3 };
    HostTensor::from_run(tensor, share, OnRead::new(&hold, vec![line], Seen::default()), origin)
}

#[tokio::test]
async fn reading_charges_once_and_gives_the_hold_back() {
    let (account, live) = (Arc::new(Account::default()), LiveBytes::new(100));
    let mut tensor = output(&account, &live, Digest::of(b"m")).await;
    assert_eq!(tensor.read().unwrap(), "abcd");
    assert_eq!(tensor.read().unwrap(), "abcd");
    drop(tensor);
    assert_eq!(account.events(), [Event::Held(vec![]), cost(), Event::Released]);
    assert_eq!(live.used(), 0);
}

#[tokio::test]
async fn what_nobody_reads_is_free() {
    let (account, live) = (Arc::new(Account::default()), LiveBytes::new(100));
    drop(output(&account, &live, Digest::of(b"m")).await);
    assert_eq!(account.events(), [Event::Held(vec![]), Event::Released]);
}

#[tokio::test]
async fn handing_over_costs_and_handing_back_a_state_does_not() {
    let inputs = [tensor_json("past", "u8", "past"), tensor_json("data", "u8", "data")];
    let (_folder, package) = package("add", &inputs, &[]);
    // Whose output it is, where it goes, and whether that costs.
    let cases = [
        (package.digest(), "past", false),
        (package.digest(), "data", true),
        (Digest::of(b"another model"), "past", true),
    ];
    for (origin, input, costs) in cases {
        let (account, live) = (Arc::new(Account::default()), LiveBytes::new(100));
        let tensor = output(&account, &live, origin).await;
        let taken = take_apart(&package, vec![(input.to_owned(), tensor)]).unwrap();
        assert_eq!(live.used(), 4, "an input stays live until its run has ended");
        assert!(!account.events().contains(&cost()), "nothing is owed before the run starts");
        let costs_now = taken.exposed.len() == 1;
        assert_eq!(costs_now, costs, "{input}");
        taken.exposed.into_iter().for_each(OnRead::charge);
        let expected: &[Event] = if costs {
            &[Event::Held(vec![]), cost(), Event::Released]
        } else {
            &[Event::Held(vec![]), Event::Released]
        };
        assert_eq!(account.events(), expected, "{input}");
    }
}

#[tokio::test]
async fn long_names_go_no_further() {
    let (_folder, package) = package("add", &[], &[]);
    let (account, live) = (Arc::new(Account::default()), LiveBytes::new(100));
    let tensor = output(&account, &live, package.digest()).await;
    let error = take_apart(&package, vec![("x".repeat(10_000), tensor)]).unwrap_err();
    assert_eq!(error.text, "an input name of 10000 bytes; no model has one this long");
    assert_eq!(live.used(), 0);
    assert_eq!(account.events(), [Event::Held(vec![]), Event::Released]);
}
