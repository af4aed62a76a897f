//! From a handler that has set its response to the call's settlement: short answers whole, long ones streamed.
//!
//! The order that billing rests on: usage is durable before the bytes it paid for leave, the settlement before the
//! end of the stream. A streamed frame waits until the connection has taken the one before, so that what is durable
//! is never more than one frame ahead of what was taken.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, OptionFuture};
use http::header::{CONTENT_LENGTH, TRAILER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use mayfly_host::{Clock, HostError, RunEnd, Running, Timings};
use mayfly_ledger::{Append, JournalError, Outcome, Row};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::bill::{self, Bill};
use crate::body::{Body, Piece, Streamed, full};
use crate::failure::Failure;
use crate::handoff::{Giver, Gone, handoff};
use crate::open::{HEADERS_OF_OURS, OpenCall, now};

/// Where the head goes. Closed when the caller has left.
pub(crate) type Head = oneshot::Sender<Response<Body>>;

/// A handler that trickles does not hold the head back longer than this many times the wait for a short answer.
const SHORT_WAITS_MAX: u32 = 10;

/// Why a call did not go on to its proper end.
#[derive(Debug)]
enum Broken {
    /// The caller left.
    Left,
    /// The server cuts its connections.
    Stopped,
    /// The caller reads too slowly for the deadline.
    Deadline,
    /// The guest or the host failed.
    Failed(HostError),
    /// The ledger failed.
    Journal(JournalError),
}

impl Broken {
    /// For the ledger, and for whoever sees the connection cut.
    fn outcome(&self) -> (Outcome, &'static str) {
        match self {
            Self::Left => (Outcome::ClientLeft, "the caller left"),
            Self::Deadline | Self::Failed(HostError::Deadline { .. }) => (Outcome::Deadline, "the deadline passed"),
            Self::Failed(HostError::Guest(_)) => (Outcome::GuestFault, "the handler failed"),
            Self::Stopped | Self::Failed(HostError::Cancelled) => (Outcome::HostFault, "the server is stopping"),
            Self::Journal(_) | Self::Failed(_) => (Outcome::HostFault, "the host failed"),
        }
    }

    fn failure(self, call: &OpenCall) -> Failure {
        match self {
            Self::Left | Self::Stopped => Failure::stopping(),
            Self::Deadline => Failure::deadline(call.deadline_ms),
            Self::Failed(error) => error.into(),
            Self::Journal(error) => error.into(),
        }
    }
}

/// A handler on its way to the end of both its body and its call.
struct Run {
    body: Option<UnsyncBoxBody<Bytes, HostError>>,
    end: oneshot::Receiver<RunEnd>,
    ended: Option<RunEnd>,
    clock: Clock,
    /// Frames that have not left.
    frames: VecDeque<Bytes>,
    bytes: u64,
    trailers: Option<HeaderMap>,
}

impl Run {
    /// One step nearer to the end. Safe to drop and call again.
    async fn step(&mut self, call: &OpenCall) -> Result<(), HostError> {
        let Self { body, end, ended, .. } = self;
        let open = body.is_some();
        let next = async {
            match body {
                Some(body) => body.frame().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            frame = next, if open => match frame {
                None => {
                    self.body = None;
                    // What the handler still asks of models in its grace is refused.
                    call.budget.close();
                }
                Some(frame) => match frame?.into_data() {
                    Ok(data) if data.is_empty() || call.bodiless => {}
                    Ok(data) => {
                        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                        self.frames.push_back(data);
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            },
            run = end, if ended.is_none() => self.ended = Some(run.unwrap_or_else(|_dropped| lost())),
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.body.is_none() && self.ended.is_some()
    }

    fn timings(&self) -> Timings {
        self.ended.as_ref().map_or_else(|| self.clock.read(), |end| end.timings)
    }

    /// Stops the handler and waits until its instance is gone: only then is its usage final.
    async fn abandon(&mut self, call: &OpenCall) -> Timings {
        call.budget.close();
        call.cancel.cancel();
        self.body = None;
        match &self.ended {
            Some(end) => end.timings,
            None => (&mut self.end).await.unwrap_or_else(|_dropped| lost()).timings,
        }
    }
}

/// The host has lost a run: it must always say how one ended.
fn lost() -> RunEnd {
    let detail = "an instance ended without saying how".to_owned();
    tracing::error!(detail);
    RunEnd { result: Err(HostError::Host { detail }), timings: Timings::default() }
}

/// Delivers what `running` answers and settles the call. Returns when the call has ended in the ledger.
pub(crate) async fn deliver(call: &OpenCall, running: Running, mut head: Head) {
    let Running { response, end, clock } = running;
    let (parts, body) = response.into_parts();
    let mut run = Run { body: Some(body), end, ended: None, clock, frames: VecDeque::new(), bytes: 0, trailers: None };
    let gathered = gather(call, &mut run, &mut head).await;
    if let Err(broken) = gathered {
        let timings = run.abandon(call).await;
        return fail(call, broken, &timings, head).await;
    }
    if let Some(failure) = call.overrides(parts.status, &run.timings()) {
        let timings = run.abandon(call).await;
        return refuse(call, failure, &timings, head).await;
    }
    if run.is_over() { whole(call, parts, &mut run, head).await } else { stream(call, parts, &mut run, head).await }
}

/// Waits a moment for a short answer to end: then it needs one row only, and usage fits its head.
async fn gather(call: &OpenCall, run: &mut Run, head: &mut Head) -> Result<(), Broken> {
    let wait = Duration::from_millis(call.config.short_answer_wait_ms);
    let latest = Instant::now() + wait * SHORT_WAITS_MAX;
    while !run.is_over() && run.bytes <= call.config.short_answer_bytes_max {
        let until = latest.min(Instant::now() + wait);
        tokio::select! {
            biased;
            () = head.closed() => return Err(Broken::Left),
            () = call.stop.cancelled() => return Err(Broken::Stopped),
            step = run.step(call) => step.map_err(Broken::Failed)?,
            () = sleep_until(until), if !call.bodiless => break,
        }
    }
    Ok(())
}

/// The whole answer is here and the instance is gone: settle, then send.
async fn whole(call: &OpenCall, mut parts: http::response::Parts, run: &mut Run, head: Head) {
    tell_developer(call, run);
    let timings = run.timings();
    if head.is_closed() {
        return fail(call, Broken::Left, &timings, head).await;
    }
    let trailers = run.trailers.take().filter(|_| call.trailers).map(guest_trailers);
    let bytes = joined(&mut run.frames);
    let mut bill = Bill::default();
    let ending = call.end(parts.status.as_u16(), Outcome::Completed, &timings);
    let writing = OptionFuture::from(ending.map(|mut ending| {
        bill = ending.bill();
        call.keep(&mut ending, &parts.headers, Some(&bytes));
        call.write(ending)
    }));
    if let Some(Err((_, error))) = writing.await {
        return refuse(call, error.into(), &timings, head).await;
    }
    // Once, and not as one name after the other comes. A map as large as it may be refuses.
    let _ = parts.headers.try_reserve(HEADERS_OF_OURS);
    call.mark(&mut parts.headers, &timings);
    bill.mark(&mut parts.headers, &call.currency);
    let lengthless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || call.bodiless;
    let body = match trailers {
        Some(trailers) if !lengthless => {
            parts.headers.remove(CONTENT_LENGTH);
            full(bytes).with_trailers(async move { Some(Ok(trailers)) }).boxed_unsync()
        }
        _ => {
            if !lengthless {
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            }
            full(bytes)
        }
    };
    // If the caller has left by now, it left with its answer on the way.
    let _ = head.send(Response::from_parts(parts, body));
}

/// The answer is long or slow: durable usage before each frame, settlement before the end.
async fn stream(call: &OpenCall, mut parts: http::response::Parts, run: &mut Run, head: Head) {
    let status = parts.status.as_u16();
    if let Err(error) = progress(call, call.budget.before_frame(now(), status, 0)).await {
        let timings = run.abandon(call).await;
        return fail(call, Broken::Journal(error), &timings, head).await;
    }
    let mut copy = Copied::new(call, &parts.headers);
    call.mark(&mut parts.headers, &run.clock.read());
    // The end must wait for the settlement; a caller that counts bytes would not.
    parts.headers.remove(CONTENT_LENGTH);
    if call.trailers {
        parts.headers.insert(TRAILER, HeaderValue::from_static(bill::TRAILERS));
    }
    let (pieces, taker) = handoff();
    let _ = head.send(Response::from_parts(parts, Streamed::new(taker).boxed_unsync()));
    match pump(call, run, status, &pieces, &mut copy).await {
        Ok(()) => {
            tell_developer(call, run);
            let timings = run.timings();
            // A stream that its models' process left is ended by its handler, and is no whole answer all the same.
            let lost = timings.models_back.is_some();
            let outcome = if lost { Outcome::GuestFault } else { Outcome::Completed };
            let mut bill = Bill::default();
            let ending = call.end(status, outcome, &timings);
            let writing = OptionFuture::from(ending.map(|mut ending| {
                bill = ending.bill();
                call.keep(&mut ending, &copy.head, copy.bytes.take().map(BytesMut::freeze).as_ref());
                call.write(ending)
            }));
            let Some(written) = writing.await else { return };
            let last = match written {
                Ok(()) => Piece::End(call.trailers.then(|| trailers(call, &bill, run.trailers.take()))),
                Err((ending, error)) => {
                    // The caller will not see a proper end, so this is not owed.
                    call.retry(ending.into_void(Outcome::HostFault), error);
                    Piece::Cut("the host failed")
                }
            };
            // There is room: `pump` saw the last frame taken.
            let _ = pieces.give(last);
        }
        Err(broken) => {
            let timings = run.abandon(call).await;
            let (outcome, why) = broken.outcome();
            if let Some(mut ending) = call.end(status, outcome, &timings) {
                call.keep(&mut ending, &copy.head, None);
                Box::pin(call.write_in_the_end(ending)).await;
            }
            tell(call, &broken.failure(call));
            // No room for it is as good: a stream without its end is an error, too.
            let _ = pieces.give(Piece::Cut(why));
        }
    }
}

/// What of a streamed answer is kept for a caller who asks again; nothing if nobody may.
struct Copied {
    head: Box<HeaderMap>,
    /// None once it is longer than what is kept.
    bytes: Option<BytesMut>,
}

impl Copied {
    fn new(call: &OpenCall, head: &HeaderMap) -> Self {
        if call.once.is_some() {
            Self { head: Box::new(head.clone()), bytes: Some(BytesMut::new()) }
        } else {
            Self { head: Box::default(), bytes: None }
        }
    }

    fn add(&mut self, call: &OpenCall, frame: &Bytes) {
        match &mut self.bytes {
            Some(bytes) if call.keeps(bytes.len().saturating_add(frame.len())) => bytes.extend_from_slice(frame),
            _ => self.bytes = None,
        }
    }
}

/// Makes usage durable before the bytes it paid for leave.
async fn progress(call: &OpenCall, rows: Vec<Row>) -> Result<(), JournalError> {
    if rows.is_empty() {
        return Ok(());
    }
    call.journal.append(Append { rows, answer: None }).await.map(|_at| ())
}

/// Hands every frame over, in order, until body and handler have ended and the last frame was taken.
async fn pump(
    call: &OpenCall,
    run: &mut Run,
    status: u16,
    pieces: &Giver<Piece>,
    copy: &mut Copied,
) -> Result<(), Broken> {
    let deadline = Instant::from_std(call.deadline);
    let mut last: Option<oneshot::Receiver<()>> = None;
    // Bytes of the answer up to the end of the frame that is handed over.
    let mut upto = 0_u64;
    loop {
        // A free place means that the frame before was taken.
        tokio::select! {
            biased;
            free = pieces.free() => free.map_err(|Gone| Broken::Left)?,
            () = call.stop.cancelled() => return Err(Broken::Stopped),
            () = sleep_until(deadline) => return Err(Broken::Deadline),
        }
        while run.frames.is_empty() && !run.is_over() {
            tokio::select! {
                biased;
                // Everything was handed over once the body has ended: leaving then is no breaking off.
                () = pieces.gone(), if run.body.is_some() => return Err(Broken::Left),
                () = call.stop.cancelled() => return Err(Broken::Stopped),
                step = run.step(call) => step.map_err(Broken::Failed)?,
            }
        }
        let Some(frame) = run.frames.pop_front() else { return Ok(()) };
        // No usage of the next frame before the one before was written.
        if let Some(written) = last.take() {
            tokio::select! {
                biased;
                written = written => written.map_err(|_dropped| Broken::Left)?,
                () = call.stop.cancelled() => return Err(Broken::Stopped),
                () = sleep_until(deadline) => return Err(Broken::Deadline),
            }
        }
        upto = upto.saturating_add(u64::try_from(frame.len()).unwrap_or(u64::MAX));
        progress(call, call.budget.before_frame(now(), status, upto)).await.map_err(Broken::Journal)?;
        copy.add(call, &frame);
        let (written, seen) = oneshot::channel();
        // Whoever takes nothing any more is found out in the next round.
        let _ = pieces.give(Piece::Data(frame, written));
        last = Some(seen);
    }
}

/// Ends a call that broke before its head left.
pub(crate) async fn fail_host(call: &OpenCall, error: HostError, timings: &Timings, head: Head) {
    fail(call, Broken::Failed(error), timings, head).await;
}

/// Ends a call whose caller left, or that the server cut, before there was anything to deliver.
pub(crate) async fn fail_stopped(call: &OpenCall, head: Head) {
    fail(call, Broken::Stopped, &Timings::default(), head).await;
}

/// Boxed, like all that only some calls come to: no other keeps room for it.
fn fail<'a>(call: &'a OpenCall, broken: Broken, timings: &'a Timings, head: Head) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        if head.is_closed() {
            // Nobody to answer. What was used up to the stop is owed, whatever the host made of it.
            if let Some(mut ending) = call.end(0, Outcome::ClientLeft, timings) {
                call.keep(&mut ending, &HeaderMap::new(), None);
                call.write_in_the_end(ending).await;
            }
            return;
        }
        let cause = match &broken {
            // A guest that gives up because a limit of ours was in its way.
            Broken::Failed(HostError::Guest(_)) => call.known_cause(timings),
            _ => None,
        };
        refuse(call, cause.unwrap_or_else(|| broken.failure(call)), timings, head).await;
    })
}

/// Ends a call with an error envelope: settled first, then answered.
pub(crate) fn refuse<'a>(call: &'a OpenCall, failure: Failure, timings: &'a Timings, head: Head) -> BoxFuture<'a, ()> {
    Box::pin(refused(call, failure, timings, head))
}

async fn refused(call: &OpenCall, mut failure: Failure, timings: &Timings, head: Head) {
    tell(call, &failure);
    let mut bill = Bill::default();
    let mut response = failure.response(&bill);
    match failure.outcome.and_then(|outcome| call.end(failure.status(), outcome, timings)) {
        None => call.counters.turned_away(),
        Some(mut ending) => {
            bill = ending.bill();
            response = failure.response(&bill);
            call.keep(&mut ending, response.headers(), Some(response.body()));
            if let Err((_, error)) = call.write(ending).await {
                bill = Bill::default();
                failure = error.into();
                response = failure.response(&bill);
                tell(call, &failure);
                call.counters.turned_away();
            }
        }
    }
    call.counters.failed(failure.code());
    let mut response = response.map(full);
    call.mark(response.headers_mut(), timings);
    bill.mark(response.headers_mut(), &call.currency);
    let _ = head.send(response);
}

/// Tells the logs what the caller is not told.
fn tell(call: &OpenCall, failure: &Failure) {
    failure.log();
    if let Some(text) = &failure.for_developer {
        call.log.host(text);
    }
}

/// The answer was whole, but the handler failed after it: no matter to the caller.
fn tell_developer(call: &OpenCall, run: &Run) {
    if let Some(RunEnd { result: Err(error), .. }) = &run.ended {
        call.log.host(&format!("after its answer had ended: {error}"));
    }
}

fn joined(frames: &mut VecDeque<Bytes>) -> Bytes {
    if frames.len() <= 1 {
        return frames.pop_front().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    frames.iter().for_each(|frame| all.extend_from_slice(frame));
    all.freeze()
}

/// A guest's trailers without names that are ours.
fn guest_trailers(trailers: HeaderMap) -> HeaderMap {
    let ours = |name: &str| {
        name.starts_with("x-mayfly-")
            || name.starts_with("x-ratelimit-")
            || name.starts_with("ratelimit")
            || name.starts_with("retry-after")
            || matches!(name, "x-request-id" | "server-timing" | "set-cookie" | "x-should-retry")
    };
    let mut kept = HeaderMap::new();
    for (name, value) in &trailers {
        if !ours(name.as_str()) {
            kept.append(name, value.clone());
        }
    }
    kept
}

fn trailers(call: &OpenCall, bill: &Bill, from_guest: Option<HeaderMap>) -> HeaderMap {
    let mut trailers = from_guest.map(guest_trailers).unwrap_or_default();
    bill.mark(&mut trailers, &call.currency);
    trailers
}

#[cfg(test)]
mod tests;
