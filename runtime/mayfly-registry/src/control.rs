//! The workflows: deploy, roll back, import a model, make and revoke keys. No HTTP here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use mayfly_host::Host;
use mayfly_inference::ImportPolicy;
use mayfly_types::{GuestLimits, KeyId, Name, ProjectId, TenantId};

use crate::manifest::ModelEntry;
use crate::{
    ArtifactError, Artifacts, ControlError, Deployment, Directory, Key, KeyScope, Model, Owner, Project, Records, Revision,
    SecretKey, Tenant,
};

/// Where a deploy's handler comes from.
pub enum HandlerSource {
    /// One of those in the binary.
    Builtin(String),
    /// Uploaded bytes.
    Upload(BoxStream<'static, Result<Bytes, ArtifactError>>),
    /// A component that is stored already.
    Stored(mayfly_types::Digest),
}

impl std::fmt::Debug for HandlerSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "Builtin({name})"),
            Self::Upload(_) => f.write_str("Upload"),
            Self::Stored(digest) => write!(f, "Stored({digest})"),
        }
    }
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
    host: Host,
    builtins: Arc<BTreeMap<String, Bytes>>,
    policy: Arc<ImportPolicy>,
    child: Arc<PathBuf>,
}

impl Control {
    /// `builtins`: components in the binary, by name without `builtin:`. `child`: the binary for the model probe.
    pub fn new(
        records: Arc<dyn Records>,
        artifacts: Arc<dyn Artifacts>,
        host: Host,
        builtins: BTreeMap<String, Bytes>,
        policy: ImportPolicy,
        child: PathBuf,
    ) -> Self {
        Self { records, artifacts, host, builtins: Arc::new(builtins), policy: Arc::new(policy), child: Arc::new(child) }
    }

    /// The records, to read.
    pub fn records(&self) -> &Arc<dyn Records> {
        &self.records
    }

    /// The caches calls read from, fed by the records' changes. Starts the task that follows them.
    ///
    /// # Errors
    /// [`ControlError`] if the store failed.
    pub async fn directory(&self) -> Result<Directory, ControlError> {
        let _ = &self.artifacts;
        todo!()
    }

    /// First start: makes tenant `default`, project `default` and an admin key if there is no admin key.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn bootstrap(&self) -> Result<Option<SecretKey>, ControlError> {
        todo!()
    }

    /// A new tenant.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_tenant(&self, _name: Name) -> Result<Tenant, ControlError> {
        todo!()
    }

    /// A new project.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_project(&self, _tenant: TenantId, _name: Name) -> Result<Project, ControlError> {
        todo!()
    }

    /// A new key; the secret is not stored.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_key(
        &self,
        _tenant: Option<TenantId>,
        _project: Option<ProjectId>,
        _label: String,
        _scopes: Vec<KeyScope>,
        _expires_at: Option<i64>,
    ) -> Result<(Key, SecretKey), ControlError> {
        todo!()
    }

    /// Revokes a key. The last live admin key cannot be revoked.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn revoke_key(&self, _id: KeyId) -> Result<(), ControlError> {
        todo!()
    }

    /// Stores and compiles the handler, resolves grants, adds a revision and makes it active.
    ///
    /// # Errors
    /// [`ControlError`]; the deployment answers as before.
    pub async fn deploy(&self, _request: DeployRequest) -> Result<Deployed, ControlError> {
        let _ = (&self.host, &self.builtins);
        todo!()
    }

    /// Makes revision `number` active, or without one the revision before the active one.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn rollback(&self, _deployment: &Deployment, _number: Option<u32>) -> Result<Revision, ControlError> {
        todo!()
    }

    /// Deletes a deployment. Calls that run go on; new ones find nothing.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn delete(&self, _deployment: &Deployment) -> Result<(), ControlError> {
        todo!()
    }

    /// Imports the package in `folder` (below [`Artifacts::staging`]; removed afterwards) and registers it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn add_model(&self, _owner: Owner, _name: Name, _folder: PathBuf) -> Result<Model, ControlError> {
        let _ = (&self.policy, &self.child);
        todo!()
    }
}
