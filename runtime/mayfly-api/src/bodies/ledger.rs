//! The ledger, walked.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a walk over the whole ledger found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Rows walked.
    pub rows: u64,
    /// Starts of nodes: one chain each.
    pub boots: u64,
    /// Calls that have ended.
    pub calls: u64,
    /// Calls that are open.
    pub open: u64,
    /// What is wrong, at most 100 of them.
    pub problems: Vec<String>,
}
