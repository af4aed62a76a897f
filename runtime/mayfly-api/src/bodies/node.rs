//! The node: what it is made of, what it may use and what it uses.

use std::collections::BTreeMap;

use mayfly_types::GuestLimits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Timestamp;

/// Answer of `/healthz` and `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or why not.
    pub status: String,
}

/// The ONNX Runtime library in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OnnxRuntime {
    /// For example `1.31.1`.
    pub version: String,
    /// Execution providers compiled into it.
    pub providers: Vec<String>,
}

/// A limit of the node.
pub type NodeLimit = u64;

/// This node. Figures over all tenants are there for the operator only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Mayfly's version.
    pub version: String,
    /// The WebAssembly engine and its version.
    pub engine: String,
    /// The inference library.
    pub onnxruntime: OnnxRuntime,
    /// When the server started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// Handlers in the binary, without `builtin:`.
    pub builtins: Vec<String>,
    /// Limits of the node by name; the unit is in the name.
    pub limits: BTreeMap<String, NodeLimit>,
    /// Limits a revision has unless it says otherwise.
    #[schema(value_type = Object)]
    pub guest_limits: GuestLimits,
    /// Registered deployments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployments: Option<u64>,
    /// Calls that have not settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_open: Option<u64>,
    /// Instances alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    /// Components mapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_mapped: Option<u64>,
    /// Models loaded in the server's own process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models_loaded: Option<u64>,
    /// Bytes that loading them added, as measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_bytes: Option<u64>,
    /// Models loaded in processes of tenants' own, as these tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models_loaded_apart: Option<u64>,
    /// Bytes that loading those added, as these processes tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_bytes_apart: Option<u64>,
    /// Resident memory of the process, if the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
}
