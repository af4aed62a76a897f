//! One call from the door to its settlement.

use std::sync::Arc;

use http::{Request, Response};
use mayfly_host::Host;
use mayfly_inference::Inference;
use mayfly_ledger::Journal;

use crate::{Body, Config, Context, DeploymentStatus, LogBook, NodeStatus};

/// Everything a call needs. Clones share it.
#[derive(Debug, Clone)]
pub struct Calls(Arc<()>);

impl Calls {
    /// One for each server.
    pub fn new(
        _config: Config,
        _host: Host,
        _inference: Inference,
        _journal: Arc<dyn Journal>,
        _recompile: Arc<dyn Recompile>,
    ) -> Self {
        todo!()
    }

    /// Answers one call. `request`: path relative to the deployment (begins with `/`), already free of keys,
    /// internal and forwarding headers and of our own cookies. Every failure is an answer in the data plane's error envelope.
    ///
    /// The answer carries `x-request-id`, `x-mayfly-cold`, `Server-Timing` and, if the handler has ended when the
    /// head goes out, the usage headers.
    pub async fn call(&self, _context: Context, _request: Request<Body>) -> Response<Body> {
        todo!()
    }

    /// Calls that have not settled.
    pub fn open_calls(&self) -> usize {
        todo!()
    }

    /// Guest output of all deployments.
    pub fn logs(&self) -> &LogBook {
        todo!()
    }

    /// Which tiers a deployment is in. Costs nothing to a deployment at rest.
    pub fn status(&self, _resolved: &mayfly_registry::Resolved) -> DeploymentStatus {
        todo!()
    }

    /// Counters and gauges of this node, for `/metrics`.
    pub fn node_status(&self) -> NodeStatus {
        todo!()
    }
}

/// Brings back compiled code that is missing or damaged on this node. `mayfly-registry`'s `Control` implements the work.
#[async_trait::async_trait]
pub trait Recompile: Send + Sync + std::fmt::Debug {
    /// Compiles the stored component again.
    ///
    /// # Errors
    /// The text for the log.
    async fn recompile(&self, digest: mayfly_types::Digest) -> Result<(), String>;
}
