//! What can go wrong, with the server's code and words where it gave some.

use mayfly_api::{ErrorEnvelope, Problem};

use crate::PackageError;

/// A request had no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable word, as in `mayfly_api::ErrorCode`; empty if the answer had none.
        code: String,
        /// What, which limit, what to do.
        message: String,
        /// The request, to ask the operator about.
        request_id: Option<String>,
    },
    /// The server's address is not a URL.
    #[error("`{0}` is not a URL (expected for example `http://127.0.0.1:9090`)")]
    Address(String),
    /// The key cannot be sent in a header.
    #[error("the key has characters that a key cannot have")]
    Key,
    /// No connection, or it broke.
    #[error("the server at {address} could not be reached")]
    Connection {
        /// Where it was looked for.
        address: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The answer is not what the contract says.
    #[error("the server's answer could not be read: {0}")]
    Answer(String),
    /// What was to be uploaded.
    #[error(transparent)]
    Package(#[from] PackageError),
}

impl Error {
    /// The stable word, if the server gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } if !code.is_empty() => Some(code),
            _ => None,
        }
    }

    /// Whether the server said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// From an answer's status and body: problem details, OpenAI's envelope, or just text.
    pub(crate) fn refused(status: u16, request_id: Option<String>, body: &[u8]) -> Self {
        let (code, message) = if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
            (problem.code, problem.detail)
        } else if let Ok(envelope) = serde_json::from_slice::<ErrorEnvelope>(body) {
            (envelope.error.code, envelope.error.message)
        } else {
            let text: String = String::from_utf8_lossy(body).chars().take(300).collect();
            (String::new(), format!("the server answered {status}: {text}"))
        };
        // It may come from anything that listens there.
        Self::Refused {
            status,
            code: mayfly_api::clean_line(&code),
            message: mayfly_api::clean_line(&message),
            request_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_kinds_of_bodies() {
        let problem =
            br#"{"type":"about:blank","title":"Not Found","status":404,"detail":"no such project","code":"not_found"}"#;
        let error = Error::refused(404, None, problem);
        assert_eq!((error.code(), error.to_string().as_str()), (Some("not_found"), "no such project"));
        assert!(error.is_not_found());

        let envelope = br#"{"error":{"message":"slow\u001b[2J down","type":"rate_limit_error","param":null,"code":"rate_limited"}}"#;
        let error = Error::refused(429, None, envelope);
        assert_eq!((error.code(), error.to_string().as_str()), (Some("rate_limited"), "slow[2J down"));

        let error = Error::refused(502, None, b"<html>bad gateway</html>");
        assert_eq!(error.code(), None);
        assert!(error.to_string().contains("502"));
    }
}
