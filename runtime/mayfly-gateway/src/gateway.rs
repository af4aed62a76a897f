//! The server as a value: what it is made of, and from start to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mayfly_api::OnnxRuntime;
use mayfly_calls::Calls;
use mayfly_ledger::{Journal, Prices};
use mayfly_registry::{Control, Directory, Project, Records};
use mayfly_types::{DeploymentId, Name, ProjectId};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::room::Room;
use crate::server::{Allowed, Listening};
use crate::{GatewayConfig, admin, data};

/// Deployments whose tier `/metrics` shows, at most: those called last.
const TIERS_SHOWN_MAX: u64 = 1_000;
/// Projects remembered by id. A project's name and tenant never change.
const PROJECTS_KEPT_MAX: u64 = 1_000;
/// Estimates counted at once: tokenizers take CPU that calls need too.
const ESTIMATES_MAX: usize = 4;
/// After the data listener has drained, how long the admin listener's requests may take.
const ADMIN_DRAIN: Duration = Duration::from_secs(2);
/// After everything was cut, how long the last settlements may take.
const SETTLE_WAIT: Duration = Duration::from_secs(5);

/// What the node says about itself: fixed at start.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// Mayfly's version.
    pub version: String,
    /// The WebAssembly engine and its version.
    pub engine: String,
    /// The inference library.
    pub onnxruntime: OnnxRuntime,
    /// Handlers in the binary, without `builtin:`.
    pub builtins: Vec<String>,
    /// Limits of the node by name, the unit in the name.
    pub limits: BTreeMap<String, u64>,
}

/// What a gateway stands on.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Parts {
    pub calls: Calls,
    pub control: Control,
    pub directory: Directory,
    pub journal: Arc<dyn Journal>,
    pub prices: Arc<dyn Prices>,
    pub node: NodeInfo,
}

/// The server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener has no address.
    #[error("a listener could not be used")]
    Listener(#[from] std::io::Error),
}

/// One server. Clones share it.
#[derive(Debug, Clone)]
pub struct Gateway(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: GatewayConfig,
    pub(crate) parts: Parts,
    pub(crate) started_at: i64,
    /// Where deployments answer, without a slash at the end. Set when the listeners are known.
    url: std::sync::OnceLock<String>,
    draining: AtomicBool,
    /// Ends what would never end by itself (logs that are followed).
    pub(crate) stop: CancellationToken,
    /// Ends every call where it is.
    pub(crate) cut: CancellationToken,
    pub(crate) room: Room,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) followers: Arc<Semaphore>,
    /// One price is added at a time.
    pub(crate) pricing: Arc<Semaphore>,
    /// One walk over the ledger at a time.
    pub(crate) verifying: Arc<Semaphore>,
    /// Estimates whose texts are being counted.
    pub(crate) estimates: Arc<Semaphore>,
    projects: moka::sync::Cache<ProjectId, Arc<Project>>,
    /// Deployments that were called, by name: whose tier may be above zero.
    pub(crate) called: moka::sync::Cache<DeploymentId, (Name, Name)>,
}

impl Gateway {
    /// One for each server; two in one process do not know of each other.
    pub fn new(config: GatewayConfig, parts: Parts) -> Self {
        Self(Arc::new(Inner {
            room: Room::new(config.openai_held_bytes_max),
            uploads: Arc::new(Semaphore::new(config.uploads_max as usize)),
            followers: Arc::new(Semaphore::new(config.log_followers_max as usize)),
            pricing: Arc::new(Semaphore::new(1)),
            verifying: Arc::new(Semaphore::new(1)),
            estimates: Arc::new(Semaphore::new(ESTIMATES_MAX)),
            config,
            parts,
            started_at: crate::time::now_micros(),
            url: std::sync::OnceLock::new(),
            draining: AtomicBool::new(false),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            projects: moka::sync::Cache::new(PROJECTS_KEPT_MAX),
            called: moka::sync::Cache::new(TIERS_SHOWN_MAX),
        }))
    }

    /// Serves both listeners until `shutdown`, then drains: no new connections, `connection: close`, running requests
    /// up to `drain_ms_max`, then the rest is cut and settled. The admin listener goes last, so that `/readyz` tells.
    ///
    /// # Errors
    /// [`ServeError`] if a listener cannot be used.
    pub async fn serve(
        &self,
        data_listener: TcpListener,
        admin_listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let address = data_listener.local_addr()?;
        admin_listener.local_addr()?;
        let _ = self.0.url.set(self.0.config.public_url.clone().unwrap_or_else(|| local_url(address)));
        let gateway = self.clone();
        let data = Listening::start(
            data_listener,
            self.allowed(self.0.config.connections_max),
            self.0.cut.clone(),
            move |request| data::answer(gateway.clone(), request),
        );
        let router = admin::router(self.clone());
        let gateway = self.clone();
        let admin_cut = CancellationToken::new();
        let admin = Listening::start(
            admin_listener,
            self.allowed(self.0.config.admin_connections_max),
            admin_cut,
            move |request| admin::answer(gateway.clone(), router.clone(), request),
        );
        tokio::spawn(self.clone().reprice_recent());
        shutdown.cancelled().await;
        self.0.draining.store(true, Ordering::Release);
        tracing::info!(drain_ms_max = self.0.config.drain_ms_max, "stopping: running requests may end");
        if !data.drain(self.0.config.drain()).await {
            tracing::warn!("requests were cut: they took longer than drain_ms_max");
        }
        self.0.cut.cancel();
        self.settled().await;
        self.0.stop.cancel();
        admin.drain(ADMIN_DRAIN).await;
        Ok(())
    }

    /// Waits for the settlements of calls that were cut.
    async fn settled(&self) {
        let open = self.0.parts.calls.drain(Instant::now() + SETTLE_WAIT).await;
        if open > 0 {
            tracing::error!(open, "calls did not settle in time; the next start will settle them from their rows");
        }
    }

    fn allowed(&self, connections_max: u32) -> Allowed {
        let config = &self.0.config;
        Allowed {
            connections_max,
            streams_per_connection_max: config.streams_per_connection_max,
            header_bytes_max: config.header_bytes_max,
            headers_max: config.headers_max,
            head_wait: config.head_wait(),
            write_wait: config.body_idle(),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    pub(crate) fn records(&self) -> &Arc<dyn Records> {
        self.0.parts.control.records()
    }

    /// The one currency of this host.
    pub(crate) fn currency(&self) -> &str {
        self.0.parts.calls.currency()
    }

    /// The URL of a deployment.
    pub(crate) fn url(&self, project: &Name, deployment: &Name) -> String {
        deployment_url(self.0.url.get().map_or("", String::as_str), project, deployment)
    }

    /// The project with this id.
    ///
    /// # Errors
    /// [`mayfly_registry::RecordsError`] if the store failed.
    pub(crate) async fn project(&self, id: ProjectId) -> Result<Option<Arc<Project>>, mayfly_registry::RecordsError> {
        if let Some(project) = self.0.projects.get(&id) {
            return Ok(Some(project));
        }
        let found = self.records().project(id).await?.map(Arc::new);
        if let Some(project) = &found {
            self.0.projects.insert(id, Arc::clone(project));
        }
        Ok(found)
    }
}

fn deployment_url(base: &str, project: &Name, deployment: &Name) -> String {
    format!("{}/d/{project}/{deployment}", base.trim_end_matches('/'))
}

/// A URL that works on this machine: an address that means "all" becomes the loopback one.
fn local_url(address: SocketAddr) -> String {
    let port = address.port();
    match address {
        _ if address.ip().is_unspecified() || address.ip().is_loopback() && address.is_ipv4() => {
            format!("http://127.0.0.1:{port}")
        }
        address => format!("http://{address}"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(local_url("0.0.0.0:80".parse().unwrap()), "http://127.0.0.1:80");
        assert_eq!(local_url("[::]:80".parse().unwrap()), "http://127.0.0.1:80");
        assert_eq!(local_url("[::1]:80".parse().unwrap()), "http://[::1]:80");
        assert_eq!(local_url("10.0.0.1:8080".parse().unwrap()), "http://10.0.0.1:8080");
        let name = |text: &str| text.parse::<Name>().unwrap();
        assert_eq!(deployment_url("https://x/", &name("p"), &name("e")), "https://x/d/p/e");
    }
}
