//! The server, put together: store, host, inference, registry, calls, gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mayfly_api::OnnxRuntime;
use mayfly_calls::{CallParts, Calls, Observer, Recompile};
use mayfly_gateway::{Gateway, NodeInfo, Parts, ServeError};
use mayfly_host::{Host, PoolSize};
use mayfly_inference::{CopySettings, ImportPolicy, Inference, ModelMemory, WorkerSettings};
use mayfly_ledger::{JournalError, PriceBook};
use mayfly_registry::{Control, SecretKey, TenantModels};
use mayfly_store::Store;
use mayfly_telemetry::{Exporter, Node};
use mayfly_types::Digest;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::builtins;
use crate::config::Config;

/// At a stop, how long the last spans may take to be sent.
const SPANS_WAIT: Duration = Duration::from_secs(2);

/// A running server. Nothing in it is global: two run in one process.
#[derive(Debug)]
pub struct Server {
    /// Where callers connect.
    pub data: SocketAddr,
    /// Where developers and operators connect.
    pub admin: SocketAddr,
    /// The first admin key, on the first start only.
    pub admin_key: Option<SecretKey>,
    /// How many instances there may be at once, and why not more.
    pub pool: PoolSize,
    /// How much memory models may take, and why not more.
    pub model_memory: ModelMemory,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    store: Store,
    exporter: Option<Exporter>,
}

impl Server {
    /// Opens the store, settles what an earlier crash left open, and listens.
    ///
    /// # Errors
    /// What is in the way, for the operator to read.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let child = std::env::current_exe().context("finding this binary, which is also its own limited child")?;
        let folder = config.data_dir()?;
        let settings =
            mayfly_store::Config { fsync: config.ledger.fsync, unapplied_bytes_max: config.ledger.unapplied_bytes_max };
        let store = tokio::task::spawn_blocking(move || Store::open_with(&folder, &settings))
            .await?
            .context("opening the data folder")?;
        let journal = store.journal();
        let settled = journal.recover(now()).await.map_err(ledger("settling calls of earlier starts"))?;
        if settled > 0 {
            tracing::warn!(
                calls = settled,
                "an earlier start was cut off; its open calls are settled as far as they were durable"
            );
        }

        let currency = config.ledger.currency.clone();
        store.prices().fix_currency(&currency).await.map_err(ledger("the setting ledger.currency"))?;
        let prices = store.prices().prices().await.map_err(ledger("reading the price book"))?;

        let copies = CopySettings {
            folder: store.models_folder().to_owned(),
            child: child.clone(),
            timeout: Duration::from_secs(config.models.probe_seconds_max),
            bytes_max: config.models.probe_bytes_max,
        };
        let isolates = config.models.tenant_models == TenantModels::Isolate;
        let workers = isolates.then(|| WorkerSettings {
            config: config.workers.clone(),
            child: child.clone().into(),
            folder: store.workers_folder().to_owned(),
        });
        if !isolates {
            // What an earlier start with another policy left there.
            let folder = store.workers_folder().to_owned();
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        }
        let inference = Inference::start_with(config.inference.clone(), Some(copies), workers)?;
        let host = Host::start(config.host.clone(), store.code_folder().to_owned(), child.clone(), store.key_values())?;
        let control = control(&config, &store, host.clone(), inference.clone(), &child);
        let directory = control.directory().await?;
        control.sweep().await?;
        let admin_key = control.bootstrap().await?;
        control.keep_warm().await?;

        let exporter = Exporter::start(&config.telemetry, &spans_of(&config))?;
        let recompile = Arc::new(Recompiler(control.clone()));
        let calls = Calls::new(CallParts {
            config: config.calls.clone(),
            host: host.clone(),
            inference: inference.clone(),
            journal: store.journal(),
            leases: store.leases(),
            prices: PriceBook::new(prices),
            currency,
            recompile,
            observer: exporter.clone().map(|exporter| Arc::new(exporter) as Arc<dyn Observer>),
        });
        let parts = Parts {
            calls,
            control,
            directory,
            journal,
            prices: store.prices(),
            node: describe(&config, &host, &inference),
        };
        let gateway = Gateway::new(config.gateway.clone(), parts);

        let listen = async |address: SocketAddr, what: &str| {
            TcpListener::bind(address).await.with_context(|| format!("listening on {address} ({what})"))
        };
        let data_listener = listen(config.server.listen, "server.listen").await?;
        let admin_listener = listen(config.server.admin_listen, "server.admin_listen").await?;
        let (data, admin) = (data_listener.local_addr()?, admin_listener.local_addr()?);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let serving = tokio::spawn(async move { gateway.serve(data_listener, admin_listener, stop).await });
        let (pool, model_memory) = (host.pool_size(), ModelMemory::of(&config.inference, inference.info().has_cuda()));
        tracing::info!(%data, %admin, %pool, %model_memory, "serving");
        Ok(Self { data, admin, admin_key, pool, model_memory, shutdown, serving, store, exporter })
    }

    /// Takes no new calls, lets open ones end up to the deadline, cuts the rest, and lets go of the data folder.
    ///
    /// # Errors
    /// If the listeners failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let served = self.serving.await.context("the listeners' task")?;
        if let Some(exporter) = &self.exporter {
            exporter.close(SPANS_WAIT).await;
        }
        // The last rows are durable before the folder is let go.
        if tokio::time::timeout(Duration::from_secs(5), self.store.close()).await.is_err() {
            tracing::error!("the store did not close in time");
        }
        Ok(served?)
    }
}

fn control(config: &Config, store: &Store, host: Host, inference: Inference, child: &Path) -> Control {
    let policy = ImportPolicy {
        package_bytes_max: config.registry.model_bytes_max,
        files_max: config.registry.model_files_max as usize,
        probe_timeout: Duration::from_secs(config.models.probe_seconds_max),
        probe_bytes_max: config.models.probe_bytes_max,
        ort_dylib: config.inference.ort_dylib.clone(),
        copies: inference.copies().cloned(),
        ..ImportPolicy::default()
    };
    let settings = mayfly_registry::Config {
        component_bytes_max: config.host.component_bytes_max,
        code_idle_ms: config.host.code_idle_ms,
        tenant_models: config.models.tenant_models,
        ..config.registry.clone()
    };
    let builtins = builtins::components();
    Control::new(store.records(), store.artifacts(), host, inference, builtins, policy, child.to_owned())
        .configure(settings)
}

fn describe(config: &Config, host: &Host, inference: &Inference) -> NodeInfo {
    let info = inference.info();
    let limits = BTreeMap::from([
        ("calls_max".to_owned(), u64::from(config.calls.calls_max)),
        ("calls_per_deployment_max".to_owned(), u64::from(config.calls.calls_per_deployment_max)),
        ("waiting_per_deployment_max".to_owned(), u64::from(config.calls.waiting_per_deployment_max)),
        ("component_bytes_max".to_owned(), config.host.component_bytes_max),
        ("instances_max".to_owned(), u64::from(host.instances_max())),
        ("model_bytes_max".to_owned(), config.registry.model_bytes_max),
        ("resident_bytes_max".to_owned(), config.inference.resident_bytes()),
        ("pinned_bytes_max".to_owned(), config.inference.pinned_bytes_max),
        ("sessions_max".to_owned(), u64::from(config.inference.sessions_max)),
    ]);
    NodeInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: Host::engine_version().to_owned(),
        onnxruntime: OnnxRuntime { version: info.version.clone(), providers: info.providers.clone() },
        builtins: builtins::list().map(|(name, _purpose)| name.to_owned()).collect(),
        limits,
    }
}

/// What all spans of this node say: where callers reach it.
fn spans_of(config: &Config) -> Node {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let public = config.gateway.public_url.as_deref().and_then(|url| reqwest::Url::parse(url).ok());
    match public.as_ref().and_then(|url| Some((url.host_str()?.to_owned(), url.port_or_known_default()))) {
        Some((address, port)) => Node { version, address, port },
        None => {
            let listen = config.server.listen;
            // Port 0 is any port: the one it becomes is not known yet.
            let port = Some(listen.port()).filter(|port| *port != 0);
            Node { version, address: listen.ip().to_string(), port }
        }
    }
}

/// Code that is missing or damaged on this node is compiled again from the stored component.
#[derive(Debug)]
struct Recompiler(Control);

#[async_trait::async_trait]
impl Recompile for Recompiler {
    async fn recompile(&self, digest: Digest) -> Result<(), String> {
        self.0.recompile(digest).await.map_err(|error| format!("{error:?}"))
    }
}

/// What the operator reads when the ledger is in the way of a start.
fn ledger(what: &'static str) -> impl Fn(JournalError) -> anyhow::Error {
    move |error| match error {
        JournalError::Failed { detail } => anyhow::anyhow!(detail).context(what),
        other => anyhow::Error::new(other).context(what),
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
