//! [`Records`] in SQLite. Each method is one closure on [`Db`]; the SQL is in the files below, by kind of record.

pub(crate) mod audit;
mod changes;
mod deployments;
mod keys;
mod limits;
mod models;
pub(crate) mod pins;
mod rows;
mod tenants;

use async_trait::async_trait;
use mayfly_registry::{
    Active, AuditQuery, AuditRow, Change, Deployment, Device, Key, Model, ModelPin, Owner, Project, Records,
    RecordsError, Revision, RevisionSpec, Tenant,
};
use mayfly_types::{DeploymentId, Digest, KeyId, LevelId, LevelLimits, ModelId, Name, ProjectId, RevisionId, TenantId};

use crate::db::Db;

/// The records of a [`crate::Store`].
#[derive(Debug, Clone)]
pub(crate) struct SqliteRecords(pub(crate) Db);

type Answer<T> = Result<T, RecordsError>;

/// `read!(self, keys::by_id(id))`: runs the function on a read connection with the arguments moved there.
macro_rules! read {
    ($self:ident, $module:ident :: $function:ident ($($argument:expr),*)) => {
        Ok($self.0.read(move |connection| $module::$function(connection $(, $argument)*)).await?)
    };
}

/// The same on the writer. Who acts is taken down here, before the write is queued.
macro_rules! write {
    ($self:ident, $module:ident :: $function:ident ($($argument:expr),*)) => {{
        let by = audit::By::now();
        Ok($self.0.write(move |connection| $module::$function(connection, by $(, $argument)*)).await?)
    }};
}

#[async_trait]
impl Records for SqliteRecords {
    async fn insert_tenant(&self, tenant: &Tenant) -> Answer<()> {
        let tenant = tenant.clone();
        write!(self, tenants::insert_tenant(&tenant))
    }
    async fn tenant(&self, id: TenantId) -> Answer<Option<Tenant>> {
        read!(self, tenants::tenant(id))
    }
    async fn tenant_named(&self, name: &str) -> Answer<Option<Tenant>> {
        let name = name.to_owned();
        read!(self, tenants::tenant_named(&name))
    }
    async fn tenants(&self) -> Answer<Vec<Tenant>> {
        read!(self, tenants::tenants())
    }

    async fn delete_tenant(&self, id: TenantId, at: i64) -> Answer<()> {
        write!(self, tenants::delete_tenant(id, at))
    }

    async fn insert_project(&self, project: &Project) -> Answer<()> {
        let project = project.clone();
        write!(self, tenants::insert_project(&project))
    }
    async fn project(&self, id: ProjectId) -> Answer<Option<Project>> {
        read!(self, tenants::project(id))
    }
    async fn project_named(&self, name: &str) -> Answer<Option<Project>> {
        let name = name.to_owned();
        read!(self, tenants::project_named(&name))
    }
    async fn projects(&self, tenant: Option<TenantId>) -> Answer<Vec<Project>> {
        read!(self, tenants::projects(tenant))
    }

    async fn delete_project(&self, id: ProjectId, at: i64) -> Answer<Vec<Digest>> {
        write!(self, tenants::delete_project(id, at))
    }

    async fn insert_key(&self, key: &Key) -> Answer<()> {
        let key = key.clone();
        write!(self, keys::insert(&key))
    }
    async fn key(&self, id: KeyId) -> Answer<Option<Key>> {
        read!(self, keys::by_id(id))
    }
    async fn key_hashed(&self, hash: &[u8; 32]) -> Answer<Option<Key>> {
        let hash = *hash;
        read!(self, keys::by_hash(&hash))
    }
    async fn keys(&self, tenant: Option<TenantId>) -> Answer<Vec<Key>> {
        read!(self, keys::all(tenant))
    }
    async fn revoke_key(&self, id: KeyId, at: i64) -> Answer<()> {
        write!(self, keys::revoke(id, at))
    }
    async fn slot_keys(&self, deployment: DeploymentId) -> Answer<Vec<Key>> {
        read!(self, keys::of_slots(deployment))
    }
    async fn rotate_key(&self, key: &Key) -> Answer<Key> {
        let key = key.clone();
        write!(self, keys::rotate(&key))
    }
    async fn note_used(&self, used: Vec<(KeyId, i64)>) -> Answer<()> {
        Ok(self.0.write(move |connection| keys::note_used(connection, &used)).await?)
    }

    async fn set_limits(&self, level: LevelId, limits: &LevelLimits, at: i64) -> Answer<()> {
        let limits = limits.clone();
        write!(self, limits::set(level, &limits, at))
    }

    async fn insert_model(&self, model: &Model) -> Answer<()> {
        let model = model.clone();
        write!(self, models::insert(&model))
    }
    async fn model(&self, id: ModelId) -> Answer<Option<Model>> {
        read!(self, models::by_id(id))
    }
    async fn model_named(&self, owner: Owner, name: &str) -> Answer<Option<Model>> {
        let name = name.to_owned();
        read!(self, models::named(owner, &name))
    }
    async fn models(&self, project: Option<ProjectId>) -> Answer<Vec<Model>> {
        read!(self, models::all(project))
    }
    async fn approve_model(&self, id: ModelId) -> Answer<()> {
        write!(self, models::approve(id))
    }
    async fn remove_model(&self, id: ModelId) -> Answer<()> {
        write!(self, models::remove(id))
    }
    async fn pin_model(&self, id: ModelId, device: Device, at: i64) -> Answer<()> {
        write!(self, pins::pin(id, device, at))
    }
    async fn unpin_model(&self, id: ModelId, device: Device) -> Answer<()> {
        write!(self, pins::unpin(id, device))
    }
    async fn model_pins(&self, of: Option<ModelId>) -> Answer<Vec<ModelPin>> {
        read!(self, pins::of(of))
    }

    async fn deploy(
        &self,
        project: ProjectId,
        name: &Name,
        spec: &RevisionSpec,
        at: i64,
    ) -> Answer<(Deployment, Revision, bool)> {
        let (name, spec) = (name.clone(), spec.clone());
        write!(self, deployments::deploy(project, &name, &spec, at))
    }
    async fn deployment(&self, id: DeploymentId) -> Answer<Option<Deployment>> {
        read!(self, deployments::by_id(id))
    }
    async fn active_named(&self, project: &str, name: &str) -> Answer<Option<Active>> {
        let (project, name) = (project.to_owned(), name.to_owned());
        read!(self, deployments::active_named(&project, &name))
    }
    async fn deployment_named(&self, project: ProjectId, name: &str) -> Answer<Option<Deployment>> {
        let name = name.to_owned();
        read!(self, deployments::named(project, &name))
    }
    async fn deployments(&self, project: ProjectId, after: Option<&str>, limit: u32) -> Answer<Vec<Deployment>> {
        let after = after.unwrap_or_default().to_owned();
        read!(self, deployments::page(project, &after, limit))
    }
    async fn warm_deployments(&self) -> Answer<Vec<DeploymentId>> {
        read!(self, deployments::warm())
    }
    async fn deployment_count(&self) -> Answer<u64> {
        read!(self, deployments::count())
    }
    async fn activate(&self, deployment: DeploymentId, revision: RevisionId, at: i64) -> Answer<()> {
        write!(self, deployments::activate(deployment, revision, at))
    }
    async fn delete_deployment(&self, id: DeploymentId, at: i64) -> Answer<()> {
        write!(self, deployments::delete(id, at))
    }
    async fn revision(&self, id: RevisionId) -> Answer<Option<Revision>> {
        read!(self, deployments::revision(id))
    }
    async fn revisions(&self, deployment: DeploymentId) -> Answer<Vec<Revision>> {
        read!(self, deployments::revisions(deployment))
    }

    async fn note_upload(&self, project: ProjectId, digest: Digest, at: i64) -> Answer<()> {
        write!(self, deployments::note_upload(project, digest, at))
    }
    async fn forget_uploads(&self, before: i64) -> Answer<Vec<Digest>> {
        write!(self, deployments::forget_uploads(before))
    }
    async fn may_deploy(&self, project: ProjectId, digest: Digest) -> Answer<bool> {
        read!(self, deployments::may_deploy(project, digest))
    }
    async fn is_referenced(&self, digest: Digest) -> Answer<bool> {
        read!(self, deployments::is_referenced(digest))
    }

    async fn audit_log(&self, query: &AuditQuery) -> Answer<Vec<AuditRow>> {
        let query = query.clone();
        read!(self, audit::log(&query))
    }

    async fn version(&self) -> Answer<i64> {
        read!(self, changes::version())
    }
    async fn changes_since(&self, version: i64, limit: u32) -> Answer<Vec<Change>> {
        read!(self, changes::since(version, limit))
    }
}
