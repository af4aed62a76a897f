//! Tenants. For the operator only.

use axum::Json as Reply;
use axum::extract::{Path, State};
use http::StatusCode;
use mayfly_api::{ErrorCode, NewTenant, Page, Tenant};
use mayfly_types::LevelId;

use super::Answer;
use super::caller::Caller;
use super::params::{Json, PageQuery, Params, page};
use super::show;
use crate::Gateway;
use crate::failure::Failure;

/// All tenants, by name.
#[utoipa::path(get, path = "/api/v1/tenants", tag = "tenants",
    params(("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<Tenant>), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<Reply<Page<Tenant>>> {
    caller.operator()?;
    let mut tenants: Vec<Tenant> = gateway.records().tenants().await?.iter().map(show::tenant).collect();
    tenants.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Reply(page(tenants, query.after.as_deref(), query.limit()?, |tenant| tenant.name.to_string())))
}

/// A new tenant.
#[utoipa::path(post, path = "/api/v1/tenants", tag = "tenants", request_body = NewTenant,
    responses((status = 201, description = "Made", body = Tenant), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    caller: Caller,
    Json(new): Json<NewTenant>,
) -> Answer<(StatusCode, Reply<Tenant>)> {
    caller.operator()?;
    let tenant = gateway.0.parts.control.create_tenant(new.name).await?;
    caller.audit("tenant.create", &tenant.name);
    Ok((StatusCode::CREATED, Reply(show::tenant(&tenant))))
}

/// Deletes a tenant: its keys are revoked, its name is free, what it used stays in the ledger. Refused while it has
/// projects.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}", tag = "tenants",
    params(("tenant" = String, Path, description = "The tenant's name")),
    responses((status = 204, description = "Deleted"), (status = "default", description = "A problem; 409 names what is left in it", body = mayfly_api::Problem)))]
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    caller.operator()?;
    let tenant = gateway.records().tenant_named(&name).await?.ok_or_else(|| Failure::not_found("tenant"))?;
    let deleted = gateway.0.parts.control.delete_tenant(tenant.id).await;
    deleted.map_err(|error| still_used(&gateway, LevelId::Tenant(tenant.id), error.into()))?;
    caller.audit("tenant.delete", &tenant.name);
    Ok(StatusCode::NO_CONTENT)
}

/// A refusal to delete also says how many calls are open.
pub(super) fn still_used(gateway: &Gateway, level: LevelId, mut failure: Failure) -> Failure {
    let open = gateway.0.parts.calls.open_at(level);
    if failure.code == ErrorCode::Conflict && open > 0 {
        failure.message.push_str(&format!("; {open} of its calls are open"));
        return failure.with_detail("open_calls", open.into());
    }
    failure
}
