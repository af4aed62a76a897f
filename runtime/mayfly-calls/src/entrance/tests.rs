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

mod calls;
mod dry_runs;
mod idempotency;
mod limits;
mod lines;
mod money;

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
        let opener = Opener::new(config, journal.clone(), book(), "EUR", None);
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
        let mut call = self.opener.open(&context, &Method::POST, "/v1/chat", ticket, once);
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
