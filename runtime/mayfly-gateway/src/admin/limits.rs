//! Limits of tenants, projects, deployments and keys. The operator sets any; a deploy key those of its own deployments
//! and call keys. All levels of a call hold, so what a tenant sets can only add to what the operator set above.

use axum::Json as Reply;
use axum::extract::{Path, State};
use mayfly_api::Limits;
use mayfly_registry::{Key, KeyScope};
use mayfly_types::{KeyId, LevelId};

use super::Answer;
use super::caller::Caller;
use super::credit::id_of;
use super::params::Json;
use crate::Gateway;
use crate::access::Reach;
use crate::failure::Failure;

/// The limits of a tenant.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/limits", tag = "limits",
    params(("tenant" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The limits", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn of_tenant(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(tenant): Path<String>,
) -> Answer<Reply<Limits>> {
    shown(&gateway, tenant_level(&gateway, &caller, &tenant).await?).await
}

/// Replaces the limits of a tenant. For the operator only.
#[utoipa::path(put, path = "/api/v1/tenants/{tenant}/limits", tag = "limits", request_body = Limits,
    params(("tenant" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The limits as they are now", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn set_of_tenant(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(tenant): Path<String>,
    Json(limits): Json<Limits>,
) -> Answer<Reply<Limits>> {
    caller.operator()?;
    let level = tenant_level(&gateway, &caller, &tenant).await?;
    set(&gateway, &caller, level, limits).await
}

/// The limits of a project.
#[utoipa::path(get, path = "/api/v1/projects/{project}/limits", tag = "limits",
    params(("project" = String, Path, description = "The project's name")),
    responses((status = 200, description = "The limits", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn of_project(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(project): Path<String>,
) -> Answer<Reply<Limits>> {
    let project = caller.project(&gateway, &project).await?;
    shown(&gateway, LevelId::Project(project.id)).await
}

/// Replaces the limits of a project. For the operator only. Its `tokens_per_minute` is the pool that its deployments'
/// come out of: never less than they were given together.
#[utoipa::path(put, path = "/api/v1/projects/{project}/limits", tag = "limits", request_body = Limits,
    params(("project" = String, Path, description = "The project's name")),
    responses((status = 200, description = "The limits as they are now", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn set_of_project(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(project): Path<String>,
    Json(limits): Json<Limits>,
) -> Answer<Reply<Limits>> {
    caller.operator()?;
    let project = caller.project(&gateway, &project).await?;
    set(&gateway, &caller, LevelId::Project(project.id), limits).await
}

/// The limits of a deployment.
#[utoipa::path(get, path = "/api/v1/projects/{project}/deployments/{deployment}/limits", tag = "limits",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "The limits", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn of_deployment(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Answer<Reply<Limits>> {
    let (_project, deployment) = caller.deployment(&gateway, &project, &name).await?;
    shown(&gateway, LevelId::Deployment(deployment.id)).await
}

/// Replaces the limits of a deployment. Its `tokens_per_minute` come out of its project's pool, if that has one.
#[utoipa::path(put, path = "/api/v1/projects/{project}/deployments/{deployment}/limits", tag = "limits", request_body = Limits,
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "The limits as they are now", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn set_of_deployment(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
    Json(limits): Json<Limits>,
) -> Answer<Reply<Limits>> {
    let (_project, deployment) = caller.deployment(&gateway, &project, &name).await?;
    set(&gateway, &caller, LevelId::Deployment(deployment.id), limits).await
}

/// The limits of a key.
#[utoipa::path(get, path = "/api/v1/keys/{id}/limits", tag = "limits",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, description = "The limits", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn of_key(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Reply<Limits>> {
    let key = key(&gateway, &caller, &id).await?;
    shown(&gateway, LevelId::Key(key.id)).await
}

/// Replaces the limits of a key.
#[utoipa::path(put, path = "/api/v1/keys/{id}/limits", tag = "limits", request_body = Limits,
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, description = "The limits as they are now", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn set_of_key(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    Json(limits): Json<Limits>,
) -> Answer<Reply<Limits>> {
    let key = key(&gateway, &caller, &id).await?;
    if caller.reach != Reach::Host && key.scopes != [KeyScope::Call] {
        return Err(Failure::scope("admin"));
    }
    set(&gateway, &caller, LevelId::Key(key.id), limits).await
}

async fn tenant_level(gateway: &Gateway, caller: &Caller, name: &str) -> Result<LevelId, Failure> {
    let found = gateway.records().tenant_named(name).await?;
    let tenant = found.filter(|tenant| caller.reach.covers(Some(tenant.id), None));
    Ok(LevelId::Tenant(tenant.ok_or_else(|| Failure::not_found("tenant"))?.id))
}

/// The key with this id, if it is within reach; else it is not there.
pub(super) async fn key(gateway: &Gateway, caller: &Caller, id: &str) -> Result<Key, Failure> {
    let missing = || Failure::not_found("key");
    let id: KeyId = id.parse().map_err(|_| missing())?;
    let found = gateway.records().key(id).await?;
    found.filter(|key| caller.reach.covers(key.tenant, key.project)).ok_or_else(missing)
}

async fn shown(gateway: &Gateway, level: LevelId) -> Answer<Reply<Limits>> {
    Ok(Reply(Limits::from(&gateway.0.parts.control.limits(level).await?)))
}

async fn set(gateway: &Gateway, caller: &Caller, level: LevelId, limits: Limits) -> Answer<Reply<Limits>> {
    gateway.0.parts.control.set_limits(level, &limits.into()).await?;
    caller.audit("limits.set", &format_args!("{} {}", level.kind(), id_of(level)));
    shown(gateway, level).await
}
