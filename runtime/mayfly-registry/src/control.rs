//! The workflows: deploy, roll back, import a model, make and revoke keys. No HTTP here.

mod deploy;
mod garbage;
mod keys;
mod limits;
mod models;
mod pin;
mod tenants;
mod tools;
mod turns;
mod warm;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::stream::BoxStream;
use mayfly_host::{CompileError, Host};
use mayfly_inference::{Device, ImportPolicy, Inference};
use mayfly_types::{Digest, FilterSpec, GuestLimits, ModelId, Name, ProjectId, ScaleSpec};
use tokio::sync::OnceCell;

use crate::flights::Flights;
use crate::manifest::ModelEntry;
use crate::{
    ArtifactError, Artifacts, Config, ControlError, Deployment, Directory, Model, Owner, Records, Revision, actor,
};
use garbage::Pins;
pub use keys::KeyRequest;
pub use pin::PinState;
use pin::Unkept;
use tools::HostTools;
pub use tools::{Derived, Granted, GrantedModel, Keeper, ToolError, Tools};
use turns::Turns;
use warm::Warmth;

/// Where a deploy's handler comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandlerSource {
    /// One of those in the binary.
    Builtin(String),
    /// A component that the project has uploaded ([`Control::upload`]) or deployed before.
    Stored(Digest),
}

/// A deploy, as asked for.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it; the manifest explains each")]
pub struct DeployRequest {
    pub project: ProjectId,
    pub name: Name,
    pub handler: HandlerSource,
    pub models: BTreeMap<Name, ModelEntry>,
    pub config: BTreeMap<String, String>,
    pub limits: GuestLimits,
    pub filter: FilterSpec,
    pub share_prefixes: bool,
    pub scale: ScaleSpec,
}

/// A deploy, done.
#[derive(Debug, Clone)]
pub struct Deployed {
    /// The deployment.
    pub deployment: Deployment,
    /// Its active revision.
    pub revision: Revision,
    /// False if the active revision was the same already.
    pub changed: bool,
    /// False if the compiled code was there already.
    pub compiled: bool,
}

/// All that changes records. Clones share it.
#[derive(Debug, Clone)]
pub struct Control {
    records: Arc<dyn Records>,
    artifacts: Arc<dyn Artifacts>,
    tools: Arc<dyn Tools>,
    builtins: Arc<BTreeMap<String, Bytes>>,
    config: Arc<Config>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: OnceCell<Directory>,
    /// What keeps deployments warm, once it has begun.
    warmth: OnceLock<Warmth>,
    unkept: Unkept,
    pins: Arc<Pins>,
    compiling: Flights<Digest, Result<(), CompileError>>,
    compiles: Turns,
    imports: Turns,
}

impl Shared {
    fn new(config: &Config) -> Self {
        Self {
            directory: OnceCell::new(),
            warmth: OnceLock::new(),
            unkept: Unkept::default(),
            pins: Arc::default(),
            compiling: Flights::new(),
            compiles: Turns::new("compiles", config.compiles_running_max, config.compiles_waiting_max),
            imports: Turns::new("model imports", config.imports_running_max, config.imports_waiting_max),
        }
    }
}

impl Control {
    /// `builtins`: components in the binary, by name without `builtin:`. `child`: the binary for the model probe.
    pub fn new(
        records: Arc<dyn Records>,
        artifacts: Arc<dyn Artifacts>,
        host: Host,
        inference: Inference,
        builtins: BTreeMap<String, Bytes>,
        policy: ImportPolicy,
        child: PathBuf,
    ) -> Self {
        Self::with_tools(records, artifacts, Arc::new(HostTools { host, inference, policy, child }), builtins)
    }

    /// With another way to compile and import than this node's host.
    pub fn with_tools(
        records: Arc<dyn Records>,
        artifacts: Arc<dyn Artifacts>,
        tools: Arc<dyn Tools>,
        builtins: BTreeMap<String, Bytes>,
    ) -> Self {
        let config = Config::default();
        let shared = Arc::new(Shared::new(&config));
        Self { records, artifacts, tools, builtins: Arc::new(builtins), config: Arc::new(config), shared }
    }

    /// Takes other settings than the default ones. Before it is cloned or used.
    #[must_use]
    pub fn configure(self, config: Config) -> Self {
        Self { shared: Arc::new(Shared::new(&config)), config: Arc::new(config), ..self }
    }

    /// The records, to read.
    pub fn records(&self) -> &Arc<dyn Records> {
        &self.records
    }

    /// Handlers in the binary, by name without `builtin:`.
    pub fn builtins(&self) -> impl Iterator<Item = &str> {
        self.builtins.keys().map(String::as_str)
    }

    /// The caches calls read from, fed by the records' changes. The first call starts the task that follows them;
    /// later ones give the same caches.
    ///
    /// # Errors
    /// [`ControlError`] if the store failed.
    pub async fn directory(&self) -> Result<Directory, ControlError> {
        let (records, artifacts, tools) =
            (Arc::clone(&self.records), Arc::clone(&self.artifacts), Arc::clone(&self.tools));
        let start = || Directory::start(records, artifacts, tools, &self.config);
        Ok(self.shared.directory.get_or_try_init(start).await?.clone())
    }

    /// Stores a component that `project` may then deploy by its digest. One that it has not deployed within a day is
    /// removed at a later start.
    ///
    /// # Errors
    /// [`ControlError`]; nothing is stored.
    pub async fn upload(
        &self,
        project: ProjectId,
        bytes: BoxStream<'static, Result<Bytes, ArtifactError>>,
    ) -> Result<(Digest, u64), ControlError> {
        self.upload_now(project, bytes).await
    }

    /// Removes what earlier starts left: components that were uploaded more than a day ago and never deployed, and
    /// compiled code and prepacked copies that fit another engine, library or CPU or belong to nothing. Before anything is deployed.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn sweep(&self) -> Result<(), ControlError> {
        self.sweep_uploads().await?;
        for derived in Derived::ALL {
            self.sweep_derived(derived).await?;
        }
        Ok(())
    }

    /// Stores and compiles the handler, resolves grants, adds a revision and makes it active. Goes on to its end if
    /// the caller stops waiting.
    ///
    /// # Errors
    /// [`ControlError`]; the deployment answers as before.
    pub async fn deploy(&self, request: DeployRequest) -> Result<Deployed, ControlError> {
        let this = self.clone();
        to_its_end(async move { this.deploy_now(request).await }).await
    }

    /// Makes revision `number` active, or without one the revision before the active one.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn rollback(&self, deployment: &Deployment, number: Option<u32>) -> Result<Revision, ControlError> {
        let (this, deployment) = (self.clone(), deployment.clone());
        to_its_end(async move { this.rollback_now(&deployment, number).await }).await
    }

    /// Deletes a deployment. Calls that run go on; new ones find nothing.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn delete(&self, deployment: &Deployment) -> Result<(), ControlError> {
        let (this, deployment) = (self.clone(), deployment.clone());
        to_its_end(async move { this.delete_now(&deployment).await }).await
    }

    /// Imports the package in `folder` (below [`Artifacts::staging`]; removed afterwards) and registers it. A model
    /// of the host is approved at once, one of a project when the operator does so; until then it runs nowhere, or in a
    /// process of its tenant's own ([`crate::TenantModels`]).
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn add_model(&self, owner: Owner, name: Name, folder: PathBuf) -> Result<Model, ControlError> {
        let this = self.clone();
        to_its_end(async move { this.add_model_now(owner, name, folder).await }).await
    }

    /// Keeps a model loaded on a device from now on, whoever calls it. Its load is on its way when this returns. Again:
    /// changes nothing.
    ///
    /// # Errors
    /// [`ControlError`]: it does not fit into what may be kept, or runs in no process of the server's; nothing has changed.
    pub async fn pin_model(&self, id: ModelId, device: Device) -> Result<Model, ControlError> {
        let this = self.clone();
        to_its_end(async move { this.pin_model_now(id, device).await }).await
    }

    /// Lets a pinned model go once it is idle, like any other.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] if it is not pinned there.
    pub async fn unpin_model(&self, id: ModelId, device: Device) -> Result<(), ControlError> {
        let this = self.clone();
        to_its_end(async move { this.unpin_model_now(id, device).await }).await
    }

    /// Compiles a stored component again: its code on this node is missing or damaged.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn recompile(&self, digest: Digest) -> Result<(), ControlError> {
        self.compile(digest, true).await.map(|_compiled| ())
    }

    /// Makes sure that compiled code is stored, once however many ask; true if it had to be compiled. `again`
    /// distrusts what is there.
    async fn compile(&self, digest: Digest, again: bool) -> Result<bool, ControlError> {
        if !again && self.tools.has_code(digest) {
            return Ok(false);
        }
        let _turn = self.shared.compiles.take().await?;
        let file = self.artifacts.file(digest).await?;
        let tools = Arc::clone(&self.tools);
        let work = || async move { tools.compile(&file, digest).await.map(|_info| ()) };
        let panicked = || ControlError::Host { detail: format!("compiling {digest} panicked") };
        self.shared.compiling.run(digest, work).await.ok_or_else(panicked)??;
        Ok(true)
    }

    /// After a write: what it changed holds on this node at once. If the store fails now, within the bound.
    async fn changed(&self) {
        if let Some(directory) = self.shared.directory.get()
            && let Err(error) = directory.refresh().await
        {
            tracing::warn!(?error, "the caches could not be told of a change; they ask again on their own");
        }
    }

    async fn collect(&self, digest: Digest) {
        self.shared.pins.collect(&*self.records, &*self.artifacts, &*self.tools, digest).await;
    }
}

/// Runs a workflow as a task of its own, so that a caller who leaves does not cut it in half.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ControlError>> + Send + 'static,
) -> Result<T, ControlError> {
    let done = tokio::spawn(actor::keep(work)).await;
    done.unwrap_or_else(|error| Err(ControlError::Host { detail: format!("a workflow did not end: {error}") }))
}
