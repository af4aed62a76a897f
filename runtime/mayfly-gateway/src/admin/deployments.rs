//! Deployments: deploy, list, show, go back, delete.

use std::collections::BTreeMap;

use axum::Json as Reply;
use axum::extract::{Path, State};
use http::StatusCode;
use mayfly_api as api;
use mayfly_api::{Deployed, DeploymentSummary, NewDeployment, Page, Rollback, Timestamp};
use mayfly_calls::{DeploymentStatus, ModelStatus, Tier};
use mayfly_registry::{Deployment, HandlerSource, ModelEntry, ModelTable, Project, Revision, actor};
use mayfly_types::Name;

use super::Answer;
use super::caller::Caller;
use super::params::{Json, PageQuery, Params, cut};
use crate::Gateway;
use crate::failure::Failure;

/// The deployments of a project, by name.
#[utoipa::path(get, path = "/api/v1/projects/{project}/deployments", tag = "deployments",
    params(("project" = String, Path, description = "The project's name"), ("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<DeploymentSummary>), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(project): Path<String>,
    Params(query): Params<PageQuery>,
) -> Answer<Reply<Page<DeploymentSummary>>> {
    let project = caller.project(&gateway, &project).await?;
    let limit = query.limit()?;
    let found = gateway.records().deployments(project.id, query.after.as_deref(), limit + 1).await?;
    let page = cut(found, limit, |deployment| deployment.name.to_string());
    let mut data = Vec::with_capacity(page.data.len());
    for deployment in page.data {
        let resolved = gateway.0.parts.directory.resolve(project.name.as_str(), deployment.name.as_str()).await?;
        data.push(DeploymentSummary {
            id: deployment.id,
            project: project.name.clone(),
            url: gateway.url(&project.name, &deployment.name),
            revision: resolved.as_ref().map(|resolved| resolved.revision.number),
            tier: resolved.as_ref().map(|resolved| tier(gateway.0.parts.calls.status(resolved).tier)),
            created_at: Timestamp::from_micros(deployment.created_at),
            name: deployment.name,
        });
    }
    Ok(Reply(Page { data, next: page.next }))
}

/// A deployment with its active revision and what is in memory for it.
#[utoipa::path(get, path = "/api/v1/projects/{project}/deployments/{deployment}", tag = "deployments",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "The deployment", body = api::Deployment), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Answer<Reply<api::Deployment>> {
    let (project, deployment) = caller.deployment(&gateway, &project, &name).await?;
    let revision = match deployment.active {
        Some(id) => gateway.records().revision(id).await?,
        None => None,
    };
    Ok(Reply(detail(&gateway, &project, &deployment, revision.as_ref()).await?))
}

/// Makes a revision and lets it answer at once. The deployment is made if there is none of that name.
#[utoipa::path(post, path = "/api/v1/projects/{project}/deployments/{deployment}", tag = "deployments", request_body = NewDeployment,
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "Deployed", body = Deployed), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn deploy(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
    Json(new): Json<NewDeployment>,
) -> Answer<Reply<Deployed>> {
    let project = caller.project(&gateway, &project).await?;
    let name: Name = name.parse().map_err(|error: mayfly_types::NameError| Failure::invalid(error.to_string()))?;
    let request = mayfly_registry::DeployRequest {
        project: project.id,
        name,
        handler: match new.handler {
            api::HandlerSource::Digest(digest) => HandlerSource::Stored(digest),
            api::HandlerSource::Builtin(name) => HandlerSource::Builtin(name),
        },
        models: grants(new.models)?,
        config: new.config,
        limits: new.limits,
        filter: new.filter,
        share_prefixes: new.share_prefixes,
        scale: new.scale,
    };
    let control = gateway.0.parts.control.clone();
    // A task of its own: a deploy that has begun ends, even if whoever asked has left.
    let deploying = tokio::spawn(actor::keep(async move { control.deploy(request).await }));
    let done = deploying.await.map_err(|error| Failure::internal(&error.to_string()))??;
    caller.audit(
        "deployment.deploy",
        &format_args!("{}/{} revision {}", project.name, done.deployment.name, done.revision.number),
    );
    let deployment = detail(&gateway, &project, &done.deployment, Some(&done.revision)).await?;
    Ok(Reply(Deployed { deployment, changed: done.changed, compiled: done.compiled }))
}

/// Deletes a deployment. Calls that run go on; new ones find nothing.
#[utoipa::path(delete, path = "/api/v1/projects/{project}/deployments/{deployment}", tag = "deployments",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 204, description = "Deleted"), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let (project, deployment) = caller.deployment(&gateway, &project, &name).await?;
    gateway.0.parts.control.delete(&deployment).await?;
    gateway.0.called.invalidate(&deployment.id);
    caller.audit("deployment.delete", &format_args!("{}/{}", project.name, deployment.name));
    Ok(StatusCode::NO_CONTENT)
}

/// All revisions, newest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/deployments/{deployment}/revisions", tag = "deployments",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name"), ("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<api::Revision>), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn revisions(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
    Params(query): Params<PageQuery>,
) -> Answer<Reply<Page<api::Revision>>> {
    let (_, deployment) = caller.deployment(&gateway, &project, &name).await?;
    let limit = query.limit()?;
    let below = match query.after.as_deref() {
        None => u32::MAX,
        Some(after) => after.parse().map_err(|_| Failure::invalid("`after` is not a revision's number"))?,
    };
    let mut found = gateway.records().revisions(deployment.id).await?;
    found.retain(|revision| revision.number < below);
    let page = cut(found, limit, |revision| revision.number.to_string());
    let mut data = Vec::with_capacity(page.data.len());
    for revision in &page.data {
        data.push(shown_revision(&gateway, &deployment, revision).await?);
    }
    Ok(Reply(Page { data, next: page.next }))
}

/// Lets an earlier revision answer again.
#[utoipa::path(post, path = "/api/v1/projects/{project}/deployments/{deployment}/rollback", tag = "deployments", request_body = Rollback,
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "The deployment as it is now", body = api::Deployment), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn rollback(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
    Json(rollback): Json<Rollback>,
) -> Answer<Reply<api::Deployment>> {
    let (project, mut deployment) = caller.deployment(&gateway, &project, &name).await?;
    let revision = gateway.0.parts.control.rollback(&deployment, rollback.revision).await?;
    deployment.active = Some(revision.id);
    caller.audit(
        "deployment.rollback",
        &format_args!("{}/{} revision {}", project.name, deployment.name, revision.number),
    );
    Ok(Reply(detail(&gateway, &project, &deployment, Some(&revision)).await?))
}

fn grants(models: BTreeMap<Name, api::ModelEntry>) -> Result<BTreeMap<Name, ModelEntry>, Failure> {
    let entry = |entry: api::ModelEntry| -> Result<ModelEntry, Failure> {
        match entry {
            api::ModelEntry::Name(name) => Ok(ModelEntry::Name(name)),
            api::ModelEntry::Table(table) => {
                let device: mayfly_inference::Device = table
                    .device
                    .parse()
                    .map_err(|error| Failure::invalid(format!("model `{}`: {error}", table.model)))?;
                Ok(ModelEntry::Table(ModelTable { model: table.model, device, all_positions: table.all_positions }))
            }
        }
    };
    models.into_iter().map(|(alias, model)| Ok((alias, entry(model)?))).collect()
}

async fn detail(
    gateway: &Gateway,
    project: &Project,
    deployment: &Deployment,
    revision: Option<&Revision>,
) -> Result<api::Deployment, Failure> {
    let resolved = gateway.0.parts.directory.resolve(project.name.as_str(), deployment.name.as_str()).await?;
    let shown = match revision {
        Some(revision) => Some(shown_revision(gateway, deployment, revision).await?),
        None => None,
    };
    Ok(api::Deployment {
        id: deployment.id,
        project: project.name.clone(),
        name: deployment.name.clone(),
        url: gateway.url(&project.name, &deployment.name),
        revision: shown,
        status: resolved.map(|resolved| status(gateway.0.parts.calls.status(&resolved))),
        created_at: Timestamp::from_micros(deployment.created_at),
    })
}

async fn shown_revision(
    gateway: &Gateway,
    deployment: &Deployment,
    revision: &Revision,
) -> Result<api::Revision, Failure> {
    let mut models = BTreeMap::new();
    for (alias, grant) in &revision.spec.models {
        let name = gateway.records().model(grant.model).await?.map(|model| model.name);
        let device = grant.device.to_string();
        models
            .insert(alias.clone(), api::Grant { model: grant.model, name, device, all_positions: grant.all_positions });
    }
    Ok(api::Revision {
        id: revision.id,
        number: revision.number,
        active: deployment.active == Some(revision.id),
        handler: api::Handler { digest: revision.spec.handler.digest, builtin: revision.spec.handler.builtin.clone() },
        models,
        config: revision.spec.config.clone(),
        limits: revision.spec.limits.clone(),
        filter: revision.spec.filter.clone(),
        share_prefixes: revision.spec.share_prefixes,
        scale: revision.spec.scale,
        created_at: Timestamp::from_micros(revision.created_at),
    })
}

fn status(status: DeploymentStatus) -> api::DeploymentStatus {
    api::DeploymentStatus {
        tier: tier(status.tier),
        calls: status.calls,
        code_mapped: status.code_mapped,
        models: status.models.into_iter().map(model_status).collect(),
    }
}

fn model_status(model: ModelStatus) -> api::ModelStatus {
    let ModelStatus { alias, loaded, kept } = model;
    api::ModelStatus { alias, loaded, kept }
}

pub(crate) fn tier(tier: Tier) -> api::Tier {
    match tier {
        Tier::Zero => api::Tier::Zero,
        Tier::Code => api::Tier::Code,
        Tier::Model => api::Tier::Model,
        Tier::Active => api::Tier::Active,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_deploys_body() {
        let body = r#"{"handler": {"builtin": "embeddings"},
            "models": {"encoder": "minilm", "other": {"model": "big", "device": "cuda", "all_positions": true}},
            "config": {"k": "v"}, "limits": {"deadline_ms_max": 1000},
            "filter": {"block": ["hunter2"]}, "share_prefixes": true,
            "scale": {"concurrency_max": 4, "queue_max": 0, "min_warm": 1}}"#;
        let new: NewDeployment = serde_json::from_str(body).unwrap();
        assert_eq!(new.limits.deadline_ms_max, 1000);
        assert_eq!((&*new.filter.block, new.share_prefixes), (&["hunter2".to_owned()][..], true));
        assert_eq!((new.scale.concurrency_max, new.scale.queue_max, new.scale.is_warm()), (Some(4), Some(0), true));
        let grants = grants(new.models).unwrap();
        assert_eq!(grants.len(), 2);
        assert!(
            matches!(&grants["other"], ModelEntry::Table(table) if table.all_positions && table.device == mayfly_inference::Device::Cuda)
        );
    }

    #[test]
    fn deploys_that_are_refused() {
        for body in [
            r"{}",
            r#"{"handler": {}}"#,
            r#"{"handler": {"digest": "sha256:00"}}"#,
            r#"{"handler": {"builtin": "a", "digest": "b"}}"#,
            r#"{"handler": {"builtin": "a"}, "modles": {}}"#,
            r#"{"handler": {"builtin": "a"}, "limits": {"memory": 1}}"#,
            r#"{"handler": {"builtin": "a"}, "filter": {"blocked": []}}"#,
            r#"{"handler": {"builtin": "a"}, "scale": {"instances": 3}}"#,
            r#"{"handler": {"builtin": "a"}, "models": {"Not A Name": "x"}}"#,
        ] {
            assert!(serde_json::from_str::<NewDeployment>(body).is_err(), "{body}");
        }
        let new: NewDeployment =
            serde_json::from_str(r#"{"handler": {"builtin": "a"}, "models": {"m": {"model": "x", "device": "tpu"}}}"#)
                .unwrap();
        assert!(grants(new.models).unwrap_err().message.contains("tpu"));
    }
}
