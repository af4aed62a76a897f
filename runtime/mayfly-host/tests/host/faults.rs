//! What guests do wrong: each a clear fault, and the next request works.

use mayfly_host::{GuestFault, HostError};

use crate::guest::{handler, handler_with};
use crate::scene::Scene;
use crate::trials;

trials![
    trap_before_the_head,
    recursion,
    no_response,
    exit,
    trap_in_mid_body,
    broken_off_body,
    body_longer_than_said,
    body_shorter_than_said,
    informational_status,
    work_after_the_body_has_ended,
    error_code_instead_of_a_response
];

#[track_caller]
fn is_trap(error: &HostError, text: &str) {
    assert!(matches!(error, HostError::Guest(GuestFault::Trap(found)) if found.contains(text)), "{error:?}");
}

#[track_caller]
fn is_bad_response(error: &HostError, text: &str) {
    assert!(matches!(error, HostError::Guest(GuestFault::BadResponse(found)) if found.contains(text)), "{error:?}");
}

async fn trap_before_the_head() {
    is_trap(&Scene::new().error(&handler("unreachable")).await, "unreachable");
}

async fn recursion() {
    let wasm = handler_with("(func $deep (call $deep) (call $deep))", "(call $deep)");
    is_trap(&Scene::new().error(&wasm).await, "stack");
}

async fn no_response() {
    let error = Scene::new().error(&handler("")).await;
    assert!(matches!(error, HostError::Guest(GuestFault::NoResponse)), "{error:?}");
}

async fn exit() {
    let error = Scene::new().error(&handler("(call $exit (i32.const 0))")).await;
    assert!(matches!(error, HostError::Guest(GuestFault::Exit)), "{error:?}");
}

async fn trap_in_mid_body() {
    let wasm = handler(
        "(call $open (local.get 1) (i32.const 200) (call $fields))
         (call $write (i32.const 1024) (i32.const 5))
         unreachable",
    );
    let scene = Scene::new();
    let answer = scene.answer(&wasm).await;
    assert_eq!(answer.body, b"hello");
    is_trap(&answer.body_end.unwrap_err(), "unreachable");
    is_trap(&answer.end.result.unwrap_err(), "unreachable");
    scene.check_healthy().await;
}

async fn broken_off_body() {
    let wasm = handler(
        "(call $open (local.get 1) (i32.const 200) (call $fields))
         (call $write (i32.const 1024) (i32.const 5))
         (call $drop_stream (global.get $stream))
         (call $drop_body (global.get $body))",
    );
    let scene = Scene::new();
    let answer = scene.answer(&wasm).await;
    is_bad_response(&answer.body_end.unwrap_err(), "broken off");
    scene.check_healthy().await;
}

fn five_bytes_said(body: &str) -> Vec<u8> {
    handler(&format!(
        "(local $fields i32)
         (local.set $fields (call $fields))
         (call $header (local.get $fields) (i32.const 1100) (i32.const 14) (i32.const 1120) (i32.const 1))
         (call $open (local.get 1) (i32.const 200) (local.get $fields))
         {body}"
    ))
}

async fn body_longer_than_said() {
    // In one piece, and with the excess after a complete body.
    for body in [
        "(call $write (i32.const 1024) (i32.const 12))",
        "(call $write (i32.const 1024) (i32.const 5)) (call $write (i32.const 1024) (i32.const 1)) (call $finish)",
    ] {
        let scene = Scene::new();
        let answer = scene.answer(&five_bytes_said(body)).await;
        assert_eq!(answer.body, b"", "nothing that completes a wrong body is sent");
        assert!(answer.body_end.is_err());
        scene.check_healthy().await;
    }
}

async fn body_shorter_than_said() {
    for body in ["(call $write (i32.const 1024) (i32.const 4)) (call $finish)", "(call $finish)", ""] {
        let scene = Scene::new();
        let answer = scene.answer(&five_bytes_said(body)).await;
        is_bad_response(&answer.body_end.unwrap_err(), "body");
        scene.check_healthy().await;
    }
}

async fn informational_status() {
    let wasm = handler("(call $open (local.get 1) (i32.const 103) (call $fields)) (call $finish)");
    is_bad_response(&Scene::new().error(&wasm).await, "103");
}

async fn work_after_the_body_has_ended() {
    let wasm = handler(&format!("{} (call $sleep (i64.const 3600000000000))", crate::guest::HELLO));
    let scene = Scene::new();
    let answer = scene.answer(&wasm).await;
    assert_eq!(answer.body, b"hello, world");
    answer.body_end.unwrap();
    let error = answer.end.result.unwrap_err();
    assert!(
        matches!(&error, HostError::Guest(GuestFault::Limit(text)) if text.contains("body_end_grace_ms = 250")),
        "{error:?}"
    );
    scene.check_healthy().await;
}

async fn error_code_instead_of_a_response() {
    // `internal-error(none)` is case 38.
    let wasm = handler(
        "(call $set (local.get 1) (i32.const 1) (i32.const 38)
            (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
    );
    is_bad_response(&Scene::new().error(&wasm).await, "InternalError");
}
