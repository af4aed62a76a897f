//! One open call: its account, its row in the ledger, and what every answer of it carries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::header::HeaderMap;
use http::{HeaderName, HeaderValue};
use mayfly_api::headers;
use mayfly_host::Timings;
use mayfly_ledger::{Journal, JournalError, Outcome, Row};
use mayfly_types::{Line, Meter, RequestId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::budget::CallBudget;
use crate::failure::Failure;
use crate::logbook::CallLog;
use crate::status::Counters;
use crate::telemetry;
use crate::timing::Before;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

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
    pub(crate) before: Before,
}

/// Microseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl OpenCall {
    /// The row that ends the call; none if it has ended. Guest CPU is counted here: nobody holds it beforehand.
    pub(crate) fn end(&self, status: u16, outcome: Outcome, timings: &Timings) -> Option<Row> {
        let quantity = u64::try_from(timings.guest_cpu.as_micros()).unwrap_or(u64::MAX);
        self.budget.close();
        self.budget.record(&[Line { meter: Meter::GuestCpuMicros, model: None, quantity }]);
        self.budget.end(now(), status, outcome, self.before.cold(timings).as_str())
    }

    /// Makes the end durable. On failure the row comes back: nothing is written.
    pub(crate) async fn write(&self, row: Row) -> Result<(), (Box<Row>, JournalError)> {
        match self.journal.append(vec![row.clone()]).await {
            Ok(()) => {
                self.counters.ended(&row, self.received.elapsed());
                telemetry::ended(&row);
                Ok(())
            }
            Err(error) => Err((Box::new(row), error)),
        }
    }

    /// Makes the end durable when nobody waits for it: a failing store is asked again for a while.
    pub(crate) async fn write_in_the_end(&self, row: Row) {
        if let Err((row, error)) = self.write(row).await {
            self.retry(*row, error);
        }
    }

    /// Asks a failing store again, beside the call. Gives up after a while: the next start ends what stayed open.
    pub(crate) fn retry(&self, row: Row, error: JournalError) {
        Failure::from(error).log();
        self.counters.ended(&row, self.received.elapsed());
        telemetry::ended(&row);
        let (journal, id) = (self.journal.clone(), self.id);
        self.tasks.spawn(async move {
            let mut pause = RETRY_PAUSE;
            for _ in 0..RETRIES_MAX {
                tokio::time::sleep(pause).await;
                pause *= 2;
                if journal.append(vec![row.clone()]).await.is_ok() {
                    return;
                }
            }
            tracing::error!(%id, "the end of a call could not be recorded");
        });
    }

    /// What takes the place of the guest's answer with `status`, if anything does.
    pub(crate) fn overrides(&self, status: http::StatusCode) -> Option<Failure> {
        (status.as_u16() >= 400).then(|| self.known_cause()).flatten()
    }

    /// Why a call most likely failed, as far as limits of ours are the cause.
    pub(crate) fn known_cause(&self) -> Option<Failure> {
        if let Some(refusal) = self.budget.refusal() {
            return Some(refusal.into());
        }
        let too_large = self.too_large.load(Ordering::Relaxed);
        too_large.then(|| Failure::too_large(self.request_body_bytes_max, Some(Outcome::Refused)))
    }

    /// What every answer carries.
    pub(crate) fn mark(&self, head: &mut HeaderMap, timings: &Timings) {
        mark_id(head, self.id);
        let cold = self.before.cold(timings).as_str();
        head.insert(HeaderName::from_static(headers::COLD), HeaderValue::from_static(cold));
        head.insert(SERVER_TIMING, self.before.server_timing(timings));
    }
}

pub(crate) fn mark_id(head: &mut HeaderMap, id: RequestId) {
    let id = HeaderValue::try_from(id.to_string()).expect("an id is hexadecimal digits");
    head.insert(HeaderName::from_static(headers::REQUEST_ID), id);
}

/// Names of the trailers a streamed answer can end with.
pub(crate) const USAGE_TRAILERS: &str = "x-mayfly-usage, x-mayfly-usage-input-tokens, x-mayfly-usage-output-tokens";

/// Usage as headers or trailers: all meters, models together; tokens apart if there were any.
pub(crate) fn mark_usage(head: &mut HeaderMap, used: &[Line]) {
    let mut sums: BTreeMap<Meter, u64> = BTreeMap::new();
    for line in used {
        let sum = sums.entry(line.meter).or_default();
        *sum = sum.saturating_add(line.quantity);
    }
    let json = serde_json::to_string(&sums).expect("words and integers are always JSON");
    let json = HeaderValue::try_from(json).expect("JSON of ASCII words and digits is a header value");
    head.insert(HeaderName::from_static(headers::USAGE), json);
    let of = |meter| sums.get(&meter).copied();
    let input = of(Meter::InputTokens).unwrap_or(0).saturating_add(of(Meter::CachedInputTokens).unwrap_or(0));
    let output = of(Meter::OutputTokens).unwrap_or(0);
    if input > 0 || output > 0 {
        head.insert(HeaderName::from_static(headers::USAGE_INPUT_TOKENS), HeaderValue::from(input));
        head.insert(HeaderName::from_static(headers::USAGE_OUTPUT_TOKENS), HeaderValue::from(output));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_summed_over_models() {
        let model = |n| Some(mayfly_types::ModelId::from_bytes([n; 16]));
        let line = |meter, n, quantity| Line { meter, model: model(n), quantity };
        let mut head = HeaderMap::new();
        mark_usage(
            &mut head,
            &[line(Meter::InputTokens, 1, 8), line(Meter::InputTokens, 2, 3), line(Meter::Rows, 1, 1)],
        );
        assert_eq!(head[headers::USAGE], r#"{"input_tokens":11,"rows":1}"#);
        assert_eq!(
            (&head[headers::USAGE_INPUT_TOKENS], &head[headers::USAGE_OUTPUT_TOKENS]),
            (&"11".parse().expect("digits"), &"0".parse().expect("digits"))
        );
        let mut head = HeaderMap::new();
        mark_usage(&mut head, &[]);
        assert_eq!((head.len(), &head[headers::USAGE]), (1, &"{}".parse().expect("ASCII")));
    }
}
