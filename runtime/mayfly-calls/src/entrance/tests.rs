//! Whole calls without a host: the real way in, account and delivery, with a scripted handler and a ledger in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Method, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use mayfly_api::ErrorEnvelope;
use mayfly_host::{Clock, HostError, RunEnd, Running, Timings};
use mayfly_ledger::{Kind, Outcome};
use mayfly_types::{Budget as _, LevelLimits, Line, Meter, Money, Period, SpendCap};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::bill::Bill;
use crate::body::full;
use crate::budget::CallBudget;
use crate::deliver::deliver;
use crate::fakes::{Memory, MemoryLeases, Place, book, model, tokens};
use crate::opener::Opener;
use crate::standing::mark_standing;
use crate::{dry_run, replay};

/// A node without host and models.
struct Node {
    entrance: Entrance,
    opener: Opener,
    journal: Arc<Memory>,
    leases: Arc<MemoryLeases>,
}

/// What a scripted handler does.
#[derive(Debug, Clone, Copy)]
struct Script {
    /// Output tokens it works for, one hold each.
    tokens: u64,
    /// Tokens of one hold.
    hold: u64,
    status: u16,
    body: &'static str,
    /// How long it thinks between work and answer.
    pause_ms: u64,
}

const SCRIPT: Script = Script { tokens: 1, hold: 1, status: 200, body: "hello", pause_ms: 0 };

impl Node {
    fn new() -> Self {
        Self::with(Config::default(), Memory::working())
    }

    fn with(config: Config, journal: Arc<Memory>) -> Self {
        let leases = MemoryLeases::of(&journal);
        Self::of(config, journal, leases)
    }

    fn of(config: Config, journal: Arc<Memory>, leases: Arc<MemoryLeases>) -> Self {
        // Longer than the default: a busy machine must not turn short answers into streams.
        let config = Arc::new(Config { short_answer_wait_ms: 100, ..config });
        let entrance = Entrance::new(config.clone(), journal.clone(), leases.clone());
        let opener = Opener::new(config, journal.clone(), book(), "EUR");
        Self { entrance, opener, journal, leases }
    }

    /// Lets the call in, or answers why not.
    async fn enter(&self, context: &Context, body: &'static str) -> Result<Entry, Response<Body>> {
        let request = Request::builder().method(Method::POST).uri("/v1/chat").body(full(Bytes::from(body))).unwrap();
        match self.entrance.enter(context, request, || true).await {
            Ok((entry, _request)) => Ok(entry),
            Err(away) => {
                let mut response = away.failure.response(&Bill::default()).map(full);
                if let Some(standing) = &away.standing {
                    mark_standing(response.headers_mut(), standing);
                }
                Err(response)
            }
        }
    }

    /// A whole call with `script` as its handler.
    async fn serve(&self, context: Context, body: &'static str, script: Script) -> Response<Body> {
        match self.enter(&context, body).await {
            Ok(entry) => self.go_on(context, entry, script).await,
            Err(response) => response,
        }
    }

    async fn go_on(&self, context: Context, entry: Entry, script: Script) -> Response<Body> {
        let Entry { permit, ticket, once, kept } = entry;
        let (head, answer) = oneshot::channel();
        let mut call = self.opener.open(&context, &Method::POST, ticket, once);
        tokio::spawn(async move {
            match kept {
                Some(kept) => {
                    call.before.replayed = true;
                    replay::answer(&call, &kept, head).await;
                }
                None => {
                    let running = handler(call.budget.clone(), call.cancel.clone(), script);
                    if context.dry_run {
                        dry_run::answer(&call, Ok(running), &context.resolved.price_names, head).await;
                    } else {
                        deliver(&call, running, head).await;
                    }
                }
            }
            drop(call);
            drop(permit);
        });
        answer.await.unwrap()
    }

    /// All calls have gone: none is open at any level.
    fn assert_empty(&self, context: &Context) {
        for (level, _) in context.levels().0 {
            assert_eq!(self.entrance.admission.open_at(level), 0, "{level:?}");
        }
        assert_eq!(self.entrance.door.open(), 0);
    }
}

/// Works, thinks, answers. Goes on to its end in a task of its own, or until it is cancelled.
fn handler(budget: Arc<CallBudget>, cancel: tokio_util::sync::CancellationToken, script: Script) -> Running {
    let (frames, receiver) = mpsc::channel(16);
    let (end, ended) = oneshot::channel();
    let script_of = async move {
        let mut left = script.tokens;
        while left > 0 {
            let quantity = script.hold.min(left);
            let lines = [Line { meter: Meter::OutputTokens, model: Some(model()), quantity }];
            let Ok(hold) = budget.hold(&lines).await else { return "refused" };
            tokio::task::yield_now().await;
            budget.charge(hold, &lines);
            budget.release(hold);
            left -= quantity;
        }
        tokio::time::sleep(Duration::from_millis(script.pause_ms)).await;
        script.body
    };
    let status = script.status;
    tokio::spawn(async move {
        let result = tokio::select! {
            text = script_of => {
                let _ = frames.send(Ok(Frame::data(Bytes::from(text)))).await;
                Ok(())
            }
            () = cancel.cancelled() => {
                let _ = frames.send(Err(HostError::Cancelled)).await;
                Err(HostError::Cancelled)
            }
        };
        drop(frames);
        let _ = end.send(RunEnd { result, timings: Timings::default() });
    });
    let stream = futures::stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    let body = http_body_util::StreamBody::new(Box::pin(stream)).boxed_unsync();
    let response = Response::builder().status(status).header("x-own", "1").body(body).unwrap();
    Running { response, end: ended, clock: Clock::default() }
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// Status and code of an error.
async fn error(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let envelope: ErrorEnvelope = serde_json::from_str(&text(response).await).unwrap();
    (status, envelope.error.code)
}

fn limits(change: impl FnOnce(&mut LevelLimits)) -> LevelLimits {
    let mut limits = LevelLimits::default();
    change(&mut limits);
    limits
}

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

fn cap(amount: &str) -> LevelLimits {
    limits(|limits| limits.spend = Some(SpendCap { amount: money(amount), per: Period::Month }))
}

/// A call that runs once only.
fn once(place: &Place, key: &str) -> Context {
    let idempotency = Some(IdempotencyKey { key: key.to_owned(), target: "/d/shop/chat/v1/chat".to_owned() });
    Context { idempotency, ..place.call() }
}

/// Waits until the task of the call before has let go of everything.
async fn settled(node: &Node) {
    for _ in 0..1_000 {
        if node.entrance.door.open() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a call did not end");
}

#[tokio::test]
async fn requests_per_minute_hold_at_each_level() {
    let few = limits(|limits| limits.requests_per_minute = Some(2));
    for place in [
        Place { tenant: few.clone(), ..Place::default() },
        Place { project: few.clone(), ..Place::default() },
        Place { deployment: few.clone(), ..Place::default() },
        Place { key: few.clone(), ..Place::default() },
    ] {
        let node = Node::new();
        let first = node.serve(place.call(), "", SCRIPT).await;
        assert_eq!(header(&first, "x-ratelimit-remaining-requests"), Some("1"));
        assert_eq!(header(&first, "ratelimit-policy"), Some(r#""requests";q=2;w=60"#));
        assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200);
        let third = node.serve(place.call(), "", SCRIPT).await;
        assert_eq!(header(&third, "x-ratelimit-remaining-requests"), Some("0"));
        let ms: u64 = header(&third, "retry-after-ms").unwrap().parse().unwrap();
        assert!((1..=30_000).contains(&ms), "{ms}");
        assert_eq!(header(&third, "retry-after"), Some(ms.div_ceil(1000).to_string().as_str()));
        assert_eq!((header(&third, "x-should-retry"), header(&third, "x-mayfly-retry-estimate")), (None, None));
        assert_eq!(error(third).await, (429, "rate_limited".to_owned()));
        assert_eq!(node.journal.ends().len(), 2, "who is refused at the door has no row");
        settled(&node).await;
        node.assert_empty(&place.call());
    }
}

#[tokio::test]
async fn without_limits_nothing_is_told_and_nothing_is_read() {
    let node = Node::new();
    let response = node.serve(Place::default().call(), "", SCRIPT).await;
    assert!(!response.headers().keys().any(|name| name.as_str().contains("ratelimit")));
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 0);
    assert_eq!(header(&response, "x-mayfly-cost"), Some("0.001"));
}

#[tokio::test]
async fn concurrency_is_refused_with_an_estimate() {
    let place = Place { key: limits(|limits| limits.concurrency = Some(1)), ..Place::default() };
    let node = Node::new();
    let inside = node.enter(&place.call(), "").await.unwrap();
    let away = node.enter(&place.call(), "").await.unwrap_err();
    assert_eq!((header(&away, "retry-after"), header(&away, "retry-after-ms")), (Some("1"), None));
    assert_eq!(header(&away, "x-mayfly-retry-estimate"), Some("true"));
    assert_eq!(error(away).await, (429, "rate_limited".to_owned()));
    drop(inside);
    assert!(node.enter(&place.call(), "").await.is_ok(), "a call that ends in any way makes room");
}

#[tokio::test]
async fn the_operators_ceilings_hold_without_any_limit() {
    let config = Config { calls_max: 3, calls_per_deployment_max: 2, ..Config::default() };
    let node = Node::with(config, Memory::working());
    let place = Place::default();
    let _one = node.enter(&place.call(), "").await.unwrap();
    let _two = node.enter(&place.call(), "").await.unwrap();
    let away = node.enter(&place.call(), "").await.unwrap_err();
    assert_eq!(error(away).await, (429, "rate_limited".to_owned()));
    node.entrance.door.stop();
    let away = node.enter(&place.call(), "").await.unwrap_err();
    assert_eq!(error(away).await, (503, "overloaded".to_owned()));
}

#[tokio::test]
async fn wakeups_are_limited_only_where_they_are_asked_for() {
    let place = Place { deployment: limits(|limits| limits.wakeups_per_minute = Some(1)), ..Place::default() };
    let node = Node::new();
    let enter = async |place: &Place, wakes| {
        let request = Request::new(full(Bytes::new()));
        node.entrance.enter(&place.call(), request, || wakes).await.map(drop).map_err(|away| away.failure.status())
    };
    assert_eq!(enter(&place, true).await, Ok(()));
    assert_eq!(enter(&place, true).await, Err(429));
    assert_eq!(enter(&place, false).await, Ok(()), "what is awake needs no waking");
}

#[tokio::test]
async fn tokens_per_minute_refuse_in_mid_call_and_say_when() {
    let place = Place { project: limits(|limits| limits.tokens_per_minute = Some(10)), ..Place::default() };
    let node = Node::new();
    let first = node.serve(place.call(), "", Script { tokens: 8, hold: 8, ..SCRIPT }).await;
    assert_eq!(header(&first, "x-ratelimit-remaining-tokens"), Some("2"));
    // One that passes the refusal on is told by the host; it has used nothing, so a retry is right.
    let refused = Script { tokens: 5, hold: 5, status: 500, ..SCRIPT };
    let second = node.serve(place.call(), "", refused).await;
    assert!(header(&second, "retry-after-ms").is_some());
    assert_eq!((header(&second, "x-should-retry"), header(&second, "x-mayfly-cost")), (None, Some("0")));
    assert_eq!(error(second).await, (429, "rate_limited".to_owned()));
    // One that has worked before would be charged again.
    let charged = Script { tokens: 6, hold: 1, status: 500, ..SCRIPT };
    let third = node.serve(place.call(), "", charged).await;
    assert_eq!((header(&third, "x-should-retry"), header(&third, "x-mayfly-cost")), (Some("false"), Some("0.002")));
    // What can never fit says so.
    let never = node.serve(place.call(), "", Script { tokens: 11, hold: 11, status: 500, ..SCRIPT }).await;
    assert_eq!(header(&never, "x-should-retry"), Some("false"));
    assert_eq!(header(&never, "retry-after"), None);
    assert_eq!(error(never).await, (400, "request_too_large_for_limit".to_owned()));
    settled(&node).await;
    node.assert_empty(&place.call());
}

#[tokio::test]
async fn a_hold_refused_at_any_level_leaves_all_levels_as_before() {
    let wide = limits(|limits| limits.tokens_per_minute = Some(1_000));
    let narrow = limits(|limits| limits.tokens_per_minute = Some(10));
    let wide_place =
        Place { tenant: wide.clone(), project: wide.clone(), deployment: wide.clone(), key: wide, ..Place::default() };
    for level in 0..4 {
        let mut place = wide_place.clone();
        *[&mut place.tenant, &mut place.project, &mut place.deployment, &mut place.key][level] = narrow.clone();
        let node = Node::new();
        let context = place.call();
        let entry = node.enter(&context, "").await.unwrap();
        let call = node.opener.open(&context, &Method::POST, entry.ticket, None);
        let lines = |quantity| [Line { meter: Meter::OutputTokens, model: Some(model()), quantity }];
        let first = call.budget.hold(&lines(4)).await.unwrap();
        let before = call.budget.standing();
        assert!(call.budget.hold(&lines(7)).await.is_err());
        let after = call.budget.standing();
        let left = |standing: Option<Standing>| standing.unwrap().tokens.unwrap().remaining;
        assert_eq!(left(after), left(before), "level {level}");
        // All levels have room for exactly what is left at the narrow one, thrice over once it is given back.
        for _ in 0..3 {
            let hold = call.budget.hold(&lines(6)).await.unwrap();
            call.budget.release(hold);
        }
        call.budget.release(first);
        assert!(call.budget.hold(&lines(10)).await.is_ok(), "all of it was given back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_callers_never_overspend_a_cap() {
    // A call costs 0.003; the cap is worth 33 of them and a bit.
    let place = Place { tenant: cap("0.1"), ..Place::default() };
    let node = Arc::new(Node::new());
    let callers: Vec<JoinHandle<u32>> = (0..64)
        .map(|_| {
            let (node, place) = (node.clone(), place.clone());
            tokio::spawn(async move {
                let mut served = 0;
                for _ in 0..5 {
                    let script = Script { tokens: 3, hold: 3, status: 500, ..SCRIPT };
                    let response = node.serve(place.call(), "", script).await;
                    match response.status().as_u16() {
                        500 => served += 1,
                        402 => assert_eq!(header(&response, "x-should-retry"), Some("false")),
                        other => panic!("{other}"),
                    }
                    drop(text(response).await);
                }
                served
            })
        })
        .collect();
    let mut served = 0;
    for caller in callers {
        served += caller.await.unwrap();
    }
    assert_eq!(node.journal.spent(), money("0.099"), "overspend 0, and nothing is left unused that fits");
    assert_eq!(served, 33);
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 1, "one read for all");
}

#[tokio::test]
async fn credit_that_is_granted_counts_at_the_next_call() {
    let place = Place { project: limits(|limits| limits.prepaid = true), ..Place::default() };
    let node = Node::new();
    let away = node.serve(place.call(), "", SCRIPT).await;
    assert_eq!((header(&away, "x-should-retry"), header(&away, "retry-after")), (Some("false"), None));
    assert_eq!(error(away).await, (402, "insufficient_quota".to_owned()));
    *node.leases.granted.lock().unwrap() = Some(money("0.002"));
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 402, "not known yet");
    node.entrance.admission.forget_money();
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200);
    node.entrance.admission.forget_money();
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200);
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 402);
    assert_eq!(node.journal.spent(), money("0.002"));
}

#[tokio::test]
async fn money_that_cannot_be_read_lets_nobody_in() {
    let journal = Memory::working();
    let leases = MemoryLeases { failing: true, ..MemoryLeases::gated(&journal, 9) };
    let node = Node::of(Config::default(), journal, Arc::new(leases));
    let place = Place { key: cap("1"), ..Place::default() };
    for _ in 0..2 {
        let away = node.serve(place.call(), "", SCRIPT).await;
        assert_eq!(error(away).await, (507, "storage_unavailable".to_owned()));
    }
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 2, "a read that failed is tried again");
    assert_eq!(node.entrance.door.open(), 0);
}

#[tokio::test]
async fn money_is_waited_for_only_until_the_deadline() {
    let journal = Memory::working();
    let leases = Arc::new(MemoryLeases::gated(&journal, 0));
    let node = Node::of(Config::default(), journal, leases);
    let mut place = Place { key: cap("1"), ..Place::default() };
    place.guest.deadline_ms_max = 30;
    assert_eq!(error(node.serve(place.call(), "", SCRIPT).await).await, (503, "overloaded".to_owned()));
    place.guest.deadline_ms_max = 30_000;
    node.leases.gate.add_permits(1);
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200, "the read went on for the next");
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_read_from_before_the_money_changed_is_not_used() {
    let journal = Memory::working();
    let node = Arc::new(Node::of(Config::default(), journal.clone(), Arc::new(MemoryLeases::gated(&journal, 0))));
    let place = Place { project: limits(|limits| limits.prepaid = true), ..Place::default() };
    let waiting = tokio::spawn({
        let (node, context) = (node.clone(), place.call());
        async move { node.serve(context, "", SCRIPT).await.status().as_u16() }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    // The read is under way; a grant comes in between.
    *node.leases.granted.lock().unwrap() = Some(money("1"));
    node.entrance.admission.forget_money();
    node.leases.gate.add_permits(2);
    assert_eq!(waiting.await.unwrap(), 200);
    assert_eq!(node.leases.reads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_tightest_bound_on_a_call_holds() {
    let bound = |text: &str| limits(|limits| limits.request_cost_max = Some(money(text)));
    let script = Script { tokens: 5, hold: 5, status: 500, ..SCRIPT };
    let place = Place { tenant: bound("0.1"), deployment: bound("0.005"), ..Place::default() };
    let node = Node::new();
    assert_eq!(node.serve(place.call(), "", script).await.status(), 500, "exactly as much as allowed");
    let asked = Context { cost_max: Some(money("0.0049")), ..place.call() };
    let away = node.serve(asked, "", script).await;
    assert_eq!((header(&away, "x-should-retry"), header(&away, "x-mayfly-cost")), (Some("false"), Some("0")));
    assert_eq!(error(away).await, (402, "insufficient_quota".to_owned()));
    let place = Place { key: bound("0.004"), ..Place::default() };
    let more = Context { cost_max: Some(money("9")), ..place.call() };
    assert_eq!(node.serve(more, "", script).await.status(), 402, "a caller cannot raise what it is bound to");
}

#[tokio::test]
async fn a_call_without_its_row_owes_nothing_to_its_limits() {
    let place = Place { tenant: cap("0.001"), ..Place::default() };
    let node = Node::with(Config::default(), Memory::new(0..1, 1_000));
    let lost = node.serve(place.call(), "", SCRIPT).await;
    assert_eq!((header(&lost, "x-mayfly-cost"), header(&lost, "x-mayfly-usage")), (Some("0"), Some("{}")));
    assert_eq!(error(lost).await, (507, "storage_unavailable".to_owned()));
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 200, "its money was given back");
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 402);
}

#[tokio::test]
async fn a_key_that_expires_in_mid_stream_does_not_cut_the_call() {
    let node = Node::with(Config { short_answer_bytes_max: 0, ..Config::default() }, Memory::working());
    let mut context = Place::default().call();
    let soon = now() + 20_000;
    context.key = Arc::new(mayfly_registry::Key { expires_at: Some(soon), ..(*context.key).clone() });
    let response = node.serve(context, "", Script { pause_ms: 150, ..SCRIPT }).await;
    assert_eq!(text(response).await, "hello");
    assert!(now() > soon);
    settled(&node).await;
    assert_eq!(node.journal.ends()[0].outcome, Some(Outcome::Completed));
}

#[tokio::test]
async fn the_end_user_is_in_the_row() {
    let node = Node::new();
    let context = Context { end_user: Some("anna".into()), ..Place::default().call() };
    node.serve(context, "", SCRIPT).await;
    assert_eq!(node.journal.ends()[0].call.end_user.as_deref(), Some("anna"));
}

#[tokio::test]
async fn stream_is_not_billed_zero() {
    let place = Place { tenant: cap("1"), ..Place::default() };
    let node = Node::with(
        Config { short_answer_wait_ms: 0, short_answer_bytes_max: 0, ..Config::default() },
        Memory::working(),
    );
    let context = Context { trailers: true, ..place.call() };
    let response = node.serve(context, "", Script { tokens: 7, pause_ms: 150, ..SCRIPT }).await;
    assert_eq!(header(&response, "x-mayfly-cost"), None, "not known at its head");
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-mayfly-cost"], "0.007");
    settled(&node).await;
    assert_eq!((node.journal.ends().len(), tokens(&node.journal.ends()[0])), (1, 7));
    assert_eq!(node.journal.spent(), money("0.007"));
}

#[tokio::test]
async fn usage_is_not_lost_on_disconnect() {
    let place = Place { tenant: cap("0.01"), ..Place::default() };
    let node = Node::new();
    let response = node.serve(place.call(), "", Script { tokens: 7, pause_ms: 5_000, ..SCRIPT }).await;
    drop(response);
    settled(&node).await;
    let end = &node.journal.ends()[0];
    assert_eq!((end.kind, end.outcome, tokens(end)), (Kind::Settle, Some(Outcome::ClientLeft), 7));
    // And it counts against the cap.
    let more = Script { tokens: 4, hold: 4, status: 500, ..SCRIPT };
    assert_eq!(node.serve(place.call(), "", more).await.status(), 402);
}

#[tokio::test]
async fn the_same_request_again_is_the_same_answer_for_nothing() {
    let place = Place::default();
    let node = Node::new();
    let first = node.serve(once(&place, "k1"), "body", SCRIPT).await;
    assert_eq!((header(&first, "x-mayfly-replayed"), header(&first, "x-mayfly-cost")), (None, Some("0.001")));
    assert_eq!(text(first).await, "hello");
    settled(&node).await;
    let again = node.serve(once(&place, "k1"), "body", Script { body: "another", ..SCRIPT }).await;
    assert_eq!((header(&again, "x-mayfly-replayed"), header(&again, "x-mayfly-cost")), (Some("true"), Some("0")));
    assert_eq!((header(&again, "x-own"), header(&again, "x-mayfly-usage")), (Some("1"), Some("{}")));
    assert_eq!((header(&again, "x-mayfly-cold"), header(&again, "content-length")), (Some("none"), Some("5")));
    assert_eq!(text(again).await, "hello");
    let ends = node.journal.ends();
    assert_eq!((ends.len(), ends[1].outcome, ends[1].kind), (2, Some(Outcome::Replayed), Kind::Void));
    assert!(ends[1].lines.is_empty() && ends[0].call.id != ends[1].call.id);
    assert_eq!(node.journal.spent(), money("0.001"));
}

#[tokio::test]
async fn while_the_first_runs_the_second_waits_its_turn() {
    let place = Place::default();
    let node = Node::new();
    let entry = node.enter(&once(&place, "k1"), "body").await.unwrap();
    let away = node.enter(&once(&place, "k1"), "body").await.unwrap_err();
    assert_eq!(header(&away, "retry-after"), Some("1"));
    assert_eq!(error(away).await, (409, "idempotency_in_progress".to_owned()));
    let away = node.enter(&once(&place, "k1"), "other").await.unwrap_err();
    assert_eq!(error(away).await, (422, "idempotency_mismatch".to_owned()));
    // However the first ends, its entry goes.
    drop(entry);
    assert!(node.enter(&once(&place, "k1"), "other").await.is_ok());
}

#[tokio::test]
async fn another_body_is_refused_and_another_scope_is_another_call() {
    let place = Place::default();
    let node = Node::new();
    drop(text(node.serve(once(&place, "k1"), "body", SCRIPT).await).await);
    settled(&node).await;
    let other = node.serve(once(&place, "k1"), "other", SCRIPT).await;
    assert_eq!(header(&other, "x-should-retry"), Some("false"));
    assert_eq!(error(other).await, (422, "idempotency_mismatch".to_owned()));
    // Another tenant's key with the same text, another user, another path, another method.
    let mut foreign = once(&place, "k1");
    foreign.key = Arc::new(mayfly_registry::Key {
        id: mayfly_types::KeyId::from_bytes([9; 16]),
        tenant: Some(mayfly_types::TenantId::from_bytes([9; 16])),
        ..(*foreign.key).clone()
    });
    let user = Context { end_user: Some("anna".into()), ..once(&place, "k1") };
    let mut path = once(&place, "k1");
    path.idempotency.as_mut().unwrap().target.push_str("?x=1");
    for context in [foreign, user, path, once(&place, "k2")] {
        let response = node.serve(context, "body", Script { body: "fresh", ..SCRIPT }).await;
        assert_eq!(header(&response, "x-mayfly-replayed"), None);
        assert_eq!(text(response).await, "fresh");
        settled(&node).await;
    }
    let context = once(&place, "k1");
    let wanted = context.idempotency.clone().unwrap();
    assert_ne!(scope(&context, &Method::POST, &wanted), scope(&context, &Method::PUT, &wanted));
}

#[tokio::test]
async fn an_answer_too_long_to_keep_is_never_billed_twice() {
    let place = Place::default();
    let node = Node::with(Config { idempotent_answer_bytes_max: 4, ..Config::default() }, Memory::working());
    let first = node.serve(once(&place, "k1"), "", SCRIPT).await;
    let id = header(&first, "x-request-id").unwrap().to_owned();
    assert_eq!(text(first).await, "hello");
    settled(&node).await;
    let again = node.serve(once(&place, "k1"), "", SCRIPT).await;
    assert_eq!((again.status().as_u16(), header(&again, "x-should-retry")), (409, Some("false")));
    let text = text(again).await;
    assert!(text.contains("idempotency_not_kept") && text.contains(&id), "{text}");
    assert_eq!((node.journal.ends().len(), node.journal.spent()), (1, money("0.001")));
}

#[tokio::test]
async fn a_streamed_answer_is_kept_as_far_as_it_fits() {
    for (most, status) in [(5, 200), (4, 409)] {
        let place = Place::default();
        let config = Config { short_answer_bytes_max: 0, idempotent_answer_bytes_max: most, ..Config::default() };
        let node = Node::with(config, Memory::working());
        let stream = Script { pause_ms: 150, ..SCRIPT };
        assert_eq!(text(node.serve(once(&place, "k1"), "", stream).await).await, "hello");
        settled(&node).await;
        assert!(node.journal.kinds().contains(&Kind::Open), "it was streamed");
        let again = node.serve(once(&place, "k1"), "", stream).await;
        assert_eq!(again.status(), status);
        if status == 200 {
            assert_eq!(text(again).await, "hello");
        }
    }
}

#[tokio::test]
async fn a_call_that_was_charged_and_broke_is_not_run_again() {
    let node = Node::new();
    let place = Place::default();
    let left = node.serve(once(&place, "k1"), "", Script { tokens: 3, pause_ms: 5_000, ..SCRIPT }).await;
    drop(left);
    settled(&node).await;
    let again = node.serve(once(&place, "k1"), "", SCRIPT).await;
    assert_eq!(error(again).await, (409, "idempotency_not_kept".to_owned()));
    // One that owes nothing may run again.
    let left = node.serve(once(&place, "k2"), "", Script { tokens: 0, pause_ms: 5_000, ..SCRIPT }).await;
    drop(left);
    settled(&node).await;
    assert_eq!(text(node.serve(once(&place, "k2"), "", SCRIPT).await).await, "hello");
}

#[tokio::test]
async fn a_call_the_host_lost_runs_again() {
    let node = Node::with(Config::default(), Memory::new(0..1, 1_000));
    let place = Place::default();
    assert_eq!(node.serve(once(&place, "k1"), "", SCRIPT).await.status(), 507);
    settled(&node).await;
    let again = node.serve(once(&place, "k1"), "", SCRIPT).await;
    assert_eq!(header(&again, "x-mayfly-replayed"), None);
    assert_eq!(text(again).await, "hello");
}

#[tokio::test]
async fn a_refusal_that_cost_nothing_is_not_kept() {
    let place = Place { tenant: limits(|limits| limits.tokens_per_minute = Some(10)), ..Place::default() };
    let node = Node::new();
    let too_much = Script { tokens: 11, hold: 11, status: 500, ..SCRIPT };
    assert_eq!(node.serve(once(&place, "k1"), "", too_much).await.status(), 400);
    settled(&node).await;
    assert_eq!(node.serve(once(&place, "k1"), "", SCRIPT).await.status(), 200);
}

#[tokio::test]
async fn what_was_paid_for_can_be_had_again_without_money() {
    let place = Place { tenant: cap("0.001"), ..Place::default() };
    let node = Node::new();
    assert_eq!(text(node.serve(once(&place, "k1"), "", SCRIPT).await).await, "hello");
    settled(&node).await;
    assert_eq!(node.serve(place.call(), "", SCRIPT).await.status(), 402);
    assert_eq!(node.serve(once(&place, "k2"), "", SCRIPT).await.status(), 402);
    assert_eq!(text(node.serve(once(&place, "k1"), "", SCRIPT).await).await, "hello");
    settled(&node).await;
    node.assert_empty(&place.call());
}

#[tokio::test]
async fn bodies_with_a_key_are_bounded() {
    let mut place = Place::default();
    let config = Config { idempotent_request_bytes_max: 4, idempotent_calls_max: 1, ..Config::default() };
    let node = Node::with(config, Memory::working());
    let away = node.enter(&once(&place, "k1"), "12345").await.unwrap_err();
    assert_eq!(error(away).await, (413, "too_large".to_owned()));
    let inside = node.enter(&once(&place, "k1"), "1234").await.unwrap();
    let away = node.enter(&once(&place, "k2"), "1234").await.unwrap_err();
    assert_eq!(error(away).await, (503, "overloaded".to_owned()));
    drop(inside);
    place.guest.request_body_bytes_max = 3;
    let away = node.enter(&once(&place, "k1"), "1234").await.unwrap_err();
    assert!(text(away).await.contains("request_body_bytes_max = 3"));
    assert_eq!(node.entrance.door.open(), 0);
}

/// The JSON of a dry run.
async fn dry(node: &Node, place: &Place, script: Script) -> serde_json::Value {
    let response = node.serve(Context { dry_run: true, ..place.call() }, "", script).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-mayfly-cost")), (200, Some("0")));
    serde_json::from_str(&text(response).await).unwrap()
}

#[tokio::test]
async fn a_dry_run_prices_the_first_hold_and_charges_nothing() {
    let place =
        Place { tenant: cap("0.004"), key: limits(|limits| limits.tokens_per_minute = Some(100)), ..Place::default() };
    let node = Node::new();
    let expect = serde_json::json!({"dry_run": true,
        "lines": [{"meter": "output_tokens", "model": "tiny", "quantity": 3, "cost": "0.003"}],
        "cost": "0.003", "currency": "EUR", "admitted": true, "refusal": null});
    assert_eq!(dry(&node, &place, Script { tokens: 9, hold: 3, ..SCRIPT }).await, expect);
    let refused = dry(&node, &place, Script { tokens: 9, hold: 9, ..SCRIPT }).await;
    assert_eq!((&refused["admitted"], &refused["cost"]), (&false.into(), &"0.009".into()));
    assert!(refused["refusal"].as_str().unwrap().contains("spend"), "{refused}");
    let nothing = dry(&node, &place, Script { tokens: 0, ..SCRIPT }).await;
    assert_eq!((&nothing["lines"], &nothing["cost"]), (&serde_json::json!([]), &"0".into()));
    assert!(node.journal.rows().is_empty());
    // Nothing of it is left at any level: all of the cap can be spent.
    settled(&node).await;
    let all = node.serve(place.call(), "", Script { tokens: 4, hold: 4, status: 500, ..SCRIPT }).await;
    assert_eq!((all.status().as_u16(), header(&all, "x-ratelimit-remaining-tokens")), (500, Some("96")));
    settled(&node).await;
    node.assert_empty(&place.call());
}
