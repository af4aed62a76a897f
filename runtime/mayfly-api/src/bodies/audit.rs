//! The trail of changes.

use mayfly_types::{ProjectId, RequestId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Timestamp;

/// A change that was made on the control plane. Never with a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Grows with every change.
    pub id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The key that asked, or `system`.
    pub actor: String,
    /// The request it asked in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request: Option<RequestId>,
    /// Whose thing was changed; absent for the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    /// The project it belongs to; absent if it is not one project's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub project: Option<ProjectId>,
    /// What was done, for example `key.rotate`.
    pub action: String,
    /// To what: a name or an id.
    pub target: String,
    /// What else is worth knowing.
    #[schema(value_type = Object)]
    pub details: serde_json::Value,
}
