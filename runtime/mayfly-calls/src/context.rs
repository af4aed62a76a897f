//! What the gateway knows about a call before its body.

use std::sync::Arc;
use std::time::Instant;

use mayfly_ledger::Channel;
use mayfly_registry::{Key, Resolved};
use mayfly_types::RequestId;
use tokio_util::sync::CancellationToken;

/// Who calls what, authenticated and resolved. Tenant and project come from here and never from a body.
#[derive(Debug, Clone)]
pub struct Context {
    /// The call.
    pub request_id: RequestId,
    /// The authenticated key; it may call `resolved` (the gateway has checked).
    pub key: Arc<Key>,
    /// The deployment.
    pub resolved: Arc<Resolved>,
    /// The door.
    pub channel: Channel,
    /// When the head arrived: deadlines and timings count from here.
    pub received: Instant,
    /// Cancelled when the server cuts its connections.
    pub cancel: CancellationToken,
    /// Whether the caller said `TE: trailers`.
    pub trailers: bool,
}
