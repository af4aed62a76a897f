//! Every error a caller can get, in one table. The data plane wraps it in OpenAI's envelope, the control plane in
//! RFC 9457 problem details; the `code` is the same.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $kind:literal, retry: $retry:literal, charged: $charged:literal;)*) => {
        /// What went wrong, as a stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The `type` of OpenAI's envelope.
            pub const fn kind(self) -> &'static str {
                match self { $(Self::$name => $kind,)* }
            }

            /// Whether the same call may succeed later.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$name => $retry,)* }
            }

            /// Whether work may have been counted before it failed.
            pub const fn may_have_charged(self) -> bool {
                match self { $(Self::$name => $charged,)* }
            }
        }
    };
}

codes! {
    /// The request is malformed.
    InvalidRequest = "invalid_request", 400, "invalid_request_error", retry: false, charged: false;
    /// No key, or none that is live.
    InvalidApiKey = "invalid_api_key", 401, "authentication_error", retry: false, charged: false;
    /// The key lacks the scope.
    InsufficientScope = "insufficient_scope", 403, "permission_error", retry: false, charged: false;
    /// There is no such deployment, or the key may not see it.
    DeploymentNotFound = "deployment_not_found", 404, "invalid_request_error", retry: false, charged: false;
    /// There is no such thing, or the key may not see it.
    NotFound = "not_found", 404, "invalid_request_error", retry: false, charged: false;
    /// The path has another method.
    MethodNotAllowed = "method_not_allowed", 405, "invalid_request_error", retry: false, charged: false;
    /// It clashes with what is there.
    Conflict = "conflict", 409, "invalid_request_error", retry: false, charged: false;
    /// A call with the same `Idempotency-Key` is running.
    IdempotencyInProgress = "idempotency_in_progress", 409, "invalid_request_error", retry: true, charged: false;
    /// The `Idempotency-Key` was used for another request body.
    IdempotencyMismatch = "idempotency_mismatch", 422, "invalid_request_error", retry: false, charged: false;
    /// A call with the same `Idempotency-Key` has ended and was charged, but its answer was too long to be kept.
    IdempotencyNotKept = "idempotency_not_kept", 409, "invalid_request_error", retry: false, charged: false;
    /// The call asks for more than a limit could ever give.
    RequestTooLargeForLimit = "request_too_large_for_limit", 400, "invalid_request_error", retry: false, charged: true;
    /// The body, or a part of it, is larger than a limit.
    TooLarge = "too_large", 413, "invalid_request_error", retry: false, charged: false;
    /// Headers are larger than a limit.
    HeadersTooLarge = "headers_too_large", 431, "invalid_request_error", retry: false, charged: false;
    /// The uploaded component, model or manifest was refused.
    Rejected = "rejected", 422, "invalid_request_error", retry: false, charged: false;
    /// The operator has to approve first.
    NotApproved = "not_approved", 403, "permission_error", retry: false, charged: false;
    /// A rate or concurrency limit.
    RateLimited = "rate_limited", 429, "rate_limit_error", retry: true, charged: true;
    /// A cap on money or credit.
    InsufficientQuota = "insufficient_quota", 402, "insufficient_quota", retry: false, charged: true;
    /// The handler trapped or broke a limit.
    HandlerFailed = "handler_failed", 502, "handler_error", retry: false, charged: true;
    /// The deadline passed.
    DeadlineExceeded = "deadline_exceeded", 504, "timeout_error", retry: false, charged: true;
    /// A model could not be loaded or is not there.
    ModelUnavailable = "model_unavailable", 503, "server_error", retry: true, charged: false;
    /// The process that runs the models this tenant brought has failed.
    ModelWorkerCrashed = "model_worker_crashed", 503, "server_error", retry: true, charged: true;
    /// The host has no instance, queue place or memory free right now, or is stopping.
    Overloaded = "overloaded", 503, "server_error", retry: true, charged: false;
    /// The store has no room or cannot be written.
    StorageUnavailable = "storage_unavailable", 507, "server_error", retry: true, charged: false;
    /// Our own fault.
    Internal = "internal", 500, "server_error", retry: true, charged: false;
}

/// OpenAI's error envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorEnvelope {
    /// The error.
    pub error: ErrorBody,
}

/// The inside of [`ErrorEnvelope`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What, which limit, what to do.
    pub message: String,
    /// OpenAI's class of it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The parameter at fault.
    pub param: Option<String>,
    /// The stable word.
    pub code: String,
}

/// RFC 9457 problem details.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` tells the problems apart.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status' own words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What, which limit, what to do.
    pub detail: String,
    /// The stable word.
    pub code: String,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl ErrorEnvelope {
    /// The envelope for `code` with a message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            error: ErrorBody {
                message: message.into(),
                kind: code.kind().to_owned(),
                param: None,
                code: code.as_str().to_owned(),
            },
        }
    }
}
