//! Keys. The operator makes any; a deploy key makes keys that may only call, within its own reach.

use axum::Json as Reply;
use axum::extract::{Path, State};
use http::StatusCode;
use mayfly_api::{CreatedKey, DeploymentKeys, ErrorCode, Key, NewKey, Page, Scope};
use mayfly_registry::{KeyRequest, KeyScope, Slot};
use mayfly_types::{DeploymentId, ProjectId, TenantId};

use super::Answer;
use super::caller::Caller;
use super::params::{Json, PageQuery, Params, page};
use super::{level, show};
use crate::Gateway;
use crate::access::Reach;
use crate::failure::Failure;

/// Characters of a label.
const LABEL_CHARS_MAX: usize = 100;
/// Deployments that one key may be bound to.
const DEPLOYMENTS_MAX: usize = 100;

/// The keys within the key's reach, oldest first. Never with a secret.
#[utoipa::path(get, path = "/api/v1/keys", tag = "keys",
    params(("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<Key>), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<Reply<Page<Key>>> {
    let found = gateway.records().keys(caller.reach.tenant()).await?;
    let mut keys: Vec<Key> =
        found.iter().filter(|key| caller.reach.covers(key.tenant, key.project)).map(show::key).collect();
    keys.sort_by_key(|key| key.id);
    Ok(Reply(page(keys, query.after.as_deref(), query.limit()?, |key| key.id.to_string())))
}

/// A new key. The answer is the only place its secret is ever in.
#[utoipa::path(post, path = "/api/v1/keys", tag = "keys", request_body = NewKey,
    responses((status = 201, description = "Made; the secret is shown this once", body = CreatedKey), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    caller: Caller,
    Json(new): Json<NewKey>,
) -> Answer<(StatusCode, Reply<CreatedKey>)> {
    check(&new, caller.reach)?;
    let (tenant, project) = place(&gateway, &caller, &new).await?;
    let scopes = new.scopes.iter().map(|scope| show::scope_of(*scope)).collect();
    let label = mayfly_api::clean_line(&new.label);
    let expires_at = new.expires_at.map(mayfly_api::Timestamp::micros);
    let deployments = bound_to(&gateway, &caller, &new).await?;
    let request = KeyRequest { tenant, project, label, scopes, deployments, limits: new.limits.into(), expires_at };
    let (key, secret) = gateway.0.parts.control.create_key(request).await?;
    caller.audit("key.create", &key.id);
    let created = CreatedKey { key: show::key(&key), secret: secret.expose().to_owned() };
    Ok((StatusCode::CREATED, Reply(created)))
}

/// Revokes a key.
#[utoipa::path(delete, path = "/api/v1/keys/{id}", tag = "keys", params(("id" = String, Path, description = "The key's id")),
    responses((status = 204, description = "Revoked"), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn revoke(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    let key = level::key(&gateway, &caller, &id).await?;
    if caller.reach != Reach::Host && key.scopes != [KeyScope::Call] {
        return Err(Failure::scope("admin"));
    }
    gateway.0.parts.control.revoke_key(key.id).await?;
    caller.audit("key.revoke", &key.id);
    Ok(StatusCode::NO_CONTENT)
}

/// A deployment's own two keys, without their secrets.
#[utoipa::path(get, path = "/api/v1/projects/{project}/deployments/{deployment}/keys", tag = "keys",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "Both keys", body = DeploymentKeys), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn of_deployment(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Answer<Reply<DeploymentKeys>> {
    let (_project, deployment) = caller.deployment(&gateway, &project, &name).await?;
    let keys = gateway.records().slot_keys(deployment.id).await?;
    let shown = |slot| keys.iter().find(|key| key.slot == Some((deployment.id, slot))).map(show::key);
    Ok(Reply(DeploymentKeys { primary: shown(Slot::Primary), secondary: shown(Slot::Secondary) }))
}

/// Makes one of a deployment's own two keys anew. Its old secret is dead, the other key lives: callers that have moved
/// to the other one first lose nothing. The answer is the only place the new secret is ever in.
#[utoipa::path(post, path = "/api/v1/projects/{project}/deployments/{deployment}/keys/{slot}", tag = "keys",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name"), ("slot" = String, Path, description = "`primary` or `secondary`")),
    responses((status = 201, description = "Made; the secret is shown this once", body = CreatedKey), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn rotate(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name, slot)): Path<(String, String, String)>,
) -> Answer<(StatusCode, Reply<CreatedKey>)> {
    let (_project, deployment) = caller.deployment(&gateway, &project, &name).await?;
    let slot = Slot::ALL.into_iter().find(|known| known.as_str() == slot);
    let slot = slot.ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, "there is no such slot; a deployment has `primary` and `secondary`")
    })?;
    let (key, secret) = gateway.0.parts.control.rotate_key(&deployment, slot).await?;
    caller.audit("key.rotate", &key.id);
    let created = CreatedKey { key: show::key(&key), secret: secret.expose().to_owned() };
    Ok((StatusCode::CREATED, Reply(created)))
}

/// The deployments a new key is bound to: ids, `project/name`, or names in its project.
async fn bound_to(gateway: &Gateway, caller: &Caller, new: &NewKey) -> Result<Vec<DeploymentId>, Failure> {
    if new.deployments.len() > DEPLOYMENTS_MAX {
        return Err(Failure::invalid(format!("`deployments` names more than {DEPLOYMENTS_MAX}")));
    }
    let mut ids = Vec::with_capacity(new.deployments.len());
    for text in &new.deployments {
        if let Ok(id) = text.parse() {
            ids.push(id);
            continue;
        }
        let (project, name) = match (text.split_once('/'), &new.project) {
            (Some(both), _) => both,
            (None, Some(project)) => (project.as_str(), text.as_str()),
            (None, None) => {
                return Err(Failure::invalid("`deployments` has a name without `project`; give `project/name`"));
            }
        };
        let found = caller
            .deployment(gateway, project, name)
            .await
            .map_err(|failure| Failure { message: format!("`deployments`: {}", failure.message), ..failure })?;
        ids.push(found.1.id);
    }
    Ok(ids)
}

/// Whether the key asked for makes sense, and whether `reach` may make it.
fn check(new: &NewKey, reach: Reach) -> Result<(), Failure> {
    if new.scopes.is_empty() {
        return Err(Failure::invalid("`scopes` is empty; give `call`, `deploy` or `admin`"));
    }
    if new.label.chars().count() > LABEL_CHARS_MAX {
        return Err(Failure::invalid(format!("`label` is longer than {LABEL_CHARS_MAX} characters")));
    }
    let admin = new.scopes.contains(&Scope::Admin);
    if admin && (new.tenant.is_some() || new.project.is_some()) {
        return Err(Failure::invalid(
            "a key with the scope `admin` is the operator's: it has no tenant and no project",
        ));
    }
    if reach == Reach::Host && !admin && new.tenant.is_none() && new.project.is_none() {
        return Err(Failure::invalid("`project` or `tenant` is missing: say what the key may reach"));
    }
    if reach != Reach::Host && new.scopes.iter().any(|scope| *scope != Scope::Call) {
        return Err(Failure::scope("admin"));
    }
    Ok(())
}

/// The tenant and project a new key will be bound to.
async fn place(
    gateway: &Gateway,
    caller: &Caller,
    new: &NewKey,
) -> Result<(Option<TenantId>, Option<ProjectId>), Failure> {
    let named = match &new.tenant {
        Some(name) => {
            let found = gateway.records().tenant_named(name.as_str()).await?;
            let own = found.filter(|tenant| caller.reach == Reach::Host || caller.reach.tenant() == Some(tenant.id));
            Some(own.ok_or_else(|| Failure::not_found("tenant"))?.id)
        }
        None => None,
    };
    let (tenant, project) = match &new.project {
        Some(name) => {
            let project = caller.project(gateway, name.as_str()).await?;
            if named.is_some_and(|tenant| tenant != project.tenant) {
                return Err(Failure::not_found("project"));
            }
            (Some(project.tenant), Some(project.id))
        }
        None => {
            let (tenant, project) = caller.confines();
            (named.or(tenant), project)
        }
    };
    if !caller.reach.covers(tenant, project) {
        return Err(Failure::scope("admin"));
    }
    Ok((tenant, project))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn new(scopes: &[Scope], project: Option<&str>) -> NewKey {
        NewKey {
            label: String::new(),
            scopes: scopes.to_vec(),
            tenant: None,
            project: project.map(|name| name.parse().unwrap()),
            deployments: Vec::new(),
            limits: Default::default(),
            expires_at: None,
        }
    }

    #[test]
    fn who_may_make_which_key() {
        let tenant = Reach::Tenant(TenantId::new());
        assert!(check(&new(&[Scope::Call], None), tenant).is_ok());
        assert_eq!(check(&new(&[Scope::Deploy], None), tenant).unwrap_err().code, ErrorCode::InsufficientScope);
        assert_eq!(
            check(&new(&[Scope::Call, Scope::Admin], None), tenant).unwrap_err().code,
            ErrorCode::InsufficientScope
        );
        assert!(check(&new(&[Scope::Admin], None), Reach::Host).is_ok());
        assert!(check(&new(&[Scope::Deploy], Some("p")), Reach::Host).is_ok());
    }

    #[test]
    fn keys_that_make_no_sense() {
        assert!(check(&new(&[], None), Reach::Host).is_err());
        assert!(check(&new(&[Scope::Admin], Some("p")), Reach::Host).is_err());
        assert!(check(&new(&[Scope::Call], None), Reach::Host).is_err(), "it would reach nothing");
        let long = NewKey { label: "x".repeat(101), ..new(&[Scope::Call], Some("p")) };
        assert!(check(&long, Reach::Host).is_err());
    }
}
