//! Which tier a deployment is in, and the node's figures.

use serde::{Deserialize, Serialize};

/// How warm a deployment is. Each tier has its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Rows in the store and files on disk; nothing in memory.
    Zero,
    /// Compiled code is mapped.
    Code,
    /// At least one of its models is loaded.
    Model,
    /// Calls are running.
    Active,
}

/// One deployment, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// The warmest tier.
    pub tier: Tier,
    /// Calls running.
    pub calls: u32,
    /// Whether its code is mapped.
    pub code_mapped: bool,
    /// Its models by alias: loaded or not.
    pub models_loaded: Vec<(String, bool)>,
}

/// Figures of the node since its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeStatus {
    /// Calls that have not settled.
    pub calls_open: u64,
    /// Ended calls by outcome.
    pub calls_total: Vec<(&'static str, u64)>,
    /// Ended calls by how cold they were.
    pub cold_total: Vec<(&'static str, u64)>,
    /// Usage by meter.
    pub usage_total: Vec<(&'static str, u64)>,
    /// Instances alive and made.
    pub instances: (u32, u64),
    /// Components mapped and maps made.
    pub code: (u64, u64),
    /// Models loaded, loads and unloads made, bytes measured.
    pub models: (u64, u64, u64, u64),
    /// Seconds a call took: upper bounds and cumulative counts, and the sum.
    pub call_seconds: (Vec<(f64, u64)>, f64),
}
