//! Limits: time, memory, handles, sizes, output, places in the pool.

use std::time::{Duration, Instant};

use mayfly_host::{Config, GuestFault, HostError};

use crate::guest::{HELLO, handler, handler_with};
use crate::scene::{Scene, get, read};
use crate::trials;

trials![
    endless_loop_uses_up_its_cpu,
    endless_loop_ends_at_the_deadline,
    waiting_ends_at_the_deadline,
    a_cancelled_caller_ends_a_loop,
    memory_eater,
    memory_at_the_start,
    large_instances_are_dropped,
    handles,
    own_handles,
    tables,
    huge_header,
    long_body,
    flood_of_output,
    a_full_pool_is_busy,
    large_requests_never_start,
    loops_let_others_run
];

const LOOP: &str = "(loop $again (br $again))";
const MEMORY_EATER: &str = "(loop $again (drop (memory.grow (i32.const 16))) (br $again))";

#[track_caller]
fn is_limit(error: &HostError, text: &str) {
    assert!(matches!(error, HostError::Guest(GuestFault::Limit(found)) if found.contains(text)), "{error:?}");
}

async fn endless_loop_uses_up_its_cpu() {
    let mut scene = Scene::new();
    scene.limits.guest_cpu_ms_max = 50;
    let (error, timings) = scene.start(&handler(LOOP)).await.unwrap_err();
    assert!(matches!(error, HostError::Guest(GuestFault::CpuLimit { limit_ms: 50 })), "{error:?}");
    assert!(timings.guest_cpu >= Duration::from_millis(50), "{timings:?}");
    scene.check_healthy().await;
}

async fn endless_loop_ends_at_the_deadline() {
    let mut scene = Scene::new();
    scene.limits.deadline_ms_max = 100;
    let error = scene.error(&handler(LOOP)).await;
    assert!(matches!(error, HostError::Deadline { limit_ms: 100 }), "{error:?}");
}

async fn waiting_ends_at_the_deadline() {
    let mut scene = Scene::new();
    scene.limits.deadline_ms_max = 100;
    let error = scene.error(&handler("(call $sleep (i64.const 3600000000000))")).await;
    assert!(matches!(error, HostError::Deadline { limit_ms: 100 }), "{error:?}");

    // In mid-body the head is out: the body fails.
    let wasm = handler(
        "(call $open (local.get 1) (i32.const 200) (call $fields))
         (call $write (i32.const 1024) (i32.const 5))
         (call $sleep (i64.const 3600000000000))",
    );
    let answer = scene.answer(&wasm).await;
    assert!(matches!(answer.body_end, Err(HostError::Deadline { .. })), "{answer:?}");
    assert!(matches!(answer.end.result, Err(HostError::Deadline { .. })), "{answer:?}");
}

async fn a_cancelled_caller_ends_a_loop() {
    let scene = Scene::new();
    let (_, digest) = scene.compile(&handler(LOOP)).await.unwrap();
    let invocation = scene.invocation(digest, get()).await;
    let cancel = async {
        while scene.host.stats().instances == 0 {
            tokio::task::yield_now().await;
        }
        scene.cancel.cancel();
    };
    let (result, ()) = tokio::join!(scene.host.run(&scene.inference, invocation), cancel);
    assert!(matches!(result, Err((HostError::Cancelled, _))));
    scene.check_healthy().await;
}

async fn memory_eater() {
    let mut scene = Scene::new();
    scene.limits.memory_bytes_max = 8 << 20;
    let error = scene.error(&handler(MEMORY_EATER)).await;
    assert!(matches!(error, HostError::Guest(GuestFault::MemoryLimit { limit_bytes: 8_388_608 })), "{error:?}");
}

async fn memory_at_the_start() {
    let mut scene = Scene::new();
    scene.limits.memory_bytes_max = 65_536;
    let error = scene.error(&handler(HELLO)).await;
    assert!(matches!(error, HostError::Guest(GuestFault::MemoryLimit { limit_bytes: 65_536 })), "{error:?}");
}

async fn large_instances_are_dropped() {
    // Dirty memory above the size from which a store is dropped on another thread; the end comes all the same.
    let wasm = handler(&format!(
        "(drop (memory.grow (i32.const 512)))
         (memory.fill (i32.const 131072) (i32.const 7) (i32.const 33554432)) {HELLO}"
    ));
    let scene = Scene::new();
    scene.answer(&wasm).await.end.result.unwrap();
    scene.check_healthy().await;
}

async fn handles() {
    let mut scene = Scene::new();
    scene.limits.handles_max = 100;
    is_limit(&scene.error(&handler("(loop $again (drop (call $fields)) (br $again))")).await, "handles_max = 100");
}

async fn own_handles() {
    // A table of the component's own cannot grow past it either: `$timer` makes host resources of another kind.
    let mut scene = Scene::new();
    scene.limits.handles_max = 100;
    let wasm = handler("(loop $again (drop (call $timer (i64.const 1))) (br $again))");
    is_limit(&scene.error(&wasm).await, "handles_max = 100");
}

async fn tables() {
    let mut scene = Scene::new();
    scene.limits.table_elements_max = 1_000;
    let wasm = handler_with(
        "(table $table 0 funcref)",
        "(loop $again (drop (table.grow $table (ref.null func) (i32.const 100))) (br $again))",
    );
    is_limit(&scene.error(&wasm).await, "table_elements_max = 1000");
}

async fn huge_header() {
    let mut scene = Scene::new();
    scene.limits.header_bytes_max = 20_000;
    // One that fits the guest's own map but not the head, and one that fits neither.
    for bytes in [20_001, 60_000] {
        let wasm = handler(&format!(
            "(local $fields i32)
             (memory.fill (i32.const 2000) (i32.const 97) (i32.const {bytes}))
             (local.set $fields (call $fields))
             (call $header (local.get $fields) (i32.const 1220) (i32.const 5) (i32.const 2000) (i32.const {bytes}))
             (call $open (local.get 1) (i32.const 200) (local.get $fields))
             (call $finish)"
        ));
        is_limit(&scene.error(&wasm).await, "header_bytes_max = 20000");
    }
}

async fn long_body() {
    let mut scene = Scene::new();
    scene.limits.response_body_bytes_max = 10_000;
    let wasm = handler(
        "(call $open (local.get 1) (i32.const 200) (call $fields))
         (loop $again (call $write (i32.const 1024) (i32.const 4096)) (br $again))",
    );
    let answer = scene.answer(&wasm).await;
    assert!(answer.body.len() <= 10_000, "{}", answer.body.len());
    is_limit(&answer.body_end.unwrap_err(), "response_body_bytes_max = 10000");
    is_limit(&answer.end.result.unwrap_err(), "response_body_bytes_max = 10000");
    scene.check_healthy().await;
}

async fn flood_of_output() {
    let mut scene = Scene::new();
    scene.limits.log_bytes_max = 1_000;
    let wasm = handler(&format!(
        "(local $out i32) (local $left i32)
         (local.set $out (call $stdout))
         (local.set $left (i32.const 10000))
         (loop $again
            (call $stream_write (local.get $out) (i32.const 1300) (i32.const 5) (i32.const 0))
            (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         {HELLO}"
    ));
    scene.answer(&wasm).await.end.result.unwrap();
    let lines = scene.log.lines();
    assert_eq!(lines.len(), 201, "200 lines of 5 bytes and one that says what was dropped");
    assert_eq!(lines[200], "[mayfly] output past log_bytes_max = 1000 bytes was dropped");
}

async fn a_full_pool_is_busy() {
    let scene = Scene::with(Config { instances_max: 1, ..Config::default() });
    let wasm = handler(
        "(call $open (local.get 1) (i32.const 200) (call $fields))
         (call $sleep (i64.const 3600000000000))",
    );
    let first = scene.start(&wasm).await.unwrap();
    let (error, _) = scene.start(&wasm).await.unwrap_err();
    assert!(matches!(error, HostError::Busy { limit: 1 }), "{error:?}");
    drop(first.response);
    first.end.await.unwrap();
    scene.check_healthy().await;
}

async fn large_requests_never_start() {
    let mut scene = Scene::new();
    scene.limits.request_body_bytes_max = 4;
    let (_, digest) = scene.compile(&handler(HELLO)).await.unwrap();
    let mut request = get();
    request.headers_mut().insert("content-length", 5.into());
    let invocation = scene.invocation(digest, request).await;
    let (error, _) = scene.host.run(&scene.inference, invocation).await.unwrap_err();
    assert!(matches!(error, HostError::RequestTooLarge { part: "body", limit: 4, .. }), "{error:?}");
    assert_eq!(scene.host.stats().instances_total, 0);
}

async fn loops_let_others_run() {
    // More endless loops than async threads; a short call must still be answered long before they end.
    let mut scene = Scene::new();
    scene.limits.guest_cpu_ms_max = 600_000;
    scene.limits.deadline_ms_max = 600_000;
    let (_, digest) = scene.compile(&handler(LOOP)).await.unwrap();
    let mut loops = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let invocation = scene.invocation(digest, get()).await;
        let (host, inference) = (scene.host.clone(), scene.inference.clone());
        loops.spawn(async move { host.run(&inference, invocation).await.map(drop) });
    }
    while scene.host.stats().instances < 4 {
        tokio::task::yield_now().await;
    }
    let (_, hello) = scene.compile(&handler(HELLO)).await.unwrap();
    let start = Instant::now();
    let invocation = scene.invocation(hello, get()).await;
    let answer = read(scene.host.run(&scene.inference, invocation).await.unwrap()).await;
    assert_eq!(answer.body, b"hello, world");
    assert!(start.elapsed() < Duration::from_secs(60));
    scene.cancel.cancel();
    while let Some(ended) = loops.join_next().await {
        assert!(matches!(ended.unwrap(), Err((HostError::Cancelled, _))));
    }
    assert_eq!(scene.host.stats().instances, 0);
}
