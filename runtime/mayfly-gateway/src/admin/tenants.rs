//! Tenants. For the operator only.

use axum::Json as Reply;
use axum::extract::State;
use http::StatusCode;
use mayfly_api::{NewTenant, Page, Tenant};

use super::Answer;
use super::caller::Caller;
use super::params::{Json, PageQuery, Params, page};
use super::show;
use crate::Gateway;

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
