//! What the gateway knows about a call before its body.

use std::sync::Arc;
use std::time::Instant;

use mayfly_ledger::{Channel, CostMax, Levels};
use mayfly_registry::{Key, Resolved};
use mayfly_types::{LevelId, Money, RequestId};
use tokio_util::sync::CancellationToken;

use crate::TraceParent;

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
    /// Who the caller's user is (`x-mayfly-end-user`), at most 128 characters.
    pub end_user: Option<Arc<str>>,
    /// Run it once only.
    pub idempotency: Option<IdempotencyKey>,
    /// Price it, do not run models (`x-mayfly-dry-run`).
    pub dry_run: bool,
    /// The most it may cost (`x-mayfly-max-cost`).
    pub cost_max: Option<Money>,
    /// The caller's trace (`traceparent`).
    pub trace: Option<TraceParent>,
}

/// The caller's `Idempotency-Key`, and what it was sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 255 visible ASCII characters.
    pub key: String,
    /// Path and query as the caller knows them, with the deployment where the path names one.
    pub target: String,
}

impl Context {
    /// The levels this call is limited at.
    pub(crate) fn levels(&self) -> Levels {
        let [tenant, project, deployment] = self.resolved.levels.clone();
        Levels([tenant, project, deployment, (LevelId::Key(self.key.id), self.key.limits.clone())])
    }

    /// The most this call may cost: the tightest of its levels, or what the caller said.
    pub(crate) fn cost_max(&self) -> Option<CostMax> {
        let of = |level| match level {
            LevelId::Tenant(_) => "tenant limit request_cost_max",
            LevelId::Project(_) => "project limit request_cost_max",
            LevelId::Deployment(_) => "deployment limit request_cost_max",
            LevelId::Key(_) => "key limit request_cost_max",
        };
        let Levels(levels) = self.levels();
        let limits = levels.iter().map(|(level, limits)| (limits.request_cost_max, of(*level)));
        let all = limits.chain([(self.cost_max, "x-mayfly-max-cost")]);
        all.filter_map(|(amount, of)| Some(CostMax { amount: amount?, of })).min()
    }
}
