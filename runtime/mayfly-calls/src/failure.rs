//! Calls that end in our own answer instead of the guest's: which error, what the caller reads, how the ledger sees it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response};
use mayfly_api::{ErrorCode, ErrorEnvelope, headers};
use mayfly_host::{CodeError, GuestFault, HostError};
use mayfly_ledger::{JournalError, Outcome};
use mayfly_types::{Refusal, RefusalKind};

use crate::admission::Denied;
use crate::bill::Bill;
use crate::door::TurnedAway;
use crate::held::NotHeld;
use crate::idempotency::Repeated;

/// Why a caller gets an error envelope.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    code: ErrorCode,
    message: String,
    /// How the call ends; none if it never opened, so that there is no row.
    pub(crate) outcome: Option<Outcome>,
    retry: Option<Retry>,
    /// For the host's log only.
    detail: Option<String>,
    /// For the deployment's log.
    pub(crate) for_developer: Option<String>,
}

/// When a retry can succeed.
#[derive(Debug, Clone, Copy)]
enum Retry {
    /// Exactly after so many milliseconds.
    Exact(u64),
    /// When others have ended, which nobody can know: perhaps after so many milliseconds, as calls went lately.
    Estimate(u64),
    /// The same, and nothing is known of calls.
    Soon,
}

/// What is worth trying again soon.
const SOON: Option<Retry> = Some(Retry::Soon);

impl Failure {
    fn new(code: ErrorCode, message: impl Into<String>, outcome: Option<Outcome>) -> Self {
        Self { code, message: message.into(), outcome, retry: None, detail: None, for_developer: None }
    }

    /// The request body is longer than its limit. `outcome` is none if that was plain from the head.
    pub(crate) fn too_large(limit: u64, outcome: Option<Outcome>) -> Self {
        let message = format!("the request body is longer than this deployment's request_body_bytes_max = {limit}");
        Self::new(ErrorCode::TooLarge, message, outcome)
    }

    /// The server cuts its calls.
    pub(crate) fn stopping() -> Self {
        let message = "the server is stopping and cut this call; retry in a moment";
        let failure = Self::new(ErrorCode::Overloaded, message, Some(Outcome::HostFault));
        Self { retry: SOON, ..failure }
    }

    /// The deadline passed.
    pub(crate) fn deadline(limit_ms: u64) -> Self {
        let message = format!("the call did not answer within this deployment's deadline_ms_max = {limit_ms}");
        Self::new(ErrorCode::DeadlineExceeded, message, Some(Outcome::Deadline))
    }

    /// The process that runs the models this tenant brought has failed; it can be started again in `rest`.
    pub(crate) fn worker_crashed(rest: Duration) -> Self {
        let ms = u64::try_from(rest.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let message = format!(
            "the process that runs this tenant's own models has failed, by a model's fault as a rule; it can be started \
             again in {ms} ms"
        );
        let failure = Self::new(ErrorCode::ModelWorkerCrashed, message, Some(Outcome::GuestFault));
        Self { retry: Some(Retry::Exact(ms)), ..failure }
    }

    /// Our own fault; `detail` is for the log.
    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        let failure = Self::new(ErrorCode::Internal, "the host failed to run this call", Some(Outcome::HostFault));
        Self { detail: Some(detail.into()), ..failure }
    }

    /// The same failure of a call that never opened: there is no row.
    pub(crate) fn at_the_door(self) -> Self {
        Self { outcome: None, ..self }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    pub(crate) fn status(&self) -> u16 {
        self.code.status()
    }

    /// Tells the host's log what the caller is not told.
    pub(crate) fn log(&self) {
        if let Some(detail) = &self.detail {
            tracing::error!(code = self.code.as_str(), detail, "a call failed on the host");
        }
    }

    /// The answer. `bill`: what the call owes.
    pub(crate) fn response(&self, bill: &Bill) -> Response<Bytes> {
        let envelope = ErrorEnvelope::new(self.code, self.message.as_str());
        let json = serde_json::to_vec(&envelope).expect("strings are always JSON");
        let mut response = Response::new(Bytes::from(json));
        *response.status_mut() =
            http::StatusCode::from_u16(self.code.status()).expect("the table has three-digit statuses only");
        let head = response.headers_mut();
        head.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.retry {
            Some(Retry::Exact(ms)) => {
                head.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
                head.insert(HeaderName::from_static(headers::RETRY_AFTER_MS), HeaderValue::from(ms));
            }
            Some(Retry::Estimate(ms)) => {
                head.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
                head.insert(HeaderName::from_static(headers::RETRY_AFTER_MS), HeaderValue::from(ms));
                head.insert(HeaderName::from_static(headers::RETRY_ESTIMATE), HeaderValue::from_static("true"));
            }
            Some(Retry::Soon) => {
                head.insert(RETRY_AFTER, HeaderValue::from(1));
                head.insert(HeaderName::from_static(headers::RETRY_ESTIMATE), HeaderValue::from_static("true"));
            }
            None => {}
        }
        if !self.code.is_retryable() || bill.is_charged() {
            head.insert(HeaderName::from_static(headers::SHOULD_RETRY), HeaderValue::from_static("false"));
        }
        response
    }
}

impl From<TurnedAway> for Failure {
    fn from(away: TurnedAway) -> Self {
        let (code, retry) = match away {
            TurnedAway::Line { retry_ms: Some(ms), .. } => (ErrorCode::RateLimited, Some(Retry::Estimate(ms))),
            TurnedAway::Line { retry_ms: None, .. } => (ErrorCode::RateLimited, SOON),
            TurnedAway::TooLate { wait_ms } => (ErrorCode::RateLimited, Some(Retry::Estimate(wait_ms))),
            TurnedAway::Node(_) | TurnedAway::Share { .. } | TurnedAway::Waited | TurnedAway::Stopping => {
                (ErrorCode::Overloaded, SOON)
            }
        };
        Self { retry, ..Self::new(code, away.to_string(), None) }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let (code, message) = match denied {
            Denied::Refused(refusal) => return Self::from(refusal).at_the_door(),
            Denied::Ledger(error) => return error.into(),
            Denied::Late => (ErrorCode::Overloaded, denied.to_string()),
        };
        Self { retry: SOON, ..Self::new(code, message, None) }
    }
}

impl From<NotHeld> for Failure {
    fn from(error: NotHeld) -> Self {
        let message = error.to_string();
        match error {
            NotHeld::TooLarge { limit } => {
                let message = format!(
                    "with an `idempotency-key` the request body may have idempotent_request_bytes_max = {limit} bytes"
                );
                Self::new(ErrorCode::TooLarge, message, None)
            }
            NotHeld::NoRoom => Self { retry: SOON, ..Self::new(ErrorCode::Overloaded, message, None) },
            NotHeld::Incomplete => Self::new(ErrorCode::InvalidRequest, message, None),
        }
    }
}

impl From<Repeated> for Failure {
    fn from(repeated: Repeated) -> Self {
        let (code, retry) = match repeated {
            Repeated::InProgress => (ErrorCode::IdempotencyInProgress, SOON),
            Repeated::Full(_) => (ErrorCode::Overloaded, SOON),
            Repeated::Mismatch => (ErrorCode::IdempotencyMismatch, None),
            Repeated::NotKept(_) => (ErrorCode::IdempotencyNotKept, None),
        };
        Self { retry, ..Self::new(code, repeated.to_string(), None) }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Busy { .. } => {
                let message = format!("{error}; retry in a moment");
                Self { retry: SOON, ..Self::new(ErrorCode::Overloaded, message, None) }
            }
            HostError::Guest(fault) => Self::guest(&fault),
            HostError::RequestTooLarge { part, .. } => {
                let code = if part == "head" { ErrorCode::HeadersTooLarge } else { ErrorCode::TooLarge };
                Self::new(code, error.to_string(), None)
            }
            HostError::Deadline { limit_ms } => Self::deadline(limit_ms),
            // The caller's leaving is looked at before: what is left is the server's stop.
            HostError::Cancelled => Self::stopping(),
            HostError::Host { detail } => Self::internal(detail),
        }
    }
}

impl Failure {
    /// The kind of fault is for the caller; what the guest had to say is for its developer.
    fn guest(fault: &GuestFault) -> Self {
        let message = match fault {
            GuestFault::Trap(_) => "the handler trapped".to_owned(),
            GuestFault::BadResponse(_) => "the handler's response was refused".to_owned(),
            told @ (GuestFault::CpuLimit { .. }
            | GuestFault::MemoryLimit { .. }
            | GuestFault::Exit
            | GuestFault::NoResponse
            | GuestFault::Limit(_)) => told.to_string(),
        };
        let message = format!("{message}; the deployment's log says more");
        let failure = Self::new(ErrorCode::HandlerFailed, message, Some(Outcome::GuestFault));
        Self { for_developer: Some(fault.to_string()), ..failure }
    }
}

impl From<CodeError> for Failure {
    fn from(error: CodeError) -> Self {
        let detail = match &error {
            CodeError::Host { detail } => detail.clone(),
            CodeError::Missing | CodeError::Damaged => error.to_string(),
        };
        Self::internal(detail)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind {
            RefusalKind::Money => ErrorCode::InsufficientQuota,
            RefusalKind::NeverFits => ErrorCode::RequestTooLargeForLimit,
            RefusalKind::Rate | RefusalKind::Closed => ErrorCode::RateLimited,
        };
        let retry = match (code, refusal.retry_after_ms) {
            (ErrorCode::RateLimited, Some(ms)) => Some(Retry::Exact(ms)),
            // Concurrency: there is room when a call ends.
            (ErrorCode::RateLimited, None) => SOON,
            _ => None,
        };
        Self { retry, ..Self::new(code, refusal.message, Some(Outcome::Refused)) }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let detail = match &error {
            JournalError::Failed { detail } => detail.clone(),
            other => other.to_string(),
        };
        let message =
            "the host could not record this call, so nothing was delivered and nothing is owed; retry in a moment";
        let failure = Self::new(ErrorCode::StorageUnavailable, message, None);
        Self { retry: SOON, detail: Some(detail), ..failure }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use mayfly_ledger::RowLine;
    use mayfly_types::Meter;

    use super::*;

    /// Status, code and message, and the headers that tell of retries.
    #[derive(Debug, PartialEq, Eq)]
    struct Told {
        status: u16,
        code: String,
        message: String,
        after: Option<String>,
        after_ms: Option<String>,
        estimate: bool,
        hopeless: bool,
    }

    fn told(failure: impl Into<Failure>, bill: &[RowLine]) -> Told {
        let response = failure.into().response(&Bill(bill.to_vec()));
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let envelope: ErrorEnvelope = serde_json::from_slice(response.body()).unwrap();
        Told {
            status: response.status().as_u16(),
            code: envelope.error.code,
            message: envelope.error.message,
            after: header("retry-after"),
            after_ms: header("retry-after-ms"),
            estimate: header("x-mayfly-retry-estimate").as_deref() == Some("true"),
            hopeless: header("x-should-retry").as_deref() == Some("false"),
        }
    }

    /// Status, code, `retry-after`, `retry-after-ms`, whether it is an estimate, and whether a retry is discouraged.
    #[track_caller]
    fn check(failure: impl Into<Failure>, expect: (u16, &str, Option<&str>, Option<&str>, bool, bool)) {
        let Told { status, code, after, after_ms, estimate, hopeless, .. } = told(failure, &[]);
        assert_eq!((status, code.as_str(), after.as_deref(), after_ms.as_deref(), estimate, hopeless), expect);
    }

    fn refusal(kind: RefusalKind, retry_after_ms: Option<u64>) -> Refusal {
        Refusal { kind, message: "tenant limit tokens_per_minute = 10".to_owned(), retry_after_ms }
    }

    #[test]
    fn each_refusal_has_its_status_and_its_retry() {
        let rate = refusal(RefusalKind::Rate, Some(1_001));
        check(rate.clone(), (429, "rate_limited", Some("2"), Some("1001"), false, false));
        assert_eq!(told(rate, &[]).message, "tenant limit tokens_per_minute = 10");
        check(refusal(RefusalKind::Rate, Some(0)), (429, "rate_limited", Some("0"), Some("0"), false, false));
        check(refusal(RefusalKind::Rate, None), (429, "rate_limited", Some("1"), None, true, false));
        check(refusal(RefusalKind::Money, None), (402, "insufficient_quota", None, None, false, true));
        let never = refusal(RefusalKind::NeverFits, None);
        check(never, (400, "request_too_large_for_limit", None, None, false, true));
    }

    #[test]
    fn who_is_turned_away_has_no_row() {
        check(TurnedAway::Node(3), (503, "overloaded", Some("1"), None, true, false));
        check(TurnedAway::Share { open: 3, calls_max: 4 }, (503, "overloaded", Some("1"), None, true, false));
        check(TurnedAway::Waited, (503, "overloaded", Some("1"), None, true, false));
        let line = |retry_ms| TurnedAway::Line { running_max: 1, waiting_max: 2, retry_ms };
        check(line(None), (429, "rate_limited", Some("1"), None, true, false));
        check(line(Some(2_001)), (429, "rate_limited", Some("3"), Some("2001"), true, false));
        check(TurnedAway::TooLate { wait_ms: 7 }, (429, "rate_limited", Some("1"), Some("7"), true, false));
        check(Denied::Late, (503, "overloaded", Some("1"), None, true, false));
        let denied = Denied::from(refusal(RefusalKind::Rate, Some(5)));
        check(denied.clone(), (429, "rate_limited", Some("1"), Some("5"), false, false));
        assert_eq!(Failure::from(denied).outcome, None);
    }

    #[test]
    fn each_repeat_has_its_status() {
        check(Repeated::InProgress, (409, "idempotency_in_progress", Some("1"), None, true, false));
        check(Repeated::Mismatch, (422, "idempotency_mismatch", None, None, false, true));
        let first = mayfly_types::RequestId::new();
        check(Repeated::NotKept(first), (409, "idempotency_not_kept", None, None, false, true));
        assert!(told(Repeated::NotKept(first), &[]).message.contains(&first.to_string()));
        check(Repeated::Full(1), (503, "overloaded", Some("1"), None, true, false));
        check(NotHeld::TooLarge { limit: 4 }, (413, "too_large", None, None, false, true));
        check(NotHeld::NoRoom, (503, "overloaded", Some("1"), None, true, false));
        check(NotHeld::Incomplete, (400, "invalid_request", None, None, false, true));
    }

    #[test]
    fn each_failure_of_the_host_has_its_status() {
        let busy = told(HostError::Busy { limit: 7 }, &[]);
        assert_eq!((busy.status, busy.after.as_deref(), busy.hopeless), (503, Some("1"), false));
        assert!(busy.message.contains('7'), "{}", busy.message);
        check(HostError::Deadline { limit_ms: 30 }, (504, "deadline_exceeded", None, None, false, true));
    }

    #[test]
    fn a_retry_that_would_be_charged_again_is_discouraged() {
        let line =
            |meter, amount: Option<i64>| RowLine { meter, model: None, quantity: 1, price: amount.map(|_| 1), amount };
        let hopeless = |line: RowLine| told(refusal(RefusalKind::Rate, Some(5)), &[line]).hopeless;
        assert!(hopeless(line(Meter::InputTokens, None)), "tokens");
        assert!(hopeless(line(Meter::Rows, Some(7))), "a price");
        assert!(!hopeless(line(Meter::Rows, None)) && !hopeless(line(Meter::GuestCpuMicros, None)));
    }

    #[test]
    fn a_failed_process_has_its_own_code_and_a_true_time() {
        let failure = Failure::worker_crashed(Duration::from_micros(249_001));
        assert_eq!(failure.outcome, Some(Outcome::GuestFault));
        check(failure, (503, "model_worker_crashed", Some("1"), Some("250"), false, false));
    }

    #[test]
    fn callers_read_no_details_of_guest_or_host() {
        let trap = GuestFault::Trap("wasm backtrace: secret_fn".to_owned());
        let failure = Failure::from(HostError::from(trap));
        assert!(failure.for_developer.as_ref().unwrap().contains("secret_fn"));
        let check = |failure: Failure, status: u16| {
            let told = told(failure, &[]);
            assert_eq!(told.status, status);
            assert!(!told.message.contains("secret"), "{}", told.message);
        };
        check(failure, 502);
        check(HostError::Host { detail: "/secret/path".to_owned() }.into(), 500);
        let failed = JournalError::Failed { detail: "/secret/path".to_owned() };
        check(failed.clone().into(), 507);
        check(Denied::from(failed).into(), 507);
    }
}
