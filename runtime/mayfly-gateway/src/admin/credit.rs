//! Prepaid credit of tenants, projects, deployments and keys: granted by the operator, read by whoever may see the level.

use axum::Json as Reply;
use axum::extract::State;
use http::StatusCode;
use mayfly_api::{self as api, CreditGrant, NewCredit, Timestamp};
use mayfly_ledger::{Credit, Grant};
use mayfly_registry::actor;
use mayfly_types::{LevelId, Money};

use super::Answer;
use super::caller::Caller;
use super::level::Level;
use super::params::Json;
use crate::Gateway;
use crate::failure::Failure;
use crate::time::now_micros;

/// Characters of a note.
const NOTE_CHARS_MAX: usize = 200;

/// A tenant's credit.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/credit", tag = "credit",
    params(("tenant" = String, Path, description = "The tenant's name")),
    responses((status = 200, description = "The account", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn show_tenant(State(gateway): State<Gateway>, level: Level) -> Answer<Reply<api::Credit>> {
    read(&gateway, level.id).await
}

/// Gives a tenant credit, or takes some back. For the operator only.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/credit", tag = "credit", request_body = NewCredit,
    params(("tenant" = String, Path, description = "The tenant's name")),
    responses((status = 201, description = "Granted; the account after it", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn grant_tenant(
    State(gateway): State<Gateway>,
    caller: Caller,
    level: Level,
    Json(new): Json<NewCredit>,
) -> Answer<(StatusCode, Reply<api::Credit>)> {
    grant(gateway, &caller, level.id, new).await
}

/// A project's credit.
#[utoipa::path(get, path = "/api/v1/projects/{project}/credit", tag = "credit",
    params(("project" = String, Path, description = "The project's name")),
    responses((status = 200, description = "The account", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn show_project(State(gateway): State<Gateway>, level: Level) -> Answer<Reply<api::Credit>> {
    read(&gateway, level.id).await
}

/// Gives a project credit, or takes some back. For the operator only.
#[utoipa::path(post, path = "/api/v1/projects/{project}/credit", tag = "credit", request_body = NewCredit,
    params(("project" = String, Path, description = "The project's name")),
    responses((status = 201, description = "Granted; the account after it", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn grant_project(
    State(gateway): State<Gateway>,
    caller: Caller,
    level: Level,
    Json(new): Json<NewCredit>,
) -> Answer<(StatusCode, Reply<api::Credit>)> {
    grant(gateway, &caller, level.id, new).await
}

/// A deployment's credit.
#[utoipa::path(get, path = "/api/v1/projects/{project}/deployments/{deployment}/credit", tag = "credit",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 200, description = "The account", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn show_deployment(State(gateway): State<Gateway>, level: Level) -> Answer<Reply<api::Credit>> {
    read(&gateway, level.id).await
}

/// Gives a deployment credit, or takes some back. For the operator only.
#[utoipa::path(post, path = "/api/v1/projects/{project}/deployments/{deployment}/credit", tag = "credit", request_body = NewCredit,
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name")),
    responses((status = 201, description = "Granted; the account after it", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn grant_deployment(
    State(gateway): State<Gateway>,
    caller: Caller,
    level: Level,
    Json(new): Json<NewCredit>,
) -> Answer<(StatusCode, Reply<api::Credit>)> {
    grant(gateway, &caller, level.id, new).await
}

/// A key's credit.
#[utoipa::path(get, path = "/api/v1/keys/{id}/credit", tag = "credit",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, description = "The account", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn show_key(State(gateway): State<Gateway>, level: Level) -> Answer<Reply<api::Credit>> {
    read(&gateway, level.id).await
}

/// Gives a key credit, or takes some back. For the operator only.
#[utoipa::path(post, path = "/api/v1/keys/{id}/credit", tag = "credit", request_body = NewCredit,
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 201, description = "Granted; the account after it", body = api::Credit), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn grant_key(
    State(gateway): State<Gateway>,
    caller: Caller,
    level: Level,
    Json(new): Json<NewCredit>,
) -> Answer<(StatusCode, Reply<api::Credit>)> {
    grant(gateway, &caller, level.id, new).await
}

async fn read(gateway: &Gateway, level: LevelId) -> Answer<Reply<api::Credit>> {
    let credit = gateway.0.parts.journal.credit(level).await?;
    Ok(Reply(show(level, credit.as_ref(), gateway.currency())))
}

async fn grant(
    gateway: Gateway,
    caller: &Caller,
    level: LevelId,
    new: NewCredit,
) -> Answer<(StatusCode, Reply<api::Credit>)> {
    caller.operator()?;
    let note = check(&new)?;
    let grant = Grant { level, amount: new.amount, note, at: now_micros() };
    let this = gateway.clone();
    // A task of its own: once the grant is written, admission learns of it even if whoever asked has left.
    let granting = tokio::spawn(actor::keep(async move {
        this.0.parts.journal.grant(grant).await?;
        this.0.parts.calls.money_changed();
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

fn id_of(level: LevelId) -> String {
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
    use mayfly_types::TenantId;

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
