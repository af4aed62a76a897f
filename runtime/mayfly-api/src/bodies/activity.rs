//! What deployments do right now: what `mayfly top` shows.

use std::collections::BTreeMap;

use mayfly_types::{DeploymentId, Name};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Tier, Timestamp};

/// One deployment that is warm or was called lately, on this node.
///
/// Figures count from `since` and only grow. A node forgets what nobody has called for a while: a later `since` means
/// that they began anew. They are for watching; `/api/v1/usage` has what is billed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentActivity {
    /// Its id.
    #[schema(value_type = String)]
    pub id: DeploymentId,
    /// Its project's name.
    #[schema(value_type = String)]
    pub project: Name,
    /// Unique in the project.
    #[schema(value_type = String)]
    pub name: Name,
    /// The warmest tier.
    pub tier: Tier,
    /// Calls that have not settled.
    pub calls_open: u32,
    /// Calls that ended in the ledger.
    pub calls: u64,
    /// Those of them that the handler, a limit, the deadline or the host ended.
    pub failed: u64,
    /// Calls that were turned away before they opened.
    pub turned_away: u64,
    /// Usage by meter, in the meter's unit; absent meters are zero.
    pub usage: BTreeMap<String, u64>,
    /// Resident bytes of the loaded models it was granted; others with the same grant share them.
    pub model_bytes: u64,
    /// When counting began; absent if no call has ended yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// When a call last ended or was turned away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
}
