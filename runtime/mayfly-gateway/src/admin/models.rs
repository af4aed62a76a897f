//! Models. The operator imports them for everybody; a project brings its own, which run once the operator approved them, or
//! apart.

use axum::Json as Reply;
use axum::extract::{Path, Request, State};
use http::StatusCode;
use mayfly_api::{Model, Page};
use mayfly_registry::{Owner, Project, actor};
use mayfly_types::Name;

use super::Answer;
use super::artifacts::pieces;
use super::caller::Caller;
use super::params::{PageQuery, Params, page};
use super::show;
use crate::Gateway;
use crate::access::Reach;
use crate::failure::Failure;

/// The operator's models by name; for the operator, those of all projects too.
#[utoipa::path(get, path = "/api/v1/models", tag = "models",
    params(("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<Model>), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn list_host(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<Reply<Page<Model>>> {
    let all = gateway.records().models(None).await?;
    let seen = all.iter().filter(|model| caller.reach == Reach::Host || model.owner == Owner::Host);
    gateway.show_page(seen, &caller, &query).await
}

/// One of the operator's models.
#[utoipa::path(get, path = "/api/v1/models/{name}", tag = "models", params(("name" = String, Path, description = "The model's name")),
    responses((status = 200, description = "The model", body = Model), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn show_host(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Reply<Model>> {
    let model = named(&gateway, Owner::Host, &name).await?;
    Ok(Reply(gateway.show_one(&model, &caller).await?))
}

/// Imports a model for everybody. For the operator only. The body is a tar archive of the package's files.
#[utoipa::path(post, path = "/api/v1/models/{name}", tag = "models", params(("name" = String, Path, description = "The model's name")),
    request_body(content = Vec<u8>, description = "A tar archive", content_type = "application/x-tar"),
    responses((status = 201, description = "Imported", body = Model), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn add_host(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(name): Path<String>,
    request: Request,
) -> Answer<(StatusCode, Reply<Model>)> {
    caller.operator()?;
    import(gateway, caller, Owner::Host, &name, request).await
}

/// Removes one of the operator's models, with its pins. For the operator only; refused while an active revision uses it.
#[utoipa::path(delete, path = "/api/v1/models/{name}", tag = "models", params(("name" = String, Path, description = "The model's name")),
    responses((status = 204, description = "Removed"), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn remove_host(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    caller.operator()?;
    delete(&gateway, &caller, Owner::Host, &name).await
}

/// The models a project can be granted, by name: its own and the operator's.
#[utoipa::path(get, path = "/api/v1/projects/{project}/models", tag = "models",
    params(("project" = String, Path, description = "The project's name"), ("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<Model>), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(project): Path<String>,
    Params(query): Params<PageQuery>,
) -> Answer<Reply<Page<Model>>> {
    let project = caller.project(&gateway, &project).await?;
    let models = gateway.records().models(Some(project.id)).await?;
    gateway.show_page(models.iter(), &caller, &query).await
}

/// A model a project can be granted: its own of that name, else the operator's.
#[utoipa::path(get, path = "/api/v1/projects/{project}/models/{name}", tag = "models",
    params(("project" = String, Path, description = "The project's name"), ("name" = String, Path, description = "The model's name")),
    responses((status = 200, description = "The model", body = Model), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Answer<Reply<Model>> {
    let project = caller.project(&gateway, &project).await?;
    let own = gateway.records().model_named(Owner::Project(project.id), &name).await?;
    let model = match own {
        Some(model) => model,
        None => named(&gateway, Owner::Host, &name).await?,
    };
    Ok(Reply(gateway.show_one(&model, &caller).await?))
}

/// Imports a model of the project. What runs it, and whether the operator has to approve it first, is in the answer's `runs`. The body is a tar archive of the package's files.
#[utoipa::path(post, path = "/api/v1/projects/{project}/models/{name}", tag = "models",
    params(("project" = String, Path, description = "The project's name"), ("name" = String, Path, description = "The model's name")),
    request_body(content = Vec<u8>, description = "A tar archive", content_type = "application/x-tar"),
    responses((status = 201, description = "Imported", body = Model), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn add(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
    request: Request,
) -> Answer<(StatusCode, Reply<Model>)> {
    let Project { id, .. } = caller.project(&gateway, &project).await?;
    import(gateway, caller, Owner::Project(id), &name, request).await
}

/// Removes a model of the project, with its pins. Refused while an active revision uses it.
#[utoipa::path(delete, path = "/api/v1/projects/{project}/models/{name}", tag = "models",
    params(("project" = String, Path, description = "The project's name"), ("name" = String, Path, description = "The model's name")),
    responses((status = 204, description = "Removed"), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn remove(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let project = caller.project(&gateway, &project).await?;
    delete(&gateway, &caller, Owner::Project(project.id), &name).await
}

/// Lets a project's model run in the server's own process. For the operator only.
#[utoipa::path(post, path = "/api/v1/projects/{project}/models/{name}/approve", tag = "models",
    params(("project" = String, Path, description = "The project's name"), ("name" = String, Path, description = "The model's name")),
    responses((status = 200, description = "Approved", body = Model), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn approve(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Answer<Reply<Model>> {
    caller.operator()?;
    let project = caller.project(&gateway, &project).await?;
    let model = named(&gateway, Owner::Project(project.id), &name).await?;
    let model = gateway.0.parts.control.approve_model(model.id).await?;
    caller.audit("model.approve", &model.id);
    Ok(Reply(gateway.show_model(&model)))
}

fn sorted(mut models: Vec<Model>, query: &PageQuery) -> Answer<Reply<Page<Model>>> {
    // Two owners can have the same name: the id keeps their places apart.
    let place = |model: &Model| format!("{}:{}", model.name, model.id);
    models.sort_by_key(place);
    Ok(Reply(page(models, query.after.as_deref(), query.limit()?, place)))
}

impl Gateway {
    fn show_model(&self, model: &mayfly_registry::Model) -> Model {
        show::model(model, self.0.parts.control.tenant_models())
    }

    /// With what its load takes (the package is opened for that) and its pins.
    pub(super) async fn show_one(&self, model: &mayfly_registry::Model, caller: &Caller) -> Answer<Model> {
        let control = &self.0.parts.control;
        let (needs, pins) = (control.needs(model).await?, control.pins(Some(model.id)).await?);
        let pins = pins.iter().map(|pin| show::pin(pin, caller.reach == Reach::Host)).collect();
        Ok(Model { memory: needs.iter().map(show::memory).collect(), pins, ..self.show_model(model) })
    }

    /// With their pins.
    async fn show_page(
        &self,
        models: impl Iterator<Item = &mayfly_registry::Model>,
        caller: &Caller,
        query: &PageQuery,
    ) -> Answer<Reply<Page<Model>>> {
        let mut models: Vec<_> = models.map(|model| self.show_model(model)).collect();
        for state in self.0.parts.control.pins(None).await? {
            if let Some(model) = models.iter_mut().find(|model| model.id == state.pin.model) {
                model.pins.push(show::pin(&state, caller.reach == Reach::Host));
            }
        }
        sorted(models, query)
    }
}

pub(super) async fn named(gateway: &Gateway, owner: Owner, name: &str) -> Result<mayfly_registry::Model, Failure> {
    gateway.records().model_named(owner, name).await?.ok_or_else(|| Failure::not_found("model"))
}

async fn delete(gateway: &Gateway, caller: &Caller, owner: Owner, name: &str) -> Answer<StatusCode> {
    let model = named(gateway, owner, name).await?;
    gateway.0.parts.control.remove_model(model.id).await?;
    caller.audit("model.remove", &model.id);
    Ok(StatusCode::NO_CONTENT)
}

async fn import(
    gateway: Gateway,
    caller: Caller,
    owner: Owner,
    name: &str,
    request: Request,
) -> Answer<(StatusCode, Reply<Model>)> {
    let name: Name = name.parse().map_err(|error: mayfly_types::NameError| Failure::invalid(error.to_string()))?;
    let control = gateway.0.parts.control.clone();
    control.may_bring(owner)?;
    let place = gateway.upload_place()?;
    let folder = control.unpack_model(pieces(request)).await?;
    // A task of its own: once the package is here, its import ends and cleans up even if the sender has left.
    let importing = tokio::spawn(actor::keep(async move {
        let model = control.add_model(owner, name, folder).await;
        drop(place);
        model
    }));
    let model = importing.await.map_err(|error| Failure::internal(&error.to_string()))??;
    caller.audit("model.import", &model.id);
    Ok((StatusCode::CREATED, Reply(gateway.show_model(&model))))
}
