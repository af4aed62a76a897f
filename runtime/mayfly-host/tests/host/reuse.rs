//! Instances that answer more than one request: what stays of a request (guest memory), and what does not (all else).
//! The guests are `tests/fixtures/guests/hostile` and handlers written as text.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_host::{Config, GuestFault, HostError, Invocation, Reuse, Timings};
use mayfly_types::{DeploymentId, Digest, GuestLimits, RevisionId};
use serde_json::{Value, json};

use crate::generation::stage::{Account, Stage, Who, greedy};
use crate::guest::{HELLO, handler, handler_with};
use crate::scene::{Answer, Scene, get, guest_file, read};
use crate::trials;

trials![
    an_instance_answers_so_many_requests,
    it_is_nobody_else_s,
    it_waits_for_its_time_only,
    a_deleted_deployment_s_instances_go_at_once,
    what_faults_is_not_used_again,
    a_bad_answer_spoils_its_instance,
    a_handle_of_before_means_nothing,
    dropping_a_handle_of_before_is_fine,
    a_half_written_answer_is_not_kept,
    a_stream_of_a_generation_ends_with_its_request,
    each_request_has_its_own_time,
    each_request_has_its_own_log,
    hoarders_are_not_kept,
    a_short_pool_takes_what_waits,
    the_operator_s_limit_comes_first,
    requests_at_once_get_instances_of_their_own,
];

const IDLE: Duration = Duration::from_secs(30);

/// One deployment whose instances are kept.
struct Kept {
    scene: Scene,
    digest: Digest,
    deployment: DeploymentId,
    reuse: Reuse,
}

impl Kept {
    async fn new(wasm: &[u8]) -> Self {
        Self::with(Scene::new(), wasm).await
    }

    async fn with(scene: Scene, wasm: &[u8]) -> Self {
        let (_, digest) = scene.compile(wasm).await.unwrap();
        let reuse = Reuse { revision: RevisionId::new(), requests_max: 100, idle: IDLE };
        Self { scene, digest, deployment: DeploymentId::new(), reuse }
    }

    async fn hostile() -> Self {
        Self::new(&guest_file("hostile")).await
    }

    async fn invocation(&self, path: &str) -> Invocation {
        let mut invocation = self.scene.invocation(self.digest, get()).await;
        *invocation.request.uri_mut() = path.parse().unwrap();
        Invocation { deployment: self.deployment, reuse: Some(self.reuse), ..invocation }
    }

    async fn call(&self, path: &str) -> Result<Answer, (HostError, Timings)> {
        let invocation = self.invocation(path).await;
        Ok(read(self.scene.host.run(&self.scene.inference, invocation).await?).await)
    }

    async fn answer(&self, path: &str) -> Answer {
        let answer = self.call(path).await.unwrap();
        assert!(answer.end.result.is_ok() && answer.body_end.is_ok(), "{answer:?}");
        answer
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.answer(path).await.body).unwrap()
    }

    /// How often the instance that answers has been called.
    async fn count(&self) -> u64 {
        self.json("/count").await["calls"].as_u64().unwrap()
    }

    fn stats(&self) -> (u32, u32) {
        let stats = self.scene.host.stats();
        (stats.instances, stats.instances_idle)
    }
}

async fn an_instance_answers_so_many_requests() {
    let mut kept = Kept::hostile().await;
    kept.reuse.requests_max = 3;
    let mut seen = Vec::new();
    for _ in 0..7 {
        let answer = kept.answer("/count").await;
        let calls: Value = serde_json::from_slice(&answer.body).unwrap();
        seen.push((calls["calls"].as_u64().unwrap(), answer.end.timings.reused));
    }
    let expected = [(1, false), (2, true), (3, true), (1, false), (2, true), (3, true), (1, false)];
    assert_eq!(seen, expected);
    assert_eq!((kept.stats(), kept.scene.host.stats().instances_total), ((1, 1), 3));
    assert_eq!(kept.scene.host.stats().instances_reused_total, 4);
}

async fn it_is_nobody_else_s() {
    let mut kept = Kept::hostile().await;
    assert_eq!(kept.count().await, 1);
    let (deployment, reuse) = (kept.deployment, kept.reuse);
    kept.reuse.revision = RevisionId::new();
    assert_eq!(kept.count().await, 1, "another revision");
    (kept.deployment, kept.reuse) = (DeploymentId::new(), reuse);
    assert_eq!(kept.count().await, 1, "another deployment");
    kept.deployment = deployment;
    assert_eq!(kept.count().await, 2);
    let mut fresh = kept.invocation("/count").await;
    fresh.reuse = None;
    let answer = read(kept.scene.host.run(&kept.scene.inference, fresh).await.unwrap()).await;
    assert_eq!(answer.body, b"{\"calls\":1}", "who asks for a fresh one gets it");
}

async fn it_waits_for_its_time_only() {
    let mut kept = Kept::hostile().await;
    kept.reuse.idle = Duration::from_millis(50);
    kept.count().await;
    let since = Instant::now();
    while kept.stats() != (0, 0) {
        assert!(since.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(since.elapsed() >= Duration::from_millis(45), "not before its time");
}

async fn a_deleted_deployment_s_instances_go_at_once() {
    let kept = Kept::hostile().await;
    kept.count().await;
    let running = kept.invocation("/sleep?ms=200").await;
    let host = kept.scene.host.clone();
    let inference = kept.scene.inference.clone();
    let running = tokio::spawn(async move { read(host.run(&inference, running).await.unwrap()).await });
    while kept.stats() != (1, 0) {
        tokio::task::yield_now().await;
    }
    let other = kept.invocation("/count").await;
    read(kept.scene.host.run(&kept.scene.inference, other).await.unwrap()).await;
    assert_eq!(kept.stats(), (2, 1));
    kept.scene.host.forget_instances(kept.deployment);
    assert_eq!(kept.stats(), (1, 0));
    assert_eq!(running.await.unwrap().status, 200, "what runs goes on");
    assert_eq!(kept.stats(), (0, 0), "and is not kept");
    assert_eq!(kept.count().await, 1);
}

async fn what_faults_is_not_used_again() {
    let mut kept = Kept::hostile().await;
    let slow = GuestLimits { deadline_ms_max: 300, guest_cpu_ms_max: 100, ..GuestLimits::default() };
    kept.scene.limits = slow;
    for path in ["/panic", "/spin", "/sleep?ms=60000", "/exit?code=0", "/no-answer", "/recurse", "/error-answer"] {
        assert_eq!(kept.count().await, 1, "before {path}");
        assert!(kept.call(path).await.is_err(), "{path}");
        assert_eq!(kept.stats(), (0, 0), "{path}");
    }
    // The head is out already.
    for path in ["/trap-mid", "/spin-mid", "/late?ms=60000"] {
        assert_eq!(kept.count().await, 1, "before {path}");
        let _answer = kept.call(path).await;
        assert_eq!(kept.stats(), (0, 0), "{path}");
    }
}

async fn a_bad_answer_spoils_its_instance() {
    // The handler ends well; that its body is longer than it said is seen later.
    let kept = Kept::hostile().await;
    for path in ["/headers?kind=short", "/headers?kind=long", "/unfinished"] {
        assert_eq!(kept.count().await, 1, "before {path}");
        let answer = kept.call(path).await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.body_end.is_err()), "{path}");
    }
    assert_eq!(kept.count().await, 1);
    // Who leaves before the end of the body cuts the answer short.
    let running = kept.scene.host.run(&kept.scene.inference, kept.invocation("/body?bytes=1000").await).await.unwrap();
    drop(running.response);
    let _end = running.end.await;
    assert_eq!(kept.count().await, 1);
}

async fn a_handle_of_before_means_nothing() {
    let kept = Kept::hostile().await;
    for kind in ["fields", "pollable", "tensor", "request", "incoming", "response"] {
        kept.json(&format!("/keep?kind={kind}&text=of-{kind}")).await;
        let (error, timings) = kept.call("/again?how=use").await.unwrap_err();
        assert!(timings.reused, "{kind}: the same instance");
        assert!(matches!(error, HostError::Guest(GuestFault::Trap(_))), "{kind}: {error:?}");
        assert_eq!(kept.stats(), (0, 0), "{kind}");
    }
}

async fn dropping_a_handle_of_before_is_fine() {
    let kept = Kept::hostile().await;
    for kind in ["fields", "pollable", "tensor", "request", "incoming", "response"] {
        kept.json(&format!("/keep?kind={kind}&text=of-{kind}")).await;
        assert_eq!(kept.json("/again?how=drop").await, json!({ "dropped": true }), "{kind}");
        assert_eq!(kept.json("/again?how=use").await, json!({ "kept": null }), "{kind}");
    }
    assert_eq!((kept.scene.host.stats().instances_total, kept.stats()), (1, (1, 1)), "one instance all along");
    // Guest memory stays: that is what reuse means.
    assert_eq!(kept.json("/keep?kind=fields&text=last").await, json!({ "before": "of-response" }));
}

async fn a_half_written_answer_is_not_kept() {
    let kept = Kept::hostile().await;
    let mut invocation = kept.invocation("/keep?kind=outgoing").await;
    invocation.budget = Arc::<Account>::default();
    let answer = read(kept.scene.host.run(&kept.scene.inference, invocation).await.unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.end.timings.reused), (200, false));
    assert_eq!(kept.stats(), (0, 0));
    assert_eq!(kept.json("/again").await, json!({ "kept": null }));
}

async fn a_stream_of_a_generation_ends_with_its_request() {
    let stage = Stage::genai().await;
    let (who, reuse) = (Who::new(), Reuse { revision: RevisionId::new(), requests_max: 100, idle: IDLE });
    let send = async |path: &str, account: &Arc<Account>| {
        let invocation = stage.invocation(path, &greedy(&[1, 2, 3], 100), who, account).await;
        let running =
            stage.scene.host.run(&stage.scene.inference, Invocation { reuse: Some(reuse), ..invocation }).await;
        Ok::<_, (HostError, Timings)>(read(running?).await)
    };
    let first = Arc::<Account>::default();
    assert_eq!(send("/keep", &first).await.unwrap().body, b"{\"kept\":true}");
    first.settled().await;
    assert!(first.output() < 100, "nothing is generated for a request that is over");
    let (charged, second) = (first.charged(), Arc::<Account>::default());
    let (error, timings) = send("/again", &second).await.unwrap_err();
    assert!(timings.reused && matches!(error, HostError::Guest(GuestFault::Trap(_))), "{error:?}");
    second.settled().await;
    assert_eq!(first.charged(), charged, "the first one's bill is closed");
}

async fn each_request_has_its_own_time() {
    let mut kept = Kept::hostile().await;
    kept.scene.limits.guest_cpu_ms_max = 100;
    for _ in 0..4 {
        let answer = kept.answer("/spin-for?ms=40").await;
        assert!(answer.end.timings.guest_cpu < Duration::from_millis(100), "{:?}", answer.end.timings);
    }
    assert_eq!(kept.scene.host.stats().instances_total, 1, "160 ms in all, 100 ms for each");
    kept.scene.limits.deadline_ms_max = 60;
    kept.answer("/sleep?ms=30").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    kept.answer("/sleep?ms=30").await;
    assert_eq!(kept.scene.host.stats().instances_total, 1);
}

async fn each_request_has_its_own_log() {
    let mut kept = Kept::hostile().await;
    kept.scene.limits.log_bytes_max = 2_000;
    // The guest opens its standard output once and keeps it.
    for round in 1..=3 {
        let mut invocation = kept.invocation("/print?bytes=1000&to=stdout").await;
        let log = Arc::<crate::scene::Log>::default();
        invocation.log = Arc::clone(&log) as _;
        read(kept.scene.host.run(&kept.scene.inference, invocation).await.unwrap()).await;
        let lines = log.lines();
        assert!(lines.len() == 1 && lines[0].starts_with("ppp"), "round {round}: {lines:?}");
        assert_eq!(Arc::strong_count(&log), 1, "nobody holds a past request's log");
    }
    assert_eq!(kept.scene.host.stats().instances_total, 1);
    assert!(kept.scene.log.lines().is_empty());
}

async fn hoarders_are_not_kept() {
    // Keeps ten fields for each request.
    let mut body = "(drop (call $fields))".repeat(10);
    body.push_str(HELLO);
    let kept = Kept::new(&handler(&body)).await;
    // And the request itself: 11 for each.
    for _ in 0..5 {
        kept.answer("/").await;
        assert_eq!(kept.stats(), (1, 1));
    }
    kept.answer("/").await;
    assert_eq!((kept.stats(), kept.scene.host.stats().instances_total), ((0, 0), 1), "66 are too many");
    kept.answer("/").await;
    assert_eq!(kept.scene.host.stats().instances_total, 2);
}

async fn a_short_pool_takes_what_waits() {
    let scene = Scene::with(Config { instances_max: 2, ..Config::default() });
    // One has 64 MiB and is dropped on another thread.
    let large = handler_with("", &format!("(drop (memory.grow (i32.const 1024))) {HELLO}"));
    let mut kept = Kept::with(scene, &large).await;
    kept.answer("/").await;
    kept.deployment = DeploymentId::new();
    kept.answer("/").await;
    assert_eq!(kept.stats(), (2, 2));
    for _ in 0..3 {
        kept.deployment = DeploymentId::new();
        let answer = kept.answer("/").await;
        assert!(!answer.end.timings.reused);
        assert_eq!(kept.stats(), (2, 2));
    }
}

async fn the_operator_s_limit_comes_first() {
    let scene = Scene::with(Config { instances_max: 8, reuse_max: 2, instance_idle_ms_max: 100, ..Config::default() });
    let kept = Kept::with(scene, &guest_file("hostile")).await;
    assert_eq!((kept.count().await, kept.count().await, kept.count().await), (1, 2, 1));
    let since = Instant::now();
    while kept.stats() != (0, 0) {
        assert!(since.elapsed() < Duration::from_secs(20), "100 ms, not the 30 s asked for");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn requests_at_once_get_instances_of_their_own() {
    let kept = Arc::new(Kept::hostile().await);
    for _ in 0..3 {
        let calls: Vec<_> = (0..4).map(|_| kept.call("/sleep?ms=50")).collect();
        for answer in futures::future::join_all(calls).await {
            assert_eq!(answer.unwrap().status, 200);
        }
        assert_eq!(kept.stats(), (4, 4));
    }
    assert_eq!(kept.scene.host.stats().instances_total, 4);
}
