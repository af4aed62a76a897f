//! Answers kept for callers who send the same `Idempotency-Key` again.

use std::sync::Arc;

use mayfly_types::RequestId;

/// SHA-256 over key id, end user, method, path with query, and the caller's `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnswerScope(pub [u8; 32]);

/// An answer as it left, kept in the same transaction as the row that ended its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Whose it is.
    pub scope: AnswerScope,
    /// SHA-256 of the request body it answered.
    pub request: [u8; 32],
    /// The call that was billed.
    pub call: RequestId,
    /// Microseconds since the Unix epoch; it is forgotten a set time after.
    pub at: i64,
    /// The HTTP status.
    pub status: u16,
    /// Headers of the guest's answer and of ours, name and value.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body; none if it was longer than what is kept.
    pub body: Option<Arc<[u8]>>,
}
