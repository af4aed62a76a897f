//! The trail of changes: who changed what, when. Never with a secret or its hash.

use mayfly_types::{KeyId, ProjectId, RequestId, TenantId};

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Grows with every row.
    pub id: i64,
    /// Microseconds since the Unix epoch.
    pub at: i64,
    /// The key that asked; none is the system itself.
    pub actor: Option<KeyId>,
    /// The request it asked in.
    pub request: Option<RequestId>,
    /// Whose thing was changed; none is the host's.
    pub tenant: Option<TenantId>,
    /// The project it belongs to.
    pub project: Option<ProjectId>,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// What else is worth knowing.
    pub details: serde_json::Value,
}

/// Which changes. A filter that is none lets all through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Made at or after.
    pub since: Option<i64>,
    /// Made before.
    pub until: Option<i64>,
    /// Made with this key.
    pub actor: Option<KeyId>,
    /// To this tenant's things.
    pub tenant: Option<TenantId>,
    /// To this project's things.
    pub project: Option<ProjectId>,
    /// Rows below this id: the rest of a list that was read down to it.
    pub below: Option<i64>,
    /// At most so many, the newest.
    pub limit: u32,
}
