//! Calls that end in our own answer instead of the guest's: which error, what the caller reads, how the ledger sees it.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response};
use mayfly_api::{ErrorCode, ErrorEnvelope, headers};
use mayfly_host::{CodeError, GuestFault, HostError};
use mayfly_ledger::{JournalError, Outcome};
use mayfly_types::{Line, Meter, Refusal, RefusalKind};

use crate::body::{Body, full};
use crate::door::TurnedAway;

/// Why a caller gets an error envelope.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    code: ErrorCode,
    message: String,
    /// How the call ends; none if it never opened, so that there is no row.
    pub(crate) outcome: Option<Outcome>,
    retry_after_s: Option<u64>,
    /// Whether the same call cannot succeed later, beyond what the code says.
    hopeless: bool,
    /// For the host's log only.
    detail: Option<String>,
    /// For the deployment's log.
    pub(crate) for_developer: Option<String>,
}

impl Failure {
    fn new(code: ErrorCode, message: impl Into<String>, outcome: Option<Outcome>) -> Self {
        Self {
            code,
            message: message.into(),
            outcome,
            retry_after_s: None,
            hopeless: false,
            detail: None,
            for_developer: None,
        }
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
        Self { retry_after_s: Some(1), ..failure }
    }

    /// The deadline passed.
    pub(crate) fn deadline(limit_ms: u64) -> Self {
        let message = format!("the call did not answer within this deployment's deadline_ms_max = {limit_ms}");
        Self::new(ErrorCode::DeadlineExceeded, message, Some(Outcome::Deadline))
    }

    /// Our own fault; `detail` is for the log.
    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        let failure = Self::new(ErrorCode::Internal, "the host failed to run this call", Some(Outcome::HostFault));
        Self { detail: Some(detail.into()), ..failure }
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

    /// The answer. `used`: what the call owes.
    pub(crate) fn response(&self, used: &[Line]) -> Response<Body> {
        let envelope = ErrorEnvelope::new(self.code, self.message.as_str());
        let json = serde_json::to_vec(&envelope).expect("strings are always JSON");
        let mut response = Response::new(full(Bytes::from(json)));
        *response.status_mut() =
            http::StatusCode::from_u16(self.code.status()).expect("the table has three-digit statuses only");
        let head = response.headers_mut();
        head.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            head.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if !self.code.is_retryable() || self.hopeless || is_charged(used) {
            head.insert(HeaderName::from_static(headers::SHOULD_RETRY), HeaderValue::from_static("false"));
        }
        response
    }
}

/// Whether any of `used` can have a price. Times are recorded and not priced on shared deployments.
fn is_charged(used: &[Line]) -> bool {
    used.iter().any(|line| !matches!(line.meter, Meter::InferenceMicros | Meter::GuestCpuMicros))
}

impl From<TurnedAway> for Failure {
    fn from(away: TurnedAway) -> Self {
        let code = match away {
            TurnedAway::Node(_) | TurnedAway::Stopping => ErrorCode::Overloaded,
            TurnedAway::Deployment(_) => ErrorCode::RateLimited,
        };
        Self { retry_after_s: Some(1), ..Self::new(code, away.to_string(), None) }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Busy { .. } => {
                let message = format!("{error}; retry in a moment");
                Self { retry_after_s: Some(1), ..Self::new(ErrorCode::Overloaded, message, None) }
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
            RefusalKind::Rate | RefusalKind::NeverFits | RefusalKind::Closed => ErrorCode::RateLimited,
        };
        Self {
            retry_after_s: refusal.retry_after_ms.map(|ms| ms.div_ceil(1000)),
            hopeless: refusal.kind == RefusalKind::NeverFits,
            ..Self::new(code, refusal.message, Some(Outcome::Refused))
        }
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
        Self { retry_after_s: Some(1), detail: Some(detail), ..failure }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn answer(failure: impl Into<Failure>, used: &[Line]) -> (u16, String, Option<String>, Option<String>) {
        let response = failure.into().response(used);
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (wait, retry) = (header("retry-after"), header(headers::SHOULD_RETRY));
        let status = response.status().as_u16();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let envelope: ErrorEnvelope = serde_json::from_slice(&text).unwrap();
        assert!(!envelope.error.code.is_empty());
        (status, envelope.error.message, wait, retry)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[tokio::test]
    async fn each_failure_has_its_status_and_its_retry() {
        let (status, message, wait, retry) = answer(HostError::Busy { limit: 7 }, &[]).await;
        assert_eq!((status, wait, retry), (503, some("1"), None));
        assert!(message.contains('7'), "{message}");
        let (status, _, _, retry) = answer(HostError::Deadline { limit_ms: 30 }, &[]).await;
        assert_eq!((status, retry), (504, some("false")));
        let (status, ..) = answer(TurnedAway::Deployment(3), &[]).await;
        assert_eq!(status, 429);
        let refusal =
            |kind, retry_after_ms| Refusal { kind, message: "tokens per minute: 10".to_owned(), retry_after_ms };
        let (status, message, wait, retry) = answer(refusal(RefusalKind::Rate, Some(1_001)), &[]).await;
        assert_eq!((status, message.as_str(), wait, retry), (429, "tokens per minute: 10", some("2"), None));
        assert_eq!(answer(refusal(RefusalKind::Money, None), &[]).await.0, 402);
        assert_eq!(answer(refusal(RefusalKind::NeverFits, None), &[]).await.3, some("false"));
    }

    #[tokio::test]
    async fn a_retry_that_would_be_charged_again_is_discouraged() {
        let line = |meter| Line { meter, model: None, quantity: 1 };
        let failure = Failure::internal("x");
        assert_eq!(answer(failure.clone(), &[line(Meter::GuestCpuMicros)]).await.3, None);
        assert_eq!(answer(failure, &[line(Meter::InputTokens)]).await.3, some("false"));
    }

    #[tokio::test]
    async fn callers_read_no_details_of_guest_or_host() {
        let trap = GuestFault::Trap("wasm backtrace: secret_fn".to_owned());
        let failure = Failure::from(HostError::from(trap));
        assert!(failure.for_developer.as_ref().unwrap().contains("secret_fn"));
        let (status, message, ..) = answer(failure, &[]).await;
        assert_eq!(status, 502);
        assert!(!message.contains("secret"), "{message}");
        let (status, message, ..) = answer(HostError::Host { detail: "/secret/path".to_owned() }, &[]).await;
        assert_eq!(status, 500);
        assert!(!message.contains("secret"), "{message}");
        let failed = JournalError::Failed { detail: "/secret/path".to_owned() };
        let (status, message, ..) = answer(failed, &[]).await;
        assert_eq!(status, 507);
        assert!(!message.contains("secret"), "{message}");
    }
}
