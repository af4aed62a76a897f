//! For load balancers and monitoring. On the admin listener only; no key, because what they show names no secret.

use axum::Json as Reply;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use mayfly_api::Health;

use super::Answer;
use super::activity::{Watched, watched};
use super::deployments::tier;
use crate::{Gateway, metrics};

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "Alive", body = Health)))]
pub(crate) async fn healthz() -> Reply<Health> {
    Reply(Health { status: "ok".to_owned() })
}

/// The node takes calls: it is not stopping, and its store answers.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, description = "Ready", body = Health), (status = 503, description = "Not ready", body = Health)))]
pub(crate) async fn readyz(State(gateway): State<Gateway>) -> Response {
    let why_not = if gateway.is_draining() {
        Some("stopping")
    } else if gateway.records().version().await.is_err() {
        Some("the store does not answer")
    } else {
        None
    };
    let status = if why_not.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Reply(Health { status: why_not.unwrap_or("ok").to_owned() })).into_response()
}

/// Figures in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(gateway): State<Gateway>) -> Answer<Response> {
    let shown = |Watched { resolved, status, activity }: Watched| metrics::Deployment {
        project: resolved.project.name.clone(),
        name: resolved.deployment.name.clone(),
        tier: tier(status.tier),
        activity,
    };
    let mut watched: Vec<_> = watched(&gateway).await?.into_iter().map(shown).collect();
    watched.sort_by(|one, other| (&one.project, &one.name).cmp(&(&other.project, &other.name)));
    let figures = metrics::Figures {
        status: gateway.0.parts.calls.node_status(),
        deployments: gateway.records().deployment_count().await?,
        watched,
        started_at: gateway.0.started_at,
        resident_bytes: metrics::resident_bytes().await,
        version: gateway.0.parts.node.version.clone(),
    };
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::text(&figures)).into_response())
}
