//! Errors of a handler, and how they look to the caller.

use std::fmt;

use serde_json::{Value, json};

use crate::bindings::wasi::nn::errors::{Error as NnError, ErrorCode};

/// Why a request was not answered. Sent to the caller in OpenAI's shape:
/// `{"error": {"message": .., "type": .., "param": .., "code": ..}}`.
///
/// Errors of models, tokenizers, bodies and JSON turn into this one with `?`, each with a fitting status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    status: u16,
    code: String,
    message: String,
    param: Option<String>,
}

impl Error {
    /// An error with a status, a code for programs and a message for people. A status outside 400 to 599 becomes 500.
    pub fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        let status = if (400..=599).contains(&status) { status } else { 500 };
        Self { status, code: code.into(), message: message.into(), param: None }
    }

    /// The request is at fault: 400, code `invalid_request`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request", message)
    }

    /// There is nothing at this path: 404, code `not_found`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "not_found", message)
    }

    /// This path does not take this method: 405, code `method_not_allowed`.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(405, "method_not_allowed", message)
    }

    /// More was sent than fits: 413, code `too_large`.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "too_large", message)
    }

    /// The handler or its deployment is at fault: 500, code `handler_error`.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "handler_error", message)
    }

    /// Names the field of the request that is at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets another code.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
        self
    }

    /// The HTTP status, 400 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The code for programs, such as `invalid_request`.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The field of the request that is at fault.
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// The body that the caller gets.
    pub fn envelope(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }

    /// What a model's or tokenizer's error is for the caller; `alias` is the model.
    pub(crate) fn of_model(alias: &str, error: &NnError) -> Self {
        Self::from_code(Some(alias), error.code(), error.data())
    }

    fn from_code(alias: Option<&str>, code: ErrorCode, text: String) -> Self {
        let text = match (text.is_empty(), alias) {
            (false, _) => text,
            (true, Some(alias)) => format!("model `{alias}` gave an error without a text"),
            (true, None) => "the model gave an error without a text".to_owned(),
        };
        match code {
            ErrorCode::InvalidArgument | ErrorCode::InvalidEncoding => Self::new(400, "invalid_model_input", text),
            ErrorCode::TooLarge => Self::new(413, "model_input_too_large", text),
            ErrorCode::Timeout => Self::new(504, "model_timeout", text),
            ErrorCode::NotFound => {
                let granted = alias.map(|_| crate::models::granted()).unwrap_or_default().join(", ");
                let hint = if granted.is_empty() { "none".to_owned() } else { granted };
                Self::new(
                    500,
                    "model_not_granted",
                    format!(
                        "{text} (granted to this deployment: {hint}; grants are the [models] table of mayfly.toml)"
                    ),
                )
            }
            ErrorCode::Security => Self::new(500, "model_call_forbidden", text),
            ErrorCode::UnsupportedOperation => Self::new(500, "model_unsupported", text),
            // The host begins its text so where a little patience helps. Work that a limit or a budget refuses comes as
            // a runtime error too; the host knows, and gives the caller that limit's own status and retry time.
            ErrorCode::RuntimeError if text.starts_with("busy") => Self::new(503, "model_busy", text),
            ErrorCode::RuntimeError if text.starts_with("unavailable") => Self::new(503, "model_unavailable", text),
            ErrorCode::RuntimeError => Self::new(500, "model_failed", text),
            ErrorCode::Unknown => Self::new(500, "model_error", text),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<NnError> for Error {
    fn from(error: NnError) -> Self {
        Self::from_code(None, error.code(), error.data())
    }
}

impl From<serde_json::Error> for Error {
    /// A request body that is not the wanted JSON: 400.
    fn from(error: serde_json::Error) -> Self {
        Self::new(400, "invalid_json", format!("the JSON is not as expected: {error}"))
    }
}

impl From<std::io::Error> for Error {
    /// A body that could not be read or written: the error it carries if it is one of ours, else 400.
    fn from(error: std::io::Error) -> Self {
        let text = error.to_string();
        match error.into_inner().map(|inner| inner.downcast::<Self>()) {
            Some(Ok(ours)) => *ours,
            _ => Self::new(400, "body_unreadable", text),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_is_openai_s() {
        let error = Error::invalid("no input").with_param("input");
        assert_eq!(
            error.envelope(),
            json!({"error": {"message": "no input", "type": "invalid_request_error", "param": "input", "code": "invalid_request"}})
        );
        assert_eq!(Error::internal("x").envelope()["error"]["type"], "server_error");
        assert_eq!(Error::internal("x").envelope()["error"]["param"], Value::Null);
    }

    #[test]
    fn a_status_that_is_no_error_becomes_500() {
        assert_eq!(Error::new(200, "c", "m").status(), 500);
        assert_eq!(Error::new(999, "c", "m").status(), 500);
        assert_eq!(Error::new(429, "c", "m").status(), 429);
    }

    #[test]
    fn model_errors_get_a_status() {
        let status = |code| Error::from_code(None, code, "text".into()).status();
        assert_eq!(status(ErrorCode::InvalidArgument), 400);
        assert_eq!(status(ErrorCode::TooLarge), 413);
        assert_eq!(status(ErrorCode::Timeout), 504);
        assert_eq!(status(ErrorCode::NotFound), 500);
        assert_eq!(status(ErrorCode::Security), 500);
        assert_eq!(status(ErrorCode::RuntimeError), 500);
        assert_eq!(Error::from_code(None, ErrorCode::RuntimeError, "busy: 2 runs wait".into()).status(), 503);
        let never = Error::from_code(None, ErrorCode::RuntimeError, "unavailable: it needs more than there is".into());
        assert_eq!((never.status(), never.code()), (503, "model_unavailable"));
        assert_eq!(status(ErrorCode::Unknown), 500);
        assert!(!Error::from_code(None, ErrorCode::Unknown, String::new()).message().is_empty());
    }

    #[test]
    fn our_error_survives_io() {
        let error = Error::too_large("the body is over 10 bytes");
        assert_eq!(Error::from(std::io::Error::from(error.clone())), error);
        assert_eq!(Error::from(std::io::Error::other("gone")).status(), 400);
    }
}
