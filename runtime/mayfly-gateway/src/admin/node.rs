//! What this node is made of and what it uses. For those who deploy too: limits are theirs to plan with.

use axum::Json as Reply;
use axum::extract::State;
use mayfly_api::{Node, Timestamp};
use mayfly_types::GuestLimits;

use super::Answer;
use super::caller::Caller;
use crate::access::Reach;
use crate::{Gateway, metrics};

/// Versions, limits and figures of this node. Figures over all tenants are for the operator; others see zeros there.
#[utoipa::path(get, path = "/api/v1/node", tag = "operations",
    responses((status = 200, description = "This node", body = Node), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn show(State(gateway): State<Gateway>, caller: Caller) -> Answer<Reply<Node>> {
    let info = &gateway.0.parts.node;
    let operator = caller.reach == Reach::Host;
    let (status, deployments, resident_bytes) = if operator {
        let deployments = gateway.records().deployment_count().await?;
        (gateway.0.parts.calls.node_status(), deployments, metrics::resident_bytes().await)
    } else {
        Default::default()
    };
    Ok(Reply(Node {
        version: info.version.clone(),
        engine: info.engine.clone(),
        onnxruntime: info.onnxruntime.clone(),
        started_at: Timestamp::from_micros(gateway.0.started_at),
        builtins: info.builtins.clone(),
        limits: info.limits.clone(),
        guest_limits: GuestLimits::default(),
        deployments,
        calls_open: status.calls_open,
        instances: status.instances.0,
        code_mapped: status.code.0,
        models_loaded: status.models.0,
        model_bytes: status.models.3,
        resident_bytes,
    }))
}
