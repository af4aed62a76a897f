//! Prepaid credit of tenants, projects, deployments and keys: granted by the operator, read by whoever may see the level.

use axum::Json as Reply;
use axum::extract::{Path, State};
use http::StatusCode;
use mayfly_api::{self as api, CreditGrant, NewCredit, Timestamp};
use mayfly_ledger::{Credit, Grant};
use mayfly_registry::{AuditEntry, Key, actor};
use mayfly_types::{KeyId, LevelId, Money, ProjectId, TenantId};

use super::Answer;
use super::caller::Caller;
use super::params::Json;
use crate::Gateway;
use crate::access::Reach;
use crate::failure::Failure;
use crate::time::now_micros;

/// Characters of a note.
const NOTE_CHARS_MAX: usize = 200;

/// A tenant's credit.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/credit", tag = "credit", params(("tenant" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The account", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn show_tenant(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(tenant): Path<String>,
) -> Answer<Reply<api::Credit>> {
    let level = LevelId::Tenant(find_tenant(&gateway, &caller, &tenant).await?);
    read(&gateway, level).await
}

/// Gives a tenant credit, or takes some back. For the operator only.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/credit", tag = "credit", request_body = NewCredit, params(("tenant" = String, Path, description = "The tenant's name")),
    responses((status = 201, description = "Granted; the account after it", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn grant_tenant(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(tenant): Path<String>,
    Json(new): Json<NewCredit>,
) -> Answer<(StatusCode, Reply<api::Credit>)> {
    caller.operator()?;
    let tenant = find_tenant(&gateway, &caller, &tenant).await?;
    grant(gateway, Place { level: LevelId::Tenant(tenant), tenant: Some(tenant), project: None }, new).await
}

/// A project's credit.
#[utoipa::path(get, path = "/api/v1/projects/{project}/credit", tag = "credit", params(("project" = String, Path, description = "The project's name")),
    responses((status = 200, description = "The account", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn show_project(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(project): Path<String>,
) -> Answer<Reply<api::Credit>> {
    let project = caller.project(&gateway, &project).await?;
    read(&gateway, LevelId::Project(project.id)).await
}

/// Gives a project credit, or takes some back. For the operator only.
#[utoipa::path(post, path = "/api/v1/projects/{project}/credit", tag = "credit", request_body = NewCredit, params(("project" = String, Path, description = "The project's name")),
    responses((status = 201, description = "Granted; the account after it", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn grant_project(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(project): Path<String>,
    Json(new): Json<NewCredit>,
) -> Answer<(StatusCode, Reply<api::Credit>)> {
    caller.operator()?;
    let project = caller.project(&gateway, &project).await?;
    let level = LevelId::Project(project.id);
    grant(gateway, Place { level, tenant: Some(project.tenant), project: Some(project.id) }, new).await
}

/// A deployment's credit.
#[utoipa::path(get, path = "/api/v1/projects/{project}/deployments/{deployment}/credit", tag = "credit",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "The account", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn show_deployment(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, deployment)): Path<(String, String)>,
) -> Answer<Reply<api::Credit>> {
    let (_, deployment) = caller.deployment(&gateway, &project, &deployment).await?;
    read(&gateway, LevelId::Deployment(deployment.id)).await
}

/// Gives a deployment credit, or takes some back. For the operator only.
#[utoipa::path(post, path = "/api/v1/projects/{project}/deployments/{deployment}/credit", tag = "credit", request_body = NewCredit,
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 201, description = "Granted; the account after it", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn grant_deployment(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, deployment)): Path<(String, String)>,
    Json(new): Json<NewCredit>,
) -> Answer<(StatusCode, Reply<api::Credit>)> {
    caller.operator()?;
    let (project, deployment) = caller.deployment(&gateway, &project, &deployment).await?;
    let level = LevelId::Deployment(deployment.id);
    grant(gateway, Place { level, tenant: Some(project.tenant), project: Some(project.id) }, new).await
}

/// A key's credit.
#[utoipa::path(get, path = "/api/v1/keys/{id}/credit", tag = "credit", params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, description = "The account", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn show_key(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Reply<api::Credit>> {
    let key = find_key(&gateway, &caller, &id).await?;
    read(&gateway, LevelId::Key(key.id)).await
}

/// Gives a key credit, or takes some back. For the operator only.
#[utoipa::path(post, path = "/api/v1/keys/{id}/credit", tag = "credit", request_body = NewCredit, params(("id" = String, Path, description = "The key's id")),
    responses((status = 201, description = "Granted; the account after it", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn grant_key(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewCredit>,
) -> Answer<(StatusCode, Reply<api::Credit>)> {
    caller.operator()?;
    let key = find_key(&gateway, &caller, &id).await?;
    grant(gateway, Place { level: LevelId::Key(key.id), tenant: key.tenant, project: key.project }, new).await
}

/// The tenant of that name, if the key reaches all of it.
async fn find_tenant(gateway: &Gateway, caller: &Caller, name: &str) -> Result<TenantId, Failure> {
    let found = gateway.records().tenant_named(name).await?;
    let seen = found.filter(|tenant| caller.reach == Reach::Host || caller.reach.covers(Some(tenant.id), None));
    Ok(seen.ok_or_else(|| Failure::not_found("tenant"))?.id)
}

async fn find_key(gateway: &Gateway, caller: &Caller, id: &str) -> Result<Key, Failure> {
    let missing = || Failure::not_found("key");
    let id: KeyId = id.parse().map_err(|_| missing())?;
    let key = gateway.records().key(id).await?;
    key.filter(|key| caller.reach.covers(key.tenant, key.project)).ok_or_else(missing)
}

async fn read(gateway: &Gateway, level: LevelId) -> Answer<Reply<api::Credit>> {
    let credit = gateway.0.parts.journal.credit(level).await?;
    Ok(Reply(show(level, credit.as_ref(), gateway.currency())))
}

/// A level, and whose it is.
struct Place {
    level: LevelId,
    tenant: Option<TenantId>,
    project: Option<ProjectId>,
}

async fn grant(gateway: Gateway, place: Place, new: NewCredit) -> Answer<(StatusCode, Reply<api::Credit>)> {
    let Place { level, tenant, project } = place;
    let note = check(&new)?;
    let details = serde_json::json!({ "amount": new.amount, "note": note });
    let grant = Grant { level, amount: new.amount, note, at: now_micros() };
    let target = format!("{} {}", level.kind(), id_of(level));
    let entry = AuditEntry { tenant, project, action: "credit.grant", target, details };
    let this = gateway.clone();
    // A task of its own: once the grant is written, admission learns of it even if whoever asked has left.
    let granting = tokio::spawn(actor::keep(async move {
        this.0.parts.journal.grant(grant).await?;
        this.0.parts.calls.money_changed();
        this.records().audit(entry).await?;
        Ok::<(), Failure>(())
    }));
    granting.await.map_err(|error| Failure::internal(&error.to_string()))??;
    let Reply(credit) = read(&gateway, level).await?;
    Ok((StatusCode::CREATED, Reply(credit)))
}

/// The note, made safe to show.
fn check(new: &NewCredit) -> Result<String, Failure> {
    if new.amount == Money::ZERO {
        return Err(Failure::invalid("`amount` is 0; give a number above zero, or below it to take credit back"));
    }
    if new.note.chars().count() > NOTE_CHARS_MAX {
        return Err(Failure::invalid(format!("`note` is longer than {NOTE_CHARS_MAX} characters")));
    }
    Ok(api::clean_line(&new.note))
}

pub(super) fn id_of(level: LevelId) -> String {
    match level {
        LevelId::Tenant(id) => id.to_string(),
        LevelId::Project(id) => id.to_string(),
        LevelId::Deployment(id) => id.to_string(),
        LevelId::Key(id) => id.to_string(),
    }
}

fn show(level: LevelId, credit: Option<&Credit>, currency: &str) -> api::Credit {
    let (granted, spent) = credit.map_or((Money::ZERO, Money::ZERO), |credit| (credit.granted, credit.spent));
    let grants = credit.map(|credit| credit.grants.as_slice()).unwrap_or_default().iter();
    api::Credit {
        level: level.kind().to_owned(),
        id: id_of(level),
        granted,
        spent,
        balance: granted.saturating_sub(spent),
        currency: currency.to_owned(),
        grants: grants
            .map(|grant| CreditGrant {
                amount: grant.amount,
                note: api::clean_line(&grant.note),
                at: Timestamp::from_micros(grant.at),
            })
            .collect(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn what_can_be_granted() {
        let check = |amount: &str, note: &str| check(&NewCredit { amount: money(amount), note: note.to_owned() });
        assert_eq!(check("10", "May\u{1b}[2J").unwrap(), "May[2J");
        assert!(check("-2.5", "").is_ok(), "credit can be taken back");
        assert!(check("0", "").unwrap_err().message.contains("`amount`"));
        assert!(check("1", &"x".repeat(201)).unwrap_err().message.contains("`note`"));
    }

    #[test]
    fn a_balance_is_what_is_left() {
        let level = LevelId::Tenant(TenantId::new());
        let grants = vec![Grant { level, amount: money("10"), note: "start".to_owned(), at: 5 }];
        let credit = Credit { granted: money("10"), spent: money("12.5"), grants };
        let shown = show(level, Some(&credit), "EUR");
        assert_eq!((shown.level.as_str(), shown.balance, shown.currency.as_str()), ("tenant", money("-2.5"), "EUR"));
        assert_eq!((shown.grants.len(), shown.grants[0].note.as_str()), (1, "start"));
        assert_eq!(show(level, None, "EUR").balance, Money::ZERO);
    }
}
