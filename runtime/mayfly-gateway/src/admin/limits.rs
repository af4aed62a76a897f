//! Limits of tenants, projects, deployments and keys. The operator sets any; a deploy key those of its own deployments
//! and call keys, unless the operator has set them. All levels of a call hold, so what a tenant sets can only add to what
//! the operator set above.

use axum::Json as Reply;
use axum::extract::State;
use mayfly_api::Limits;
use mayfly_types::LevelId;

use super::Answer;
use super::caller::Caller;
use super::level::Level;
use super::params::Json;
use crate::Gateway;

/// The limits of a tenant.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/limits", tag = "limits",
    params(("tenant" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The limits", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn of_tenant(State(gateway): State<Gateway>, level: Level) -> Answer<Reply<Limits>> {
    shown(&gateway, level.id).await
}

/// Replaces the limits of a tenant. For the operator only.
#[utoipa::path(put, path = "/api/v1/tenants/{tenant}/limits", tag = "limits", request_body = Limits,
    params(("tenant" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The limits as they are now", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn set_of_tenant(
    State(gateway): State<Gateway>,
    caller: Caller,
    level: Level,
    Json(limits): Json<Limits>,
) -> Answer<Reply<Limits>> {
    set(&gateway, &caller, level, limits).await
}

/// The limits of a project.
#[utoipa::path(get, path = "/api/v1/projects/{project}/limits", tag = "limits",
    params(("project" = String, Path, description = "The project's name")),
    responses((status = 200, description = "The limits", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn of_project(State(gateway): State<Gateway>, level: Level) -> Answer<Reply<Limits>> {
    shown(&gateway, level.id).await
}

/// Replaces the limits of a project. For the operator only. Its `tokens_per_minute` is the pool that its deployments'
/// come out of: never less than they were given together.
#[utoipa::path(put, path = "/api/v1/projects/{project}/limits", tag = "limits", request_body = Limits,
    params(("project" = String, Path, description = "The project's name")),
    responses((status = 200, description = "The limits as they are now", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn set_of_project(
    State(gateway): State<Gateway>,
    caller: Caller,
    level: Level,
    Json(limits): Json<Limits>,
) -> Answer<Reply<Limits>> {
    set(&gateway, &caller, level, limits).await
}

/// The limits of a deployment.
#[utoipa::path(get, path = "/api/v1/projects/{project}/deployments/{deployment}/limits", tag = "limits",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "The limits", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn of_deployment(State(gateway): State<Gateway>, level: Level) -> Answer<Reply<Limits>> {
    shown(&gateway, level.id).await
}

/// Replaces the limits of a deployment. Its `tokens_per_minute` come out of its project's pool, if that has one. Limits that
/// the operator set are for the operator only.
#[utoipa::path(put, path = "/api/v1/projects/{project}/deployments/{deployment}/limits", tag = "limits", request_body = Limits,
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "The limits as they are now", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn set_of_deployment(
    State(gateway): State<Gateway>,
    caller: Caller,
    level: Level,
    Json(limits): Json<Limits>,
) -> Answer<Reply<Limits>> {
    set(&gateway, &caller, level, limits).await
}

/// The limits of a key.
#[utoipa::path(get, path = "/api/v1/keys/{id}/limits", tag = "limits",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, description = "The limits", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn of_key(State(gateway): State<Gateway>, level: Level) -> Answer<Reply<Limits>> {
    shown(&gateway, level.id).await
}

/// Replaces the limits of a key. Limits that the operator set are for the operator only.
#[utoipa::path(put, path = "/api/v1/keys/{id}/limits", tag = "limits", request_body = Limits,
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, description = "The limits as they are now", body = Limits), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn set_of_key(
    State(gateway): State<Gateway>,
    caller: Caller,
    level: Level,
    Json(limits): Json<Limits>,
) -> Answer<Reply<Limits>> {
    set(&gateway, &caller, level, limits).await
}

async fn shown(gateway: &Gateway, level: LevelId) -> Answer<Reply<Limits>> {
    Ok(Reply(Limits::from(&gateway.0.parts.control.limits(level).await?)))
}

async fn set(gateway: &Gateway, caller: &Caller, level: Level, limits: Limits) -> Answer<Reply<Limits>> {
    if !level.delegated {
        caller.operator()?;
    }
    gateway.0.parts.control.set_limits(level.id, &limits.into()).await?;
    caller.audit("limits.set", &level.id);
    shown(gateway, level.id).await
}
