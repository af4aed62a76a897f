//! Projects. Made by the operator, because their names are shared by all tenants of the host.

use axum::Json as Reply;
use axum::extract::{Path, State};
use http::StatusCode;
use mayfly_api::{NewProject, Page, Project};
use mayfly_types::LevelId;

use super::Answer;
use super::caller::Caller;
use super::params::{Json, PageQuery, Params, page};
use super::show;
use super::tenants::still_used;
use crate::Gateway;
use crate::failure::Failure;

/// The projects within the key's reach, by name.
#[utoipa::path(get, path = "/api/v1/projects", tag = "projects",
    params(("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<Project>), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<Reply<Page<Project>>> {
    let found = gateway.records().projects(caller.reach.tenant()).await?;
    let mut projects: Vec<Project> =
        found.iter().filter(|project| caller.reach.sees(project)).map(show::project).collect();
    projects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Reply(page(projects, query.after.as_deref(), query.limit()?, |project| project.name.to_string())))
}

/// A new project.
#[utoipa::path(post, path = "/api/v1/projects", tag = "projects", request_body = NewProject,
    responses((status = 201, description = "Made", body = Project), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    caller: Caller,
    Json(new): Json<NewProject>,
) -> Answer<(StatusCode, Reply<Project>)> {
    caller.operator()?;
    let tenant =
        gateway.records().tenant_named(new.tenant.as_str()).await?.ok_or_else(|| Failure::not_found("tenant"))?;
    let project = gateway.0.parts.control.create_project(tenant.id, new.name).await?;
    caller.audit("project.create", &project.name);
    Ok((StatusCode::CREATED, Reply(show::project(&project))))
}

/// Deletes a project with its models, its uploads and the keys bound to it; its name is free, what it used stays in the
/// ledger. Refused while it has deployments.
#[utoipa::path(delete, path = "/api/v1/projects/{project}", tag = "projects",
    params(("project" = String, Path, description = "The project's name")),
    responses((status = 204, description = "Deleted"), (status = "default", description = "A problem; 409 names what is left in it", body = mayfly_api::Problem)))]
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    caller.operator()?;
    let project = caller.project(&gateway, &name).await?;
    let deleted = gateway.0.parts.control.delete_project(project.id).await;
    deleted.map_err(|error| still_used(&gateway, LevelId::Project(project.id), error.into()))?;
    caller.audit("project.delete", &project.name);
    Ok(StatusCode::NO_CONTENT)
}
