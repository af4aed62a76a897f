//! What this node is made of and what it uses. For those who deploy too: limits are theirs to plan with.

use axum::Json as Reply;
use axum::extract::State;
use mayfly_api::{Node, Timestamp};
use mayfly_inference::WorkerLoad;
use mayfly_types::GuestLimits;

use super::Answer;
use super::caller::Caller;
use crate::access::Reach;
use crate::{Gateway, metrics};

/// Versions and limits of this node, and for the operator its figures over all tenants.
#[utoipa::path(get, path = "/api/v1/node", tag = "operations",
    responses((status = 200, description = "This node", body = Node), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn show(State(gateway): State<Gateway>, caller: Caller) -> Answer<Reply<Node>> {
    let info = &gateway.0.parts.node;
    let mut node = Node {
        version: info.version.clone(),
        engine: info.engine.clone(),
        onnxruntime: info.onnxruntime.clone(),
        started_at: Timestamp::from_micros(gateway.0.started_at),
        builtins: info.builtins.clone(),
        limits: info.limits.clone(),
        guest_limits: GuestLimits::default(),
        deployments: None,
        calls_open: None,
        instances: None,
        code_mapped: None,
        models_loaded: None,
        model_bytes: None,
        models_loaded_apart: None,
        model_bytes_apart: None,
        resident_bytes: None,
    };
    if caller.reach == Reach::Host {
        let status = gateway.0.parts.calls.node_status();
        node.deployments = Some(gateway.records().deployment_count().await?);
        node.calls_open = Some(status.calls_open);
        node.instances = Some(status.instances.0);
        node.code_mapped = Some(status.code.0);
        node.models_loaded = Some(status.models.0);
        node.model_bytes = Some(status.models.3);
        let apart = status.worker_loads.iter().fold(WorkerLoad::default(), |sum, (_, load)| sum.and(*load));
        node.models_loaded_apart = Some(apart.models);
        node.model_bytes_apart = Some(apart.model_bytes);
        node.resident_bytes = metrics::resident_bytes().await;
    }
    Ok(Reply(node))
}
