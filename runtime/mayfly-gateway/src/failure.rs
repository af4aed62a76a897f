//! The one place where errors become HTTP: OpenAI's envelope on the data plane, problem details on the control plane.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use mayfly_api::{ErrorCode, ErrorEnvelope, Problem, headers};
use mayfly_calls::Body;
use mayfly_ledger::JournalError;
use mayfly_registry::{ArtifactError, ControlError, RecordsError};
use mayfly_types::RequestId;

use crate::limits::full;

/// What a caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// The parameter at fault.
    pub(crate) param: Option<&'static str>,
    /// More members of problem details.
    pub(crate) details: Option<Box<serde_json::Map<String, serde_json::Value>>>,
    /// Methods that the path has.
    pub(crate) allow: Option<&'static str>,
    /// An estimate, in seconds.
    pub(crate) retry_after_s: Option<u32>,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, details: None, allow: None, retry_after_s: None }
    }

    /// The same with one more member of its problem details.
    pub(crate) fn with_detail(mut self, name: &str, value: serde_json::Value) -> Self {
        self.details.get_or_insert_default().insert(name.to_owned(), value);
        self
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no such {what}, or this key may not see it"))
    }

    pub(crate) fn unauthorized() -> Self {
        let how = "send a live key as `authorization: Bearer mf_…` (or `api-key`)";
        Self::new(ErrorCode::InvalidApiKey, format!("no key was sent, or it is not valid; {how}"))
    }

    pub(crate) fn scope(needed: &str) -> Self {
        Self::new(ErrorCode::InsufficientScope, format!("this key lacks the scope `{needed}`"))
    }

    pub(crate) fn method(allow: &'static str) -> Self {
        let message = format!("this path takes {allow}");
        Self { allow: Some(allow), ..Self::new(ErrorCode::MethodNotAllowed, message) }
    }

    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(1), ..Self::new(ErrorCode::Overloaded, message) }
    }

    /// Our own fault: `detail` goes to the log, not to the caller.
    pub(crate) fn internal(detail: &str) -> Self {
        tracing::error!(detail, "a request failed on the host");
        Self::new(ErrorCode::Internal, "the host failed; its log has the details under this request's id")
    }

    fn storage(detail: &str) -> Self {
        tracing::error!(detail, "the store failed");
        Self::new(ErrorCode::StorageUnavailable, "the host's store could not be used; try again later")
    }

    /// OpenAI's envelope.
    pub(crate) fn into_envelope(self) -> Response<Body> {
        let mut envelope = ErrorEnvelope::new(self.code, self.message.clone());
        envelope.error.param = self.param.map(str::to_owned);
        let body = serde_json::to_vec(&envelope).expect("strings always serialise");
        self.respond(body, "application/json")
    }

    /// Problem details.
    pub(crate) fn into_problem(self, id: RequestId) -> Response<Body> {
        let status = self.status();
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: self.message.clone(),
            code: self.code.as_str().to_owned(),
            request_id: Some(id.to_string()),
        };
        let mut problem = serde_json::to_value(&problem).expect("strings always serialise");
        if let (Some(details), Some(members)) = (&self.details, problem.as_object_mut()) {
            members.extend(details.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let body = problem.to_string().into_bytes();
        self.respond(body, "application/problem+json")
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).expect("the table of codes has valid statuses")
    }

    fn respond(self, body: Vec<u8>, content_type: &'static str) -> Response<Body> {
        let mut response = Response::new(full(Bytes::from(body)));
        *response.status_mut() = self.status();
        let map = response.headers_mut();
        map.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if !self.code.is_retryable() {
            map.insert(headers::SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if self.code == ErrorCode::InvalidApiKey {
            map.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = self.allow {
            map.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(seconds) = self.retry_after_s {
            map.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<RecordsError> for Failure {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::NotFound(what) => Self::not_found(what),
            RecordsError::Taken(text) => Self::new(ErrorCode::Conflict, text),
            RecordsError::Operators(text) => Self::new(ErrorCode::InsufficientScope, text),
            RecordsError::Unwritable(text) => Self::storage(&text),
            RecordsError::Failed { detail } => Self::storage(&detail),
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Invalid(text) => Self::new(ErrorCode::Rejected, text),
            ControlError::TooLarge(text) => Self::new(ErrorCode::TooLarge, text),
            ControlError::NotFound(what) => Self::not_found(what),
            ControlError::Conflict(text) => Self::new(ErrorCode::Conflict, text),
            ControlError::NotApproved(text) => Self::new(ErrorCode::NotApproved, text),
            ControlError::Operators(text) => Self::new(ErrorCode::InsufficientScope, text),
            ControlError::Storage(text) => Self::storage(&text),
            ControlError::Host { detail } => Self::internal(&detail),
        }
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::TooLarge { limit } => {
                Self::new(ErrorCode::TooLarge, format!("the upload is longer than {limit} bytes; nothing was stored"))
            }
            ArtifactError::Incomplete => Self::invalid("the upload ended early; nothing was stored"),
            ArtifactError::Missing(digest) => Self::new(ErrorCode::NotFound, format!("there is no artifact {digest}")),
            ArtifactError::Failed { detail, .. } => Self::storage(&detail),
        }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Failed { detail } => Self::storage(&detail),
            full @ JournalError::Full { .. } => Self::storage(&full.to_string()),
            many @ JournalError::TooMany { .. } => Self::new(ErrorCode::InvalidRequest, many.to_string()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn json(response: Response<Body>) -> serde_json::Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn an_envelope_is_openais() {
        let failure = Failure { param: Some("model"), ..Failure::invalid("`model` is missing") };
        let response = failure.into_envelope();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["x-should-retry"], "false");
        let expect = serde_json::json!({"error": {
            "message": "`model` is missing", "type": "invalid_request_error", "param": "model", "code": "invalid_request"}});
        assert_eq!(json(response).await, expect);
    }

    #[tokio::test]
    async fn a_problem_is_rfc_9457s() {
        let id = RequestId::new();
        let response = Failure::not_found("project").into_problem(id);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let expect = serde_json::json!({
            "type": "about:blank", "title": "Not Found", "status": 404, "code": "not_found",
            "detail": "there is no such project, or this key may not see it", "request_id": id.to_string()});
        assert_eq!(json(response).await, expect);
    }

    #[test]
    fn every_code_has_a_status_and_its_retry_word() {
        for code in ErrorCode::ALL {
            let response = Failure::new(*code, "x").into_envelope();
            assert_eq!(response.status().as_u16(), code.status());
            assert_eq!(response.headers().contains_key("x-should-retry"), !code.is_retryable(), "{code:?}");
        }
        assert_eq!(Failure::unauthorized().into_envelope().headers()["www-authenticate"], "Bearer");
        assert_eq!(Failure::method("GET, HEAD").into_envelope().headers()["allow"], "GET, HEAD");
        assert_eq!(Failure::busy("x").into_envelope().headers()["retry-after"], "1");
    }

    #[tokio::test]
    async fn details_of_the_host_stay_in_the_log() {
        let secret = "disk /var/lib/x is on fire";
        for failure in [
            Failure::from(RecordsError::Failed { detail: secret.to_owned() }),
            ControlError::Host { detail: secret.to_owned() }.into(),
            ArtifactError::Failed { detail: secret.to_owned(), unwritable: true }.into(),
            JournalError::Failed { detail: secret.to_owned() }.into(),
        ] {
            assert!(!json(failure.into_envelope()).await.to_string().contains("fire"));
        }
    }
}
