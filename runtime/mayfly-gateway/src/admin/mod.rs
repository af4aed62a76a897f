//! The control plane: `/api/v1/*`, its OpenAPI document, and what operators watch.
//!
//! Every route is registered together with its description (`routes!`), so none can be missing from the document.
//! Everything below `/api` passes one authentication before any handler runs.

mod activity;
mod artifacts;
mod audit;
mod caller;
mod credit;
mod deployments;
mod estimate;
mod keys;
mod ledger;
mod level;
mod limits;
mod logs;
mod models;
mod node;
mod ops;
mod params;
mod pins;
mod prices;
mod projects;
mod requests;
mod show;
mod tenants;
mod usage;

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::response::{IntoResponse, Response as AxumResponse};
use futures::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mayfly_api::ErrorCode;
use mayfly_calls::Body;
use mayfly_types::RequestId;
use tower::ServiceExt;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::failure::Failure;
use crate::limits::Paced;
use crate::{Gateway, headers};

/// What a handler gives.
type Answer<T> = Result<T, Failure>;

/// Answers one request, whatever happens.
pub(crate) async fn answer(gateway: Gateway, router: Router, request: Request<Incoming>) -> Response<Body> {
    let id = RequestId::new();
    let client = headers::client_request_id(request.headers());
    let pace = gateway.0.config.body_idle();
    let (parts, body) = request.into_parts();
    let fits = headers::fits(&parts, &gateway.0.config);
    let mut request = Request::from_parts(parts, axum::body::Body::new(Paced::new(body, pace)));
    // For the trail of what it changes.
    request.extensions_mut().insert(id);
    let mut response = if fits {
        match AssertUnwindSafe(router.oneshot(request)).catch_unwind().await {
            Ok(Ok(response)) => finish(response, id),
            Ok(Err(never)) => match never {},
            Err(panic) => {
                let text = crate::data::panic_text(&*panic);
                Failure::internal(&format!("panic in request {id}: {text}")).into_problem(id)
            }
        }
    } else {
        Failure::new(
            ErrorCode::HeadersTooLarge,
            "the head of the request is larger than header_bytes_max or headers_max",
        )
        .into_problem(id)
    };
    headers::mark(response.headers_mut(), id, client);
    response
}

/// A failure on its way out of the router becomes a problem with the request's id.
fn finish(response: AxumResponse, id: RequestId) -> Response<Body> {
    if let Some(failure) = response.extensions().get::<Failure>() {
        return failure.clone().into_problem(id);
    }
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

impl IntoResponse for Failure {
    fn into_response(self) -> AxumResponse {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// All routes, with their descriptions.
fn described() -> (OpenApiRouter<Gateway>, OpenApiRouter<Gateway>) {
    let protected = OpenApiRouter::new()
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::delete))
        .routes(routes!(projects::list, projects::create))
        .routes(routes!(projects::delete))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .routes(routes!(keys::of_deployment))
        .routes(routes!(keys::rotate))
        .routes(routes!(limits::of_tenant, limits::set_of_tenant))
        .routes(routes!(limits::of_project, limits::set_of_project))
        .routes(routes!(limits::of_deployment, limits::set_of_deployment))
        .routes(routes!(limits::of_key, limits::set_of_key))
        .routes(routes!(audit::read))
        .routes(routes!(artifacts::upload))
        .routes(routes!(models::list_host))
        .routes(routes!(models::show_host, models::add_host, models::remove_host))
        .routes(routes!(models::list))
        .routes(routes!(models::show, models::add, models::remove))
        .routes(routes!(models::approve))
        .routes(routes!(pins::pin_host, pins::unpin_host))
        .routes(routes!(pins::pin, pins::unpin))
        .routes(routes!(deployments::list))
        .routes(routes!(deployments::show, deployments::deploy, deployments::delete))
        .routes(routes!(deployments::revisions))
        .routes(routes!(deployments::rollback))
        .routes(routes!(logs::read))
        .routes(routes!(requests::show))
        .routes(routes!(usage::read))
        .routes(routes!(prices::list, prices::add))
        .routes(routes!(prices::check))
        .routes(routes!(estimate::estimate))
        .routes(routes!(credit::show_tenant, credit::grant_tenant))
        .routes(routes!(credit::show_project, credit::grant_project))
        .routes(routes!(credit::show_deployment, credit::grant_deployment))
        .routes(routes!(credit::show_key, credit::grant_key))
        .routes(routes!(ledger::verify))
        .routes(routes!(activity::list))
        .routes(routes!(node::show));
    let open = OpenApiRouter::new()
        .routes(routes!(ops::healthz))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::metrics))
        .routes(routes!(document));
    (protected, open)
}

/// The router of the admin listener.
pub(crate) fn router(gateway: Gateway) -> Router {
    let (protected, open) = described();
    let authenticate = axum::middleware::from_fn_with_state(gateway.clone(), caller::authenticate);
    let (protected, _) = protected.split_for_parts();
    let (open, _) = open.split_for_parts();
    open.merge(protected.route_layer(authenticate))
        .fallback(|| async { Failure::new(ErrorCode::NotFound, "there is no such path; see /openapi.json") })
        .method_not_allowed_fallback(|| async {
            Failure::new(ErrorCode::MethodNotAllowed, "this path has other methods; see /openapi.json")
        })
        .with_state(gateway)
}

/// The OpenAPI 3.1 document of the control plane.
pub fn openapi() -> OpenApi {
    let (protected, open) = described();
    let mut document = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Mayfly control plane")
                .version("1")
                .description(Some("Deploy handlers, import models, make keys, read logs and usage.")),
        )
        .components(Some(Components::new()))
        .build();
    let mut protected = protected.into_openapi();
    for item in protected.paths.paths.values_mut() {
        for (_, operation) in operations(item) {
            operation.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
        }
    }
    document.merge(protected);
    document.merge(open.into_openapi());
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            operation.operation_id = Some(operation_id(method, path));
        }
    }
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme("key", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    document
}

/// The operations of a path that this API uses, by method.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [("get", &mut item.get), ("put", &mut item.put), ("post", &mut item.post), ("delete", &mut item.delete)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// A name for generated clients that no other operation has, for example `get_projects_project_models`.
fn operation_id(method: &str, path: &str) -> String {
    let words =
        path.trim_start_matches("/api/v1").split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("_")
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn document() -> axum::Json<OpenApi> {
    axum::Json(openapi())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
