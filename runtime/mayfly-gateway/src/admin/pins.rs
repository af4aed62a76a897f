//! Pins: the operator has a model kept loaded on a device, whoever calls it.

use std::str::FromStr;

use axum::Json as Reply;
use axum::extract::{Path, State};
use http::StatusCode;
use mayfly_api::Model;
use mayfly_registry::{Device, Owner};

use super::Answer;
use super::caller::Caller;
use super::models::named;
use crate::Gateway;
use crate::failure::Failure;

/// Keeps one of the operator's models loaded on a device from now on, whoever calls it and through restarts; of a language
/// model, the engine that generates. For the operator only. Refused with the numbers if it does not fit into what may be kept
/// (`inference.pinned_bytes_max`). Again: changes nothing. Its load is on its way when the answer comes.
#[utoipa::path(put, path = "/api/v1/models/{name}/pins/{device}", tag = "models",
    params(("name" = String, Path, description = "The model's name"), ("device" = String, Path, description = "`cpu` or `cuda`")),
    responses((status = 200, description = "Pinned", body = Model), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn pin_host(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((name, device)): Path<(String, String)>,
) -> Answer<Reply<Model>> {
    caller.operator()?;
    keep(&gateway, &caller, Owner::Host, &name, &device).await
}

/// Lets go of one of the operator's models that is pinned on a device. For the operator only.
#[utoipa::path(delete, path = "/api/v1/models/{name}/pins/{device}", tag = "models",
    params(("name" = String, Path, description = "The model's name"), ("device" = String, Path, description = "`cpu` or `cuda`")),
    responses((status = 204, description = "Unpinned"), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn unpin_host(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((name, device)): Path<(String, String)>,
) -> Answer<StatusCode> {
    caller.operator()?;
    let_go(&gateway, &caller, Owner::Host, &name, &device).await
}

/// Keeps a project's model loaded on a device from now on, as one of the operator's; it has to be approved. For the operator only.
#[utoipa::path(put, path = "/api/v1/projects/{project}/models/{name}/pins/{device}", tag = "models",
    params(("project" = String, Path, description = "The project's name"), ("name" = String, Path, description = "The model's name"), ("device" = String, Path, description = "`cpu` or `cuda`")),
    responses((status = 200, description = "Pinned", body = Model), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn pin(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name, device)): Path<(String, String, String)>,
) -> Answer<Reply<Model>> {
    caller.operator()?;
    let project = caller.project(&gateway, &project).await?;
    keep(&gateway, &caller, Owner::Project(project.id), &name, &device).await
}

/// Lets go of a project's model that is pinned on a device. For the operator only.
#[utoipa::path(delete, path = "/api/v1/projects/{project}/models/{name}/pins/{device}", tag = "models",
    params(("project" = String, Path, description = "The project's name"), ("name" = String, Path, description = "The model's name"), ("device" = String, Path, description = "`cpu` or `cuda`")),
    responses((status = 204, description = "Unpinned"), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn unpin(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name, device)): Path<(String, String, String)>,
) -> Answer<StatusCode> {
    caller.operator()?;
    let project = caller.project(&gateway, &project).await?;
    let_go(&gateway, &caller, Owner::Project(project.id), &name, &device).await
}

async fn keep(gateway: &Gateway, caller: &Caller, owner: Owner, name: &str, device: &str) -> Answer<Reply<Model>> {
    let device = device_of(device)?;
    let model = named(gateway, owner, name).await?;
    let model = gateway.0.parts.control.pin_model(model.id, device).await?;
    caller.audit("model.pin", &model.id);
    Ok(Reply(gateway.show_one(&model, caller).await?))
}

async fn let_go(gateway: &Gateway, caller: &Caller, owner: Owner, name: &str, device: &str) -> Answer<StatusCode> {
    let device = device_of(device)?;
    let model = named(gateway, owner, name).await?;
    gateway.0.parts.control.unpin_model(model.id, device).await?;
    caller.audit("model.unpin", &model.id);
    Ok(StatusCode::NO_CONTENT)
}

fn device_of(text: &str) -> Result<Device, Failure> {
    text.parse().map_err(|error: <Device as FromStr>::Err| Failure::invalid(error.to_string()))
}
