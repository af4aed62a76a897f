//! The order of ledger and answer, with a scripted handler and a ledger in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http_body::Frame;
use mayfly_api::{ErrorEnvelope, headers};
use mayfly_host::{BodyError, GuestFault};
use mayfly_ledger::Kind;
use mayfly_types::{Budget as _, Line, Meter, Refusal, RefusalKind};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::Config;
use crate::budget::CallBudget;
use crate::fakes::{Memory, Place, book, model, tokens};
use crate::opener::Opener;

/// A handler that does what the test says.
struct Guest {
    budget: Arc<CallBudget>,
    body: Option<mpsc::Sender<Result<Frame<Bytes>, HostError>>>,
    end: Option<oneshot::Sender<RunEnd>>,
    cancel: CancellationToken,
}

impl Guest {
    /// Produces `count` tokens.
    async fn work(&self, count: u64) {
        let lines = [Line { meter: Meter::OutputTokens, model: Some(model()), quantity: count }];
        let hold = self.budget.hold(&lines).await.unwrap();
        self.budget.charge(hold, &lines);
        self.budget.release(hold);
    }

    async fn write(&self, text: &'static str) {
        self.budget.answers(0, text.len());
        self.send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).await;
    }

    async fn send(&self, frame: Result<Frame<Bytes>, HostError>) {
        // A body nobody reads any more is no failure of the guest.
        let _ = self.body.as_ref().unwrap().send(frame).await;
    }

    /// The body ends properly.
    fn finish(&mut self) {
        self.body = None;
    }

    fn end(&mut self, result: Result<(), HostError>) {
        let guest_cpu = Duration::from_micros(70);
        let _ = self.end.take().unwrap().send(RunEnd { result, timings: Timings { guest_cpu, ..Timings::default() } });
    }

    /// Ends once it is cancelled, after `delay`, having worked a little more.
    fn dies_when_cancelled(mut self, delay: Duration) -> JoinHandle<()> {
        tokio::spawn(async move {
            self.cancel.cancelled().await;
            tokio::time::sleep(delay).await;
            self.budget.record(&[Line { meter: Meter::Rows, model: None, quantity: 1 }]);
            self.end(Err(HostError::Cancelled));
        })
    }
}

/// How a test wants its call.
struct Wish {
    journal: Arc<Memory>,
    status: u16,
    bodiless: bool,
    trailers: bool,
    deadline: Duration,
    bytes_max: u64,
}

impl Default for Wish {
    fn default() -> Self {
        let journal = Memory::working();
        Self {
            journal,
            status: 200,
            bodiless: false,
            trailers: false,
            deadline: Duration::from_secs(30),
            bytes_max: 1_000,
        }
    }
}

struct Test {
    guest: Guest,
    answer: oneshot::Receiver<Response<Body>>,
    journal: Arc<Memory>,
    stop: CancellationToken,
    too_large: Arc<AtomicBool>,
    task: JoinHandle<()>,
    tasks: TaskTracker,
}

/// A call whose guest has just set its head.
fn start(wish: Wish) -> Test {
    let config = Config { short_answer_bytes_max: wish.bytes_max, ..Config::default() };
    // Longer than the default: a busy machine must not turn short answers into streams.
    let config = Arc::new(Config { short_answer_wait_ms: 50, ..config });
    let mut place = Place::default();
    place.guest.deadline_ms_max = u64::try_from(wish.deadline.as_millis()).unwrap();
    place.guest.request_body_bytes_max = 10;
    let context = crate::Context { trailers: wish.trailers, ..place.call() };
    let stop = context.cancel.clone();
    let opener = Opener::new(config, wish.journal.clone(), book(), "EUR", None);
    let method = if wish.bodiless { http::Method::HEAD } else { http::Method::GET };
    let call = opener.open(&context, &method, "/", None, None);
    let (frames, receiver) = mpsc::channel(16);
    let stream = futures::stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    let body = http_body_util::StreamBody::new(Box::pin(stream)).boxed_unsync();
    let (end, ended) = oneshot::channel();
    let response = Response::builder().status(wish.status).header("content-type", "text/plain").body(body).unwrap();
    let running = Running { response, end: ended, clock: Clock::default() };
    let guest = Guest { budget: call.budget.clone(), body: Some(frames), end: Some(end), cancel: call.cancel.clone() };
    let (head, answer) = oneshot::channel();
    let (tasks, too_large) = (call.tasks.clone(), call.too_large.clone());
    let task = tokio::spawn(async move { deliver(&call, running, head).await });
    Test { guest, answer, journal: wish.journal, stop, too_large, task, tasks }
}

async fn text(body: Body) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn data(body: &mut Body) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

async fn error_code(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let envelope: ErrorEnvelope = serde_json::from_str(&text(response.into_body()).await).unwrap();
    (status, envelope.error.code)
}

/// The call has ended exactly once, with `outcome` and `tokens` owed.
#[track_caller]
fn assert_end(journal: &Memory, outcome: Outcome, owed: i64) {
    let rows = journal.rows();
    let ends: Vec<&Row> = rows.iter().filter(|row| matches!(row.kind, Kind::Settle | Kind::Void)).collect();
    assert_eq!(ends.len(), 1, "ends exactly once: {:?}", journal.kinds());
    assert_eq!(ends[0].outcome, Some(outcome));
    assert_eq!(tokens(ends[0]), owed);
    assert_eq!(rows.last().unwrap(), ends[0], "nothing after the end");
}

#[tokio::test]
async fn a_short_answer_is_one_row_and_has_usage_in_its_head() {
    let mut test = start(Wish::default());
    test.guest.work(3).await;
    test.guest.write("hello ").await;
    test.guest.write("world").await;
    test.guest.finish();
    test.guest.end(Ok(()));
    let response = test.answer.await.unwrap();
    assert_eq!(test.journal.kinds(), [Kind::Settle], "durable before the head leaves");
    let head = response.headers();
    assert_eq!(head["content-length"], "11");
    assert_eq!(head[headers::USAGE], r#"{"output_tokens":3,"guest_cpu_micros":70}"#);
    assert_eq!(head[headers::USAGE_OUTPUT_TOKENS], "3");
    assert_eq!(head[headers::COST], "0.003");
    assert_eq!(head[headers::CURRENCY], "EUR");
    assert_eq!(head[headers::COLD], "instance");
    assert!(head[headers::REQUEST_ID].to_str().unwrap().starts_with("req_"));
    assert!(head.contains_key("server-timing"));
    assert_eq!(text(response.into_body()).await, "hello world");
    test.task.await.unwrap();
    assert_end(&test.journal, Outcome::Completed, 3);
}

#[tokio::test]
async fn a_call_that_used_nothing_has_its_row() {
    let mut test = start(Wish { status: 404, ..Wish::default() });
    test.guest.finish();
    test.guest.end(Ok(()));
    let response = test.answer.await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["content-length"]), (404, &"0".parse().unwrap()));
    assert_end(&test.journal, Outcome::Completed, 0);
    assert_eq!(test.journal.rows()[0].status, 404);
}

#[tokio::test]
async fn usage_is_durable_before_each_frame_and_the_end_before_the_end() {
    let mut test = start(Wish { trailers: true, ..Wish::default() });
    let response = (&mut test.answer).await.unwrap();
    assert_eq!(test.journal.kinds(), [Kind::Open, Kind::Progress]);
    assert!(!response.headers().contains_key("content-length"));
    assert_eq!(response.headers()["trailer"], bill::TRAILERS);
    let mut body = response.into_body();
    for sent in 1..=5 {
        test.guest.work(1).await;
        test.guest.write("token").await;
        assert_eq!(data(&mut body).await, "token");
        assert_eq!(test.journal.billed(), sent);
    }
    test.guest.write("free").await;
    assert_eq!(data(&mut body).await, "free");
    assert_eq!(test.journal.kinds().len(), 7, "a frame that cost nothing needs no row");

    test.guest.finish();
    // The body has ended, the handler has not: the end has to wait.
    assert!(tokio::time::timeout(Duration::from_millis(30), body.frame()).await.is_err());
    assert_eq!(test.guest.budget.hold(&[]).await.unwrap_err().kind, RefusalKind::Closed);
    test.guest.end(Ok(()));
    let last = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_end(&test.journal, Outcome::Completed, 5);
    assert_eq!(last[headers::USAGE_OUTPUT_TOKENS], "5");
    assert_eq!(last[headers::COST], "0.005");
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn nothing_leaves_while_the_ledger_is_slow() {
    let journal = Memory::new(0..0, 1);
    let mut test = start(Wish { journal, ..Wish::default() });
    let mut body = (&mut test.answer).await.unwrap().into_body();
    test.guest.work(1).await;
    test.guest.write("paid").await;
    assert!(
        tokio::time::timeout(Duration::from_millis(30), body.frame()).await.is_err(),
        "progress is not durable yet"
    );
    test.journal.gate.add_permits(1);
    assert_eq!(data(&mut body).await, "paid");
    test.guest.finish();
    test.guest.end(Ok(()));
    assert!(tokio::time::timeout(Duration::from_millis(30), body.frame()).await.is_err(), "the end is not durable yet");
    test.journal.gate.add_permits(1);
    assert!(body.frame().await.is_none());
    assert_end(&test.journal, Outcome::Completed, 1);
}

#[tokio::test]
async fn what_is_durable_is_at_most_one_frame_ahead_of_the_reader() {
    let mut test = start(Wish { bytes_max: 0, ..Wish::default() });
    let mut body = (&mut test.answer).await.unwrap().into_body();
    let read = data_then_count(&mut test, &mut body).await;
    // A frame that was read counts as written once its reader comes back for more.
    assert_eq!(read, [(1, 1), (2, 2), (3, 3)]);
    drop(body);
    let dead = test.guest.dies_when_cancelled(Duration::ZERO);
    test.task.await.unwrap();
    dead.await.unwrap();
}

#[tokio::test]
async fn work_for_frames_that_wait_is_not_durable_before_they_leave() {
    let mut test = start(Wish { bytes_max: 0, ..Wish::default() });
    // The guest is six frames and seven tokens ahead before anybody reads.
    for _ in 0..6 {
        test.guest.work(1).await;
        test.guest.write("token").await;
    }
    test.guest.work(1).await;
    let mut body = (&mut test.answer).await.unwrap().into_body();
    for read in 0..6 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let billed = test.journal.billed();
        assert!((read..=read + 1).contains(&billed), "{billed} are durable, {read} were read");
        data(&mut body).await;
        assert!(test.journal.billed() > read, "what was read is paid for");
    }
    drop(body);
    let dead = test.guest.dies_when_cancelled(Duration::ZERO);
    test.task.await.unwrap();
    dead.await.unwrap();
    assert_end(&test.journal, Outcome::ClientLeft, 7);
}

/// Reads three frames while the guest works one token each just before a frame is asked for; (read, durable) after each.
async fn data_then_count(test: &mut Test, body: &mut Body) -> Vec<(i64, i64)> {
    let mut seen = Vec::new();
    test.guest.work(1).await;
    test.guest.write("a").await;
    for read in 1..=3 {
        // One more is produced while the frame before it waits to be taken.
        tokio::time::sleep(Duration::from_millis(20)).await;
        test.guest.work(1).await;
        test.guest.write("b").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(test.journal.billed() <= read, "the frame in the queue and no more");
        data(body).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen.push((read, test.journal.billed()));
    }
    seen
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_head_owes_what_was_done() {
    let test = start(Wish::default());
    test.guest.work(4).await;
    test.guest.write("half").await;
    drop(test.answer);
    let dead = test.guest.dies_when_cancelled(Duration::from_millis(20));
    test.task.await.unwrap();
    dead.await.unwrap();
    assert_end(&test.journal, Outcome::ClientLeft, 4);
    let rows = test.journal.rows();
    assert_eq!((rows.len(), rows[0].status), (1, 0));
    assert!(rows[0].lines.iter().any(|line| line.meter == Meter::Rows), "settled when the instance was gone");
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_owes_what_was_done() {
    for unread in [false, true] {
        let mut test = start(Wish::default());
        let mut body = (&mut test.answer).await.unwrap().into_body();
        test.guest.work(1).await;
        test.guest.write("one").await;
        if unread {
            test.guest.write("two").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        } else {
            data(&mut body).await;
        }
        drop(body);
        let dead = test.guest.dies_when_cancelled(Duration::from_millis(20));
        test.task.await.unwrap();
        dead.await.unwrap();
        assert_end(&test.journal, Outcome::ClientLeft, 1);
        assert!(test.journal.rows().last().unwrap().lines.iter().any(|line| line.meter == Meter::Rows));
    }
}

#[tokio::test]
async fn a_caller_that_leaves_after_the_last_byte_has_its_answer() {
    let mut test = start(Wish::default());
    let mut body = (&mut test.answer).await.unwrap().into_body();
    test.guest.write("all").await;
    test.guest.finish();
    data(&mut body).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(body);
    tokio::time::sleep(Duration::from_millis(20)).await;
    test.guest.end(Ok(()));
    test.task.await.unwrap();
    assert_end(&test.journal, Outcome::Completed, 0);
}

#[tokio::test]
async fn a_trap_in_mid_stream_is_settled_and_cuts_the_connection() {
    let mut test = start(Wish::default());
    let mut body = (&mut test.answer).await.unwrap().into_body();
    test.guest.work(2).await;
    test.guest.write("half").await;
    data(&mut body).await;
    let trap = HostError::Guest(GuestFault::Trap("unreachable".to_owned()));
    test.guest.send(Err(trap.clone())).await;
    test.guest.end(Err(trap));
    assert!(body.frame().await.unwrap().is_err(), "not a proper end");
    assert_end(&test.journal, Outcome::GuestFault, 2);
}

#[tokio::test]
async fn a_trap_before_the_head_left_is_a_502() {
    let mut test = start(Wish::default());
    test.guest.work(2).await;
    test.guest.write("half").await;
    let trap = HostError::Guest(GuestFault::Trap("unreachable".to_owned()));
    test.guest.send(Err(trap.clone())).await;
    test.guest.end(Err(trap));
    let response = test.answer.await.unwrap();
    assert_eq!(response.headers()[headers::SHOULD_RETRY], "false");
    assert_eq!(response.headers()[headers::USAGE_OUTPUT_TOKENS], "2");
    assert_eq!(error_code(response).await, (502, "handler_failed".to_owned()));
    assert_end(&test.journal, Outcome::GuestFault, 2);
    assert_eq!(test.journal.rows()[0].status, 502);
}

#[tokio::test]
async fn a_fault_after_the_whole_answer_does_not_spoil_it() {
    let mut test = start(Wish::default());
    test.guest.write("all").await;
    test.guest.finish();
    test.guest.end(Err(GuestFault::CpuLimit { limit_ms: 5 }.into()));
    assert_eq!(text(test.answer.await.unwrap().into_body()).await, "all");
    assert_end(&test.journal, Outcome::Completed, 0);
}

#[tokio::test]
async fn what_the_host_loses_is_not_owed() {
    let mut test = start(Wish::default());
    let mut body = (&mut test.answer).await.unwrap().into_body();
    test.guest.work(2).await;
    test.guest.write("half").await;
    data(&mut body).await;
    test.guest.send(Err(HostError::Host { detail: "lost".to_owned() })).await;
    drop(test.guest);
    assert!(body.frame().await.unwrap().is_err());
    assert_end(&test.journal, Outcome::HostFault, 0);
    assert_eq!(test.journal.kinds().last(), Some(&Kind::Void));
}

#[tokio::test]
async fn without_the_ledger_nothing_is_delivered() {
    // A short answer.
    let mut test = start(Wish { journal: Memory::new(0..9, 1_000), ..Wish::default() });
    test.guest.work(2).await;
    test.guest.write("secret").await;
    test.guest.finish();
    test.guest.end(Ok(()));
    let response = test.answer.await.unwrap();
    assert_eq!(response.headers()[headers::USAGE], "{}");
    assert_eq!(error_code(response).await, (507, "storage_unavailable".to_owned()));
    assert!(test.journal.rows().is_empty());

    // A stream, at its opening.
    let test = start(Wish { journal: Memory::new(0..9, 1_000), ..Wish::default() });
    let dead = test.guest.dies_when_cancelled(Duration::ZERO);
    assert_eq!(error_code(test.answer.await.unwrap()).await, (507, "storage_unavailable".to_owned()));
    dead.await.unwrap();
    assert!(test.journal.rows().is_empty());
}

#[tokio::test]
async fn a_ledger_that_fails_in_mid_stream_cuts_it() {
    let mut test = start(Wish { journal: Memory::new(1..2, 1_000), ..Wish::default() });
    let mut body = (&mut test.answer).await.unwrap().into_body();
    test.guest.work(2).await;
    test.guest.write("never seen").await;
    let dead = test.guest.dies_when_cancelled(Duration::ZERO);
    assert!(body.frame().await.unwrap().is_err());
    dead.await.unwrap();
    test.task.await.unwrap();
    assert_end(&test.journal, Outcome::HostFault, 0);
}

#[tokio::test]
async fn a_ledger_that_fails_at_the_end_cuts_the_stream_and_voids_the_call() {
    let mut test = start(Wish { journal: Memory::new(2..3, 1_000), ..Wish::default() });
    let mut body = (&mut test.answer).await.unwrap().into_body();
    test.guest.work(2).await;
    test.guest.write("all").await;
    data(&mut body).await;
    test.guest.finish();
    test.guest.end(Ok(()));
    assert!(body.frame().await.unwrap().is_err());
    test.tasks.close();
    test.tasks.wait().await;
    assert_end(&test.journal, Outcome::HostFault, 0);
}

#[tokio::test]
async fn the_deadline_ends_a_stream() {
    // Told by the host.
    let mut test = start(Wish::default());
    let mut body = (&mut test.answer).await.unwrap().into_body();
    test.guest.work(1).await;
    test.guest.send(Err(HostError::Deadline { limit_ms: 5 })).await;
    test.guest.end(Err(HostError::Deadline { limit_ms: 5 }));
    assert!(body.frame().await.unwrap().is_err());
    assert_end(&test.journal, Outcome::Deadline, 1);

    // A reader that never reads.
    let mut test = start(Wish { deadline: Duration::from_millis(200), ..Wish::default() });
    let mut body = (&mut test.answer).await.unwrap().into_body();
    for _ in 0..3 {
        test.guest.write("x").await;
    }
    let dead = test.guest.dies_when_cancelled(Duration::ZERO);
    test.task.await.unwrap();
    dead.await.unwrap();
    assert_end(&test.journal, Outcome::Deadline, 0);
    assert_eq!(data(&mut body).await, "x");
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn a_deadline_before_the_head_is_a_504() {
    let mut test = start(Wish::default());
    test.guest.work(1).await;
    test.guest.send(Err(HostError::Deadline { limit_ms: 5 })).await;
    test.guest.end(Err(HostError::Deadline { limit_ms: 5 }));
    assert_eq!(error_code(test.answer.await.unwrap()).await, (504, "deadline_exceeded".to_owned()));
    assert_end(&test.journal, Outcome::Deadline, 1);
}

#[tokio::test]
async fn a_limit_that_a_guest_passes_on_is_named_by_the_host() {
    let most = Line { meter: Meter::Rows, model: None, quantity: u64::MAX };
    let mut test = start(Wish { status: 500, ..Wish::default() });
    test.guest.work(1).await;
    assert_eq!(test.guest.budget.hold(&[most]).await.unwrap_err().kind, RefusalKind::NeverFits);
    test.guest.write("could not").await;
    test.guest.finish();
    test.guest.end(Ok(()));
    assert_eq!(error_code(test.answer.await.unwrap()).await, (400, "request_too_large_for_limit".to_owned()));
    assert_end(&test.journal, Outcome::Refused, 1);

    // A guest that went on without it has its own answer.
    let mut test = start(Wish::default());
    assert!(test.guest.budget.hold(&[most]).await.is_err());
    test.guest.write("fine").await;
    test.guest.finish();
    test.guest.end(Ok(()));
    assert_eq!(text(test.answer.await.unwrap().into_body()).await, "fine");
    assert_end(&test.journal, Outcome::Completed, 0);
}

#[tokio::test]
async fn a_request_body_past_its_limit_is_a_413_whatever_the_guest_says() {
    let mut test = start(Wish { status: 400, ..Wish::default() });
    let many = Bytes::from_static(b"more than ten bytes");
    let body = crate::body::Limited::new(full(many), 10, test.too_large.clone());
    assert_eq!(body.collect().await.unwrap_err(), BodyError::TooLarge { limit: 10 });
    test.guest.write("bad request").await;
    test.guest.finish();
    test.guest.end(Ok(()));
    assert_eq!(error_code(test.answer.await.unwrap()).await, (413, "too_large".to_owned()));
    assert_end(&test.journal, Outcome::Refused, 0);
}

#[tokio::test]
async fn what_the_server_cuts_is_not_owed() {
    let mut test = start(Wish::default());
    let mut body = (&mut test.answer).await.unwrap().into_body();
    test.guest.work(1).await;
    test.guest.write("half").await;
    data(&mut body).await;
    test.stop.cancel();
    let dead = test.guest.dies_when_cancelled(Duration::from_millis(10));
    assert!(body.frame().await.unwrap().is_err());
    dead.await.unwrap();
    assert_end(&test.journal, Outcome::HostFault, 0);

    let test = start(Wish::default());
    test.stop.cancel();
    let dead = test.guest.dies_when_cancelled(Duration::ZERO);
    assert_eq!(error_code(test.answer.await.unwrap()).await, (503, "overloaded".to_owned()));
    dead.await.unwrap();
    assert_end(&test.journal, Outcome::HostFault, 0);
}

#[tokio::test]
async fn an_answer_without_a_body_waits_for_its_settlement() {
    let mut test = start(Wish { bodiless: true, ..Wish::default() });
    test.guest.work(1).await;
    test.guest.write("not sent").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(test.answer.try_recv().is_err(), "nothing to stream: the head waits for the end");
    test.guest.finish();
    test.guest.end(Ok(()));
    let response = test.answer.await.unwrap();
    assert!(!response.headers().contains_key("content-length"));
    assert_eq!(text(response.into_body()).await, "");
    assert_end(&test.journal, Outcome::Completed, 1);
}

#[tokio::test]
async fn a_guests_trailers_pass_but_not_in_our_names() {
    let mut test = start(Wish { trailers: true, ..Wish::default() });
    test.guest.write("x").await;
    let mut forged = HeaderMap::new();
    for name in [headers::USAGE, headers::COST, "ratelimit", "x-ratelimit-remaining-tokens", "retry-after-ms"] {
        forged.insert(name, HeaderValue::from_static("0"));
    }
    forged.insert("x-checksum", HeaderValue::from_static("7"));
    test.guest.send(Ok(Frame::trailers(forged))).await;
    test.guest.finish();
    test.guest.end(Ok(()));
    let collected = test.answer.await.unwrap().into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap();
    assert_eq!((trailers.len(), &trailers["x-checksum"]), (1, &HeaderValue::from_static("7")));
}

#[tokio::test]
async fn a_long_answer_streams_all_its_bytes() {
    let mut test = start(Wish { bytes_max: 10, ..Wish::default() });
    let all = tokio::spawn(async move { text((&mut test.answer).await.unwrap().into_body()).await });
    for _ in 0..100 {
        test.guest.write("0123456789").await;
    }
    test.guest.finish();
    test.guest.end(Ok(()));
    assert_eq!(all.await.unwrap().len(), 1_000);
    test.task.await.unwrap();
    assert_end(&test.journal, Outcome::Completed, 0);
}

/// The grace after the body refuses holds; that is not why a call failed.
#[tokio::test]
async fn that_a_call_is_over_is_no_limit() {
    let opener = Opener::new(Arc::default(), Memory::working(), book(), "EUR", None);
    let budget = opener.open(&Place::default().call(), &http::Method::GET, "/", None, None).budget;
    budget.close();
    let Refusal { kind, .. } = budget.hold(&[]).await.unwrap_err();
    assert_eq!((kind, budget.refusal()), (RefusalKind::Closed, None));
}
