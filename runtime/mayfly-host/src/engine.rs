//! The engine: pool, epoch ticker, linker, and the host made of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use mayfly_types::{DeploymentId, Digest};
use wasmtime::Engine;

use crate::code::Mapped;
use crate::config::Places;
use crate::idle::Kept;
use crate::lane::Lane;
use crate::places::Counts;
use crate::pool::PoolSize;
use crate::stored::Stored;
use crate::ticker::Ticker;
use crate::{
    Code, CodeError, CodeStats, CompileError, ComponentInfo, Config, KeyValue, StartError, compile, linker, pool,
    settings,
};

/// The WebAssembly side of a node. Clones share it.
#[derive(Debug, Clone)]
pub struct Host(pub(crate) Arc<Inner>);

/// What all clones share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) engine: Engine,
    pub(crate) instances_max: u32,
    pub(crate) pool: PoolSize,
    pub(crate) counts: Arc<Counts>,
    /// Advances the epoch while guests run.
    pub(crate) ticker: Arc<Ticker>,
    /// Where guests compute for long.
    pub(crate) lane: Arc<Lane>,
    /// Instances that wait for their deployment's next request.
    pub(crate) kept: Arc<Kept>,
    pub(crate) stored: Arc<Stored>,
    pub(crate) mapped: Mapped,
    pub(crate) child: PathBuf,
    /// Data of the deployments.
    pub(crate) key_values: Arc<dyn KeyValue>,
}

impl Host {
    /// Sets up the engine, the pool and the ticker. `code_folder` is created with its key if it is not there;
    /// `child` is the binary started as `child __compile …` for each upload; `key_values` keeps what guests store.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: Config,
        code_folder: PathBuf,
        child: PathBuf,
        key_values: Arc<dyn KeyValue>,
    ) -> Result<Self, StartError> {
        let (engine, pool) = pool::engine(&config, PoolSize::of(&config))?;
        let (instances_max, memory_max) = (pool.instances(), config.instance_memory_bytes_max);
        tracing::info!(instances_max, instance_memory_bytes_max = memory_max, "instance pool: {pool}");
        if pool.is_too_small() {
            tracing::warn!(mend = pool.mend(), "this machine is too small: {pool}");
        }
        let linker = linker::linker(&engine).map_err(|error| StartError::Engine(format!("{error:#}")))?;
        let places = Places { code: code_folder, child };
        let stored = Arc::new(Stored::open(&places.code, settings::compatibility(&engine))?);
        let counts = Arc::new(Counts::default());
        let ticker = Arc::new(Ticker::start(&engine, Duration::from_millis(config.epoch_tick_ms.max(1)))?);
        let mapped = Mapped::start(&config, engine.clone(), linker, Arc::clone(&stored))?;
        let lane = Arc::new(Lane::start(config.compute_threads)?);
        let kept = Arc::new(Kept::start(&config)?);
        let child = places.child;
        let inner = Inner {
            config,
            engine,
            instances_max,
            pool,
            counts,
            ticker,
            lane,
            kept,
            stored,
            mapped,
            child,
            key_values,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Checks and compiles the component in the file `wasm` in a child process, and stores the code under `digest`
    /// for this engine. Compiles nothing if that is there already.
    ///
    /// # Errors
    /// [`CompileError`]; nothing is stored.
    pub async fn compile(&self, wasm: &Path, digest: Digest) -> Result<ComponentInfo, CompileError> {
        compile::compile(&self.0, wasm, digest).await
    }

    /// Whether compiled code for `digest` and this engine is stored.
    pub fn has_code(&self, digest: Digest) -> bool {
        self.0.stored.has(digest)
    }

    /// Components whose compiled code is stored for this engine. What is stored for other engines is removed first.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn stored_code(&self) -> io::Result<Vec<Digest>> {
        self.with_stored(Stored::sweep).await
    }

    /// Removes the compiled code of a component, if there is any. Where it is mapped it stays mapped.
    ///
    /// # Errors
    /// What the file system said.
    pub async fn remove_code(&self, digest: Digest) -> io::Result<()> {
        self.with_stored(move |stored| stored.remove(digest)).await
    }

    /// Works on the code folder off the async threads.
    async fn with_stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Stored) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let stored = Arc::clone(&self.0.stored);
        tokio::task::spawn_blocking(move || work(&stored)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// The mapped component, from memory or (verified first) from the code folder. Single-flight; true if it had to
    /// be mapped.
    ///
    /// # Errors
    /// [`CodeError`].
    pub async fn code(&self, digest: Digest) -> Result<(Arc<Code>, bool), CodeError> {
        self.0.mapped.get(digest).await
    }

    /// Whether the component is mapped right now.
    pub fn is_mapped(&self, digest: Digest) -> bool {
        self.0.mapped.has(digest)
    }

    /// The deployment has changed or is gone: no instance that answered for it answers again.
    pub fn forget_instances(&self, deployment: DeploymentId) {
        self.0.kept.forget(deployment);
    }

    /// What is mapped and alive right now.
    pub fn stats(&self) -> CodeStats {
        CodeStats {
            mapped: self.0.mapped.digests(),
            maps_total: self.0.mapped.maps_total(),
            instances: self.0.counts.alive(),
            instances_total: self.0.counts.total(),
            instances_idle: self.0.kept.count(),
            instances_reused_total: self.0.counts.reused(),
        }
    }

    /// The engine and its version, as operators see it. The version is pinned exactly in the workspace's manifest.
    pub const fn engine_version() -> &'static str {
        "wasmtime 48.0.8"
    }

    /// How many instances the pool holds, and why not more.
    pub fn pool_size(&self) -> PoolSize {
        self.0.pool
    }

    /// Instances the pool holds.
    pub fn instances_max(&self) -> u32 {
        self.0.instances_max
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("config", &self.config)
            .field("instances_max", &self.instances_max)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}
