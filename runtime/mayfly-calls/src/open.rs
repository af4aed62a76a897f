//! One open call: its account, its row in the ledger, and what every answer of it carries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::HeaderMap;
use http::{HeaderName, HeaderValue};
use mayfly_api::headers;
use mayfly_host::Timings;
use mayfly_ledger::{Append, Journal, JournalError, Outcome, Row};
use mayfly_types::{Line, Meter, RequestId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::{CallBudget, Ending};
use crate::failure::Failure;
use crate::idempotency::Once;
use crate::logbook::CallLog;
use crate::standing::mark_standing;
use crate::status::Counters;
use crate::timing::Before;
use crate::{Config, EndedCall, Observer, Seen, telemetry};

const REQUEST_ID: HeaderName = HeaderName::from_static(headers::REQUEST_ID);
const COLD: HeaderName = HeaderName::from_static(headers::COLD);
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Headers that are added to a whole answer, about: those of [`OpenCall::mark`], of limits among them, and of the bill.
pub(crate) const HEADERS_OF_OURS: usize = 18;

/// An end whose row could not be written is tried again this often, with pauses that double.
const RETRIES_MAX: u32 = 8;
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Everything about one open call that outlives its instance.
#[derive(Debug)]
pub(crate) struct OpenCall {
    pub(crate) id: RequestId,
    pub(crate) budget: Arc<CallBudget>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) config: Arc<Config>,
    pub(crate) log: Arc<CallLog>,
    /// Where work that outlives the call is tracked.
    pub(crate) tasks: TaskTracker,
    /// Ends this call's work.
    pub(crate) cancel: CancellationToken,
    /// The server cuts its connections; `cancel` follows it.
    pub(crate) stop: CancellationToken,
    pub(crate) received: Instant,
    pub(crate) deadline: Instant,
    pub(crate) deadline_ms: u64,
    pub(crate) request_body_bytes_max: u64,
    /// The request body was longer than that.
    pub(crate) too_large: Arc<AtomicBool>,
    /// The answer has no body (HEAD): there is nothing to stream.
    pub(crate) bodiless: bool,
    /// The caller takes trailers.
    pub(crate) trailers: bool,
    /// The request runs once only; its answer is kept.
    pub(crate) once: Option<Arc<Once>>,
    /// It is priced and leaves no row.
    pub(crate) dry_run: bool,
    /// What costs are told in.
    pub(crate) currency: HeaderValue,
    pub(crate) before: Before,
    /// What its run took; there once it has ended.
    pub(crate) ran: OnceLock<Timings>,
    /// Who is told of the end.
    pub(crate) watched: Option<Watched>,
}

/// Whoever watches a call, and what it is told of its head.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) seen: Seen,
}

/// Microseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl OpenCall {
    /// The end of the call; none if it has ended, or is a dry run. Guest CPU is counted here: nobody holds it
    /// beforehand.
    pub(crate) fn end(&self, status: u16, outcome: Outcome, timings: &Timings) -> Option<Ending> {
        self.budget.close();
        if self.dry_run {
            return None;
        }
        let quantity = u64::try_from(timings.guest_cpu.as_micros()).unwrap_or(u64::MAX);
        self.budget.record(&[Line { meter: Meter::GuestCpuMicros, model: None, quantity }]);
        let (cold, woke) = (self.before.cold(timings).as_str(), self.before.woke(timings));
        let mut ending = self.budget.end(now(), status, outcome, cold, woke)?;
        self.counters.ran(timings, self.received);
        let _ = self.ran.set(*timings);
        ending.hold_back(self.once.clone());
        Some(ending)
    }

    /// Keeps the answer with the end of its call, if the caller asked for that and a second run would be charged again
    /// or answer otherwise. `body`: none if it was cut off; one that is too long is not kept either, only that it was.
    pub(crate) fn keep(&self, ending: &mut Ending, head: &HeaderMap, body: Option<&Bytes>) {
        let Some(once) = &self.once else { return };
        if ending.row.outcome == Some(Outcome::Completed) || ending.bill().is_charged() {
            let fits = |body: &&Bytes| self.keeps(body.len());
            ending.answer = Some(once.keep(self.id, ending.row.status, head, body.filter(fits)));
        }
    }

    /// Whether a body this long is kept.
    pub(crate) fn keeps(&self, length: usize) -> bool {
        let most = self.config.idempotent_answer_bytes_max;
        self.once.is_some() && u64::try_from(length).is_ok_and(|length| length <= most)
    }

    /// Makes the end durable. On failure it comes back: nothing is written.
    pub(crate) fn write(&self, ending: Ending) -> impl Future<Output = Result<(), (Box<Ending>, JournalError)>> {
        let append = Append { rows: vec![ending.row.clone()], answer: ending.answer.clone() };
        let asked = Instant::now();
        let writing = self.journal.append(append);
        // An `async fn` would hold the end twice.
        async move {
            match writing.await {
                Ok(at) => {
                    self.counters.committed(asked.elapsed());
                    self.tell(&ending.row);
                    ending.recorded(at);
                    Ok(())
                }
                Err(error) => Err((Box::new(ending), error)),
            }
        }
    }

    /// Tells everybody who watches that the call has ended.
    fn tell(&self, row: &Row) {
        let took = self.received.elapsed();
        self.counters.ended(row, took);
        telemetry::ended(row);
        if let Some(Watched { observer, seen }) = &self.watched {
            let ran = self.ran.get().copied().unwrap_or_default();
            let first_token = ran.first_token.map(|at| at.saturating_duration_since(self.received));
            let finishes: Vec<_> = ran.finishes.words().collect();
            observer.ended(&EndedCall { row, took, first_token, finishes: &finishes, seen });
        }
    }

    /// Makes the end durable when nobody waits for it: a failing store is asked again for a while.
    pub(crate) async fn write_in_the_end(&self, ending: Ending) {
        if let Err((ending, error)) = self.write(ending).await {
            self.retry(*ending, error);
        }
    }

    /// Asks a failing store again, beside the call; until it has answered, what the call took of its limits stays
    /// taken. Gives up after a while: the next start ends what stayed open.
    pub(crate) fn retry(&self, ending: Ending, error: JournalError) {
        Failure::from(error).log();
        self.tell(&ending.row);
        let (journal, id) = (self.journal.clone(), self.id);
        self.tasks.spawn(async move {
            let mut pause = RETRY_PAUSE;
            for _ in 0..RETRIES_MAX {
                tokio::time::sleep(pause).await;
                pause *= 2;
                let append = Append { rows: vec![ending.row.clone()], answer: ending.answer.clone() };
                if let Ok(at) = journal.append(append).await {
                    ending.recorded(at);
                    return;
                }
            }
            tracing::error!(%id, "the end of a call could not be recorded");
        });
    }

    /// What takes the place of the guest's answer with `status`, if anything does.
    pub(crate) fn overrides(&self, status: http::StatusCode, timings: &Timings) -> Option<Failure> {
        if status.as_u16() < 400 {
            return None;
        }
        let late = || timings.generation_out_of_time.then(|| Failure::deadline(self.deadline_ms));
        self.known_cause(timings).or_else(late)
    }

    /// Why a call most likely failed, as far as limits of ours, or the process of its tenant's models, are the cause.
    pub(crate) fn known_cause(&self, timings: &Timings) -> Option<Failure> {
        if let Some(refusal) = self.budget.refusal() {
            return Some(refusal.into());
        }
        if self.too_large.load(Ordering::Relaxed) {
            return Some(Failure::too_large(self.request_body_bytes_max, Some(Outcome::Refused)));
        }
        timings.models_back.map(|back| Failure::worker_crashed(back.saturating_duration_since(Instant::now())))
    }

    /// What every answer carries.
    pub(crate) fn mark(&self, head: &mut HeaderMap, timings: &Timings) {
        mark_id(head, self.id);
        let cold = self.before.cold(timings).as_str();
        head.insert(COLD, HeaderValue::from_static(cold));
        head.insert(SERVER_TIMING, self.before.server_timing(timings));
        if let Some(standing) = self.budget.standing() {
            mark_standing(head, &standing);
        }
    }

    /// What costs are told in.
    pub(crate) fn currency_text(&self) -> &str {
        self.currency.to_str().unwrap_or_default()
    }
}

pub(crate) fn mark_id(head: &mut HeaderMap, id: RequestId) {
    let id = HeaderValue::try_from(id.to_string()).expect("an id is hexadecimal digits");
    head.insert(REQUEST_ID, id);
}
