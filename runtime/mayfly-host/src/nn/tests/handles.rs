//! Tensors and graphs as handles: what cannot be made, what cannot be used, what a guest holds too many of.

use mayfly_inference::ElementType;

use super::account::Event;
use super::guest::{ADD, Request};
use crate::nn::NnView;
use crate::nn::tensor::HostTensor;

const INVALID_ARGUMENT: u32 = 100;
const TOO_LARGE: u32 = 105;
const NOT_FOUND: u32 = 106;
const SECURITY: u32 = 107;

/// Adds `x`, a vector made by `tensor`, and a good `y`.
fn add_with(tensor: &str) -> String {
    format!(
        "(call $input (i32.const 0) (i32.const 4) {tensor})
         (call $input (i32.const 1) (i32.const 8) (call $vector (i32.const 2) (i32.const 8)))
         (call $run (i32.const 2))"
    )
}

#[tokio::test]
async fn bytes_come_back_as_they_went_in() {
    let request = Request::new();
    let answer = request.run("(call $answer (call $vector (i32.const 3) (i32.const 12)))").await;
    assert_eq!(answer.result.unwrap(), (0, [0, 0, 0xc0, 0x3f].repeat(3)));
    assert_eq!(answer.live_bytes, 12);
    assert!(request.account.events().is_empty());
}

#[tokio::test]
async fn a_dropped_tensor_counts_no_more() {
    let body = "(local $i i32)
        (loop $again
            (call $drop (call $vector (i32.const 4) (i32.const 16)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const 1000))))
        (call $answer (call $vector (i32.const 4) (i32.const 16)))";
    let mut request = Request::new();
    request.limits.tensor_bytes_max = 1024;
    let answer = request.run(body).await;
    assert_eq!(answer.live_bytes, 16);
    assert_eq!(answer.result.unwrap().0, 0);
}

#[tokio::test]
async fn tensors_that_cannot_be_made_fail_where_they_are_used() {
    let check = async |limit: u64, tensor: &str, status: u32, text: &str| {
        let mut request = Request::new();
        request.limits.tensor_bytes_max = limit;
        let answer = request.run(&add_with(tensor)).await;
        let (got, message) = answer.text();
        assert_eq!(got, status, "{message}");
        assert!(message.contains("input `x`") && message.contains(text), "{message}");
        assert!(request.account.events().is_empty(), "nothing was held");
        assert_eq!(answer.live_bytes, 0);
    };
    let gib = 1 << 30;
    check(gib, "(call $vector (i32.const 2) (i32.const 7))", INVALID_ARGUMENT, "the data has 7 bytes").await;
    check(gib, "(call $vector (i32.const -1) (i32.const 4))", TOO_LARGE, "tensor_bytes_max").await;
    check(1024, "(call $vector (i32.const 1000) (i32.const 4000))", TOO_LARGE, "tensor_bytes_max = 1024 bytes").await;
    let many = "(call $tensor (i32.const 2048) (i32.const 17) (i32.const 1) (i32.const 2064) (i32.const 0))";
    check(gib, many, INVALID_ARGUMENT, "17 dimensions").await;
    let overflow = "(i32.store (i32.const 2052) (i32.const -1)) (i32.store (i32.const 2056) (i32.const -1))";
    let huge = "(call $tensor (i32.const 2052) (i32.const 3) (i32.const 2) (i32.const 2064) (i32.const 0))";
    let request = Request::new();
    let (status, message) = request.run(&format!("{overflow} {}", add_with(huge))).await.text();
    assert_eq!(status, INVALID_ARGUMENT, "{message}");
    assert!(message.contains("overflow"), "{message}");
}

#[tokio::test]
async fn a_refused_tensor_has_no_data() {
    let (status, bytes) = Request::new().run("(call $answer (call $vector (i32.const 9) (i32.const 7)))").await.text();
    assert_eq!((status, bytes.as_str()), (0, ""));
}

#[tokio::test]
async fn a_handle_given_twice_traps() {
    let body = "(local $t i32)
        (local.set $t (call $vector (i32.const 2) (i32.const 8)))
        (call $input (i32.const 0) (i32.const 4) (local.get $t))
        (call $input (i32.const 1) (i32.const 8) (local.get $t))
        (call $run (i32.const 2))";
    let request = Request::new();
    assert!(request.run(body).await.trap().contains("unknown handle"), "the second use finds no handle");
    assert!(request.account.events().is_empty());
}

#[tokio::test]
async fn a_foreign_handle_traps() {
    let request = Request::new();
    // A context where a tensor should be, and a number that is no handle.
    assert!(request.run("(call $answer (call $context))").await.result.is_err());
    assert!(request.run("(call $answer (i32.const 12345))").await.result.is_err());
    assert_eq!(request.run(ADD).await.text().0, 0, "the next request works");
}

#[tokio::test]
async fn too_many_handles_trap() {
    let mut request = Request::new();
    request.limits.handles_max = 16;
    let answer =
        request.run("(loop $again (drop (call $vector (i32.const 1) (i32.const 4))) (br $again)) unreachable").await;
    assert!(answer.trap().contains("handles_max = 16"), "{}", answer.trap());
}

#[tokio::test]
async fn outputs_get_all_their_handles_or_none() {
    let request = Request::new();
    let (mut table, mut nn) = request.state();
    table.set_max_capacity(2);
    let outputs = (0..3).map(|_| ("z".to_owned(), HostTensor::from_guest(&nn.live, &[4], ElementType::U8, b"abcd")));
    let runs = vec![outputs.collect()];
    assert_eq!(nn.live.used(), 12);
    let error = NnView { table: &mut table, nn: &mut nn }.push_outputs(runs).unwrap_err();
    assert!(error.text.contains("handles_max"), "{}", error.text);
    assert!(table.is_empty());
    assert_eq!(nn.live.used(), 0);
}

#[tokio::test]
async fn models_are_found_by_grant_only() {
    let load = |len: u32| {
        format!(
            "(call $load_by_name (i32.const 12) (i32.const {len}) (i32.const 1040)) (call $fail (i32.load (i32.const 1044)))"
        )
    };
    let request = Request::new();
    let unknown = request.run(&load(13)).await.text();
    assert_eq!(unknown.0, NOT_FOUND);
    // Nothing, another text, and a long one full of zeros: the same answer.
    for len in [0, 5, 1000] {
        assert_eq!(request.run(&load(len)).await.text(), unknown);
    }
}

#[tokio::test]
async fn a_guest_brings_no_model() {
    let body = "(call $load (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1040))
        (call $fail (i32.load (i32.const 1044)))";
    let (status, text) = Request::new().run(body).await.text();
    assert_eq!(status, SECURITY);
    assert!(text.contains("load-by-name"), "{text}");
}

#[tokio::test]
async fn configuration_is_read() {
    let body = "(call $get (i32.const 4) (i32.const 1) (i32.const 1040))
        (i32.store (i32.const 1024) (i32.const 0))
        (i64.store (i32.const 1028) (i64.load (i32.const 1048)))
        (i32.const 1024)";
    assert_eq!(Request::new().run(body).await.text(), (0, "a value".to_owned()));
}

#[tokio::test]
async fn events_start_with_a_hold() {
    let request = Request::new();
    assert_eq!(request.run(ADD).await.text().0, 0);
    assert!(matches!(request.account.events().first(), Some(Event::Held(_))));
}
