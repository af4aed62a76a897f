//! The seam records are kept behind. SQLite implements it today; PostgreSQL will beside it.

use async_trait::async_trait;
use mayfly_types::{DeploymentId, Digest, KeyId, LevelId, LevelLimits, ModelId, Name, ProjectId, RevisionId, TenantId};

use crate::{
    Active, AuditQuery, AuditRow, Deployment, Device, Key, Model, ModelPin, Owner, Project, RecordsError, Revision,
    RevisionSpec, Tenant,
};

/// What kind of record changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ChangeKind {
    Tenant(TenantId),
    Project(ProjectId),
    Key(KeyId, [u8; 32]),
    Model(ModelId),
    Deployment(DeploymentId),
}

/// One change, in the store's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Grows with every change on any node.
    pub version: i64,
    /// What changed.
    pub kind: ChangeKind,
}

/// All records. Every method is one transaction; every write raises the version and appears in `changes_since`, and
/// leaves a row in the audit log that names who acts ([`crate::actor`]). A write that changes nothing does neither.
#[async_trait]
#[expect(missing_docs, reason = "the names say it; errors are RecordsError: NotFound, Taken(what), Unwritable, Failed")]
pub trait Records: Send + Sync + std::fmt::Debug {
    async fn insert_tenant(&self, tenant: &Tenant) -> Result<(), RecordsError>;
    /// One that was deleted, too.
    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, RecordsError>;
    async fn tenant_named(&self, name: &str) -> Result<Option<Tenant>, RecordsError>;
    async fn tenants(&self) -> Result<Vec<Tenant>, RecordsError>;
    /// Frees the name and revokes the tenant's keys. `Taken` while it has projects.
    async fn delete_tenant(&self, id: TenantId, at: i64) -> Result<(), RecordsError>;

    async fn insert_project(&self, project: &Project) -> Result<(), RecordsError>;
    /// One that was deleted, too.
    async fn project(&self, id: ProjectId) -> Result<Option<Project>, RecordsError>;
    async fn project_named(&self, name: &str) -> Result<Option<Project>, RecordsError>;
    /// All projects, or a tenant's.
    async fn projects(&self, tenant: Option<TenantId>) -> Result<Vec<Project>, RecordsError>;
    /// Frees the name, revokes the keys bound to the project, takes its models' names away and forgets its uploads.
    /// Gives the digests of those, which nobody may refer to any more. `Taken` while it has deployments.
    async fn delete_project(&self, id: ProjectId, at: i64) -> Result<Vec<Digest>, RecordsError>;

    async fn insert_key(&self, key: &Key) -> Result<(), RecordsError>;
    async fn key(&self, id: KeyId) -> Result<Option<Key>, RecordsError>;
    /// The key with this hash, revoked and expired ones too.
    async fn key_hashed(&self, hash: &[u8; 32]) -> Result<Option<Key>, RecordsError>;
    /// All keys, or a tenant's.
    async fn keys(&self, tenant: Option<TenantId>) -> Result<Vec<Key>, RecordsError>;
    /// Revokes; revoking twice keeps the first time. `Taken` if no other admin key would live on.
    async fn revoke_key(&self, id: KeyId, at: i64) -> Result<(), RecordsError>;
    /// The live keys of a deployment's own two, the primary one first.
    async fn slot_keys(&self, deployment: DeploymentId) -> Result<Vec<Key>, RecordsError>;
    /// Puts the secret of `key` into its slot. A live key that is there keeps its id and its limits, and its old secret
    /// is dead; else `key` is added, with the limits of the last one in that slot. Gives the key as it is stored.
    /// `NotFound` if the deployment is not there.
    async fn rotate_key(&self, key: &Key) -> Result<Key, RecordsError>;
    /// Notes when keys were last used (microseconds since the Unix epoch). Raises no version and leaves no audit row.
    async fn note_used(&self, used: Vec<(KeyId, i64)>) -> Result<(), RecordsError>;

    /// Sets what calls below a level may use together. `NotFound` if there is no such level (or the key was revoked);
    /// `Taken` if the tokens per minute of a project's deployments would be more together than its pool.
    async fn set_limits(&self, level: LevelId, limits: &LevelLimits, at: i64) -> Result<(), RecordsError>;

    /// Adds a model; a model of the same owner and name is removed from the names (its id stays readable). Its pins go
    /// over to the new one if that is approved, and end otherwise.
    async fn insert_model(&self, model: &Model) -> Result<(), RecordsError>;
    async fn model(&self, id: ModelId) -> Result<Option<Model>, RecordsError>;
    async fn model_named(&self, owner: Owner, name: &str) -> Result<Option<Model>, RecordsError>;
    /// All named models, or those a project can be granted (its own and the host's).
    async fn models(&self, project: Option<ProjectId>) -> Result<Vec<Model>, RecordsError>;
    async fn approve_model(&self, id: ModelId) -> Result<(), RecordsError>;
    /// Removes the name, and the model's pins. Refused with `Taken` while an active revision of any deployment uses it.
    async fn remove_model(&self, id: ModelId) -> Result<(), RecordsError>;
    /// Notes that a model is to stay loaded on a device. Again: changes nothing, who came first stays. `NotFound` if it has
    /// lost its name.
    async fn pin_model(&self, id: ModelId, device: Device, at: i64) -> Result<(), RecordsError>;
    /// `NotFound` if it is not pinned there.
    async fn unpin_model(&self, id: ModelId, device: Device) -> Result<(), RecordsError>;
    /// Of one model or of all, the oldest first.
    async fn model_pins(&self, of: Option<ModelId>) -> Result<Vec<ModelPin>, RecordsError>;

    /// Makes the deployment if there is none of that name, adds a revision (or finds the active one with an equal
    /// spec: then nothing changes) and makes it active: one transaction. True if a revision was added. `NotFound` if
    /// a model it is granted has lost its name.
    async fn deploy(
        &self,
        project: ProjectId,
        name: &Name,
        spec: &RevisionSpec,
        at: i64,
    ) -> Result<(Deployment, Revision, bool), RecordsError>;
    /// None if it is deleted.
    async fn deployment(&self, id: DeploymentId) -> Result<Option<Deployment>, RecordsError>;
    /// The deployment of that name with the revision that answers and its owners, in one step: what a cold call waits
    /// for.
    async fn active_named(&self, project: &str, name: &str) -> Result<Option<Active>, RecordsError>;
    async fn deployment_named(&self, project: ProjectId, name: &str) -> Result<Option<Deployment>, RecordsError>;
    /// Deployments of a project, by name, after `after`, at most `limit`.
    async fn deployments(
        &self,
        project: ProjectId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Deployment>, RecordsError>;
    async fn deployment_count(&self) -> Result<u64, RecordsError>;
    /// Deployments whose active revision asks to be kept warm, in the order they were made.
    async fn warm_deployments(&self) -> Result<Vec<DeploymentId>, RecordsError>;
    /// Makes an earlier revision active.
    async fn activate(&self, deployment: DeploymentId, revision: RevisionId, at: i64) -> Result<(), RecordsError>;
    async fn delete_deployment(&self, id: DeploymentId, at: i64) -> Result<(), RecordsError>;
    async fn revision(&self, id: RevisionId) -> Result<Option<Revision>, RecordsError>;
    /// Newest first.
    async fn revisions(&self, deployment: DeploymentId) -> Result<Vec<Revision>, RecordsError>;

    /// Notes that a project has uploaded a component. Again: with the newer time.
    async fn note_upload(&self, project: ProjectId, digest: Digest, at: i64) -> Result<(), RecordsError>;
    /// Forgets uploads noted before this time, and gives their digests.
    async fn forget_uploads(&self, before: i64) -> Result<Vec<Digest>, RecordsError>;
    /// Whether this project has uploaded this component, or a revision of a deployment of it, not deleted, uses it.
    async fn may_deploy(&self, project: ProjectId, digest: Digest) -> Result<bool, RecordsError>;
    /// Whether a project has uploaded this component, any revision of a deployment that is not deleted uses it, or any
    /// such revision or named model this package.
    async fn is_referenced(&self, digest: Digest) -> Result<bool, RecordsError>;

    /// The trail, newest first.
    async fn audit_log(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, RecordsError>;

    /// The newest version; 0 before the first change. Versions become visible in their order: whoever has seen one
    /// has seen all below it.
    async fn version(&self) -> Result<i64, RecordsError>;
    /// At most `limit` changes after `version`, oldest first. A record that changed several times may appear once,
    /// with its newest version.
    async fn changes_since(&self, version: i64, limit: u32) -> Result<Vec<Change>, RecordsError>;
}
