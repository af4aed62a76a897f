//! What goes well: answers, streams, heads, the shape of the sandbox.

use http::Method;
use http_body_util::BodyExt;
use mayfly_host::HostError;

use crate::guest::{HELLO, handler};
use crate::scene::{Scene, get, read};
use crate::trials;

trials![
    hello,
    echo,
    head_answers_are_not_waited_for,
    head_is_sanitised,
    sandbox_is_empty,
    no_outbound_http,
    output_is_logged,
    cold_then_warm,
    a_stream_arrives_as_it_is_written,
    lengths_are_kept,
    a_client_that_leaves_cancels
];

async fn hello() {
    let scene = Scene::new();
    let answer = scene.answer(&handler(HELLO)).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"hello, world"[..]));
    answer.body_end.unwrap();
    answer.end.result.unwrap();
    assert!(!answer.end.timings.instance.is_zero() && !answer.end.timings.guest_cpu.is_zero());
    assert_eq!(scene.host.stats().instances, 0);
    assert_eq!(scene.budget.told(), answer.body.len(), "the account knows what was written");
}

async fn echo() {
    let wasm = handler(
        "(call $consume (local.get 0) (i32.const 0)) (call $ok)
         (call $incoming_stream (i32.load (i32.const 4)) (i32.const 0)) (call $ok)
         (call $read (i32.load (i32.const 4)) (i64.const 100) (i32.const 8))
         (if (i32.load8_u (i32.const 8)) (then unreachable))
         (call $open (local.get 1) (i32.const 201) (call $fields))
         (call $write (i32.load (i32.const 12)) (i32.load (i32.const 16)))
         (call $finish)",
    );
    let scene = Scene::new();
    let request = http::Request::post("/").header("host", "example.test").body("what was sent").unwrap();
    let answer = read(scene.send(&wasm, request).await.unwrap()).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (201, &b"what was sent"[..]));
}

async fn head_answers_are_not_waited_for() {
    let scene = Scene::new();
    let mut request = get();
    *request.method_mut() = Method::HEAD;
    let answer = read(scene.send(&handler(HELLO), request).await.unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    answer.end.result.unwrap();
}

async fn head_is_sanitised() {
    let wasm = handler(
        "(local $fields i32)
         (local.set $fields (call $fields))
         (call $header (local.get $fields) (i32.const 1200) (i32.const 12) (i32.const 1024) (i32.const 5))
         (call $header (local.get $fields) (i32.const 1220) (i32.const 5) (i32.const 1024) (i32.const 5))
         (call $open (local.get 1) (i32.const 200) (local.get $fields))
         (call $finish)",
    );
    let answer = Scene::new().answer(&wasm).await;
    assert_eq!(answer.headers.len(), 1, "{:?}", answer.headers);
    assert_eq!(answer.headers["x-own"], "hello");
}

async fn sandbox_is_empty() {
    let wasm = handler(&format!(
        "(call $environment (i32.const 0)) (if (i32.load (i32.const 4)) (then unreachable))
         (call $directories (i32.const 0)) (if (i32.load (i32.const 4)) (then unreachable)) {HELLO}"
    ));
    Scene::new().answer(&wasm).await.end.result.unwrap();
}

async fn no_outbound_http() {
    // `option<result<result<response, error-code>>>`: HTTP-request-denied is case 15.
    let wasm = handler(&format!(
        "(local $request i32)
         (local.set $request (call $new_request (call $fields)))
         (if (call $set_authority (local.get $request) (i32.const 1) (i32.const 1400) (i32.const 12)) (then unreachable))
         (if (call $set_path (local.get $request) (i32.const 1) (i32.const 1412) (i32.const 1)) (then unreachable))
         (call $send (local.get $request) (i32.const 0) (i32.const 0) (i32.const 0))
         (if (i32.eqz (i32.load8_u (i32.const 0))) (then
            (call $block (call $future_subscribe (i32.load (i32.const 8))))
            (call $future_get (i32.load (i32.const 8)) (i32.const 64))
            (if (i32.ne (i32.load8_u (i32.const 64)) (i32.const 1)) (then unreachable))
            (if (i32.ne (i32.load8_u (i32.const 80)) (i32.const 1)) (then unreachable))
            (if (i32.ne (i32.load8_u (i32.const 88)) (i32.const 15)) (then unreachable)))
         (else (if (i32.ne (i32.load8_u (i32.const 8)) (i32.const 15)) (then unreachable))))
         {HELLO}"
    ));
    let answer = Scene::new().answer(&wasm).await;
    answer.end.result.unwrap();
}

async fn output_is_logged() {
    let wasm = handler(&format!(
        "(call $stream_write (call $stdout) (i32.const 1300) (i32.const 5) (i32.const 0))
         (call $stream_write (call $stdout) (i32.const 1024) (i32.const 5) (i32.const 0)) {HELLO}"
    ));
    let scene = Scene::new();
    scene.answer(&wasm).await.end.result.unwrap();
    assert_eq!(scene.log.lines(), ["line", "hello"]);
}

async fn cold_then_warm() {
    let scene = Scene::new();
    let (_, digest) = scene.compile(&handler(HELLO)).await.unwrap();
    assert!(scene.host.stats().mapped.is_empty());
    assert!(scene.host.code(digest).await.unwrap().1);
    assert!(!scene.host.code(digest).await.unwrap().1);
    assert_eq!((scene.host.stats().mapped, scene.host.stats().maps_total), (vec![digest], 1));
}

async fn a_stream_arrives_as_it_is_written() {
    // Writes, then waits for ever: the first frame must be there before the end.
    let wasm = handler(
        "(call $open (local.get 1) (i32.const 200) (call $fields))
         (call $write (i32.const 1024) (i32.const 5))
         (call $sleep (i64.const 3600000000000))",
    );
    let scene = Scene::new();
    let mut running = scene.start(&wasm).await.unwrap();
    let frame = running.response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "hello");
    assert_eq!(scene.host.stats().instances, 1);
}

async fn lengths_are_kept() {
    let wasm = handler(
        "(local $fields i32)
         (local.set $fields (call $fields))
         (call $header (local.get $fields) (i32.const 1100) (i32.const 14) (i32.const 1120) (i32.const 1))
         (call $open (local.get 1) (i32.const 200) (local.get $fields))
         (call $write (i32.const 1024) (i32.const 5))
         (call $finish)",
    );
    let answer = Scene::new().answer(&wasm).await;
    assert_eq!((&answer.body[..], &answer.headers["content-length"]), (&b"hello"[..], &"5".parse().unwrap()));
    answer.body_end.unwrap();
}

async fn a_client_that_leaves_cancels() {
    let wasm = handler(
        "(call $open (local.get 1) (i32.const 200) (call $fields))
         (call $write (i32.const 1024) (i32.const 5))
         (call $sleep (i64.const 3600000000000))",
    );
    let scene = Scene::new();
    let running = scene.start(&wasm).await.unwrap();
    drop(running.response);
    let end = running.end.await.unwrap();
    assert!(matches!(end.result, Err(HostError::Cancelled)), "{end:?}");
    scene.check_healthy().await;

    // Before the head: dropping the future.
    let (_, digest) = scene.compile(&handler("(call $sleep (i64.const 3600000000000))")).await.unwrap();
    let invocation = scene.invocation(digest, get()).await;
    let (host, inference) = (scene.host.clone(), scene.inference.clone());
    let task = tokio::spawn(async move { host.run(&inference, invocation).await.map(drop) });
    while scene.host.stats().instances == 0 {
        tokio::task::yield_now().await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    scene.check_healthy().await;
}
