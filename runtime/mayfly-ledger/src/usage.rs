//! Questions about usage.

use mayfly_types::{DeploymentId, KeyId, Meter, ModelId, Money, ProjectId, TenantId};

/// What sums are kept apart by, besides meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum GroupBy {
    Tenant,
    Project,
    Deployment,
    Model,
    Key,
    EndUser,
    Hour,
    Day,
}

/// Which calls to sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// Only this tenant; none is for the operator.
    pub tenant: Option<TenantId>,
    /// Only this project.
    pub project: Option<ProjectId>,
    /// Only this deployment.
    pub deployment: Option<DeploymentId>,
    /// Only this key.
    pub key: Option<KeyId>,
    /// Only this model's lines.
    pub model: Option<ModelId>,
    /// Only calls made for this user.
    pub end_user: Option<String>,
    /// Opened at or after, microseconds since the Unix epoch.
    pub since: Option<i64>,
    /// Opened before.
    pub until: Option<i64>,
    /// What to keep apart.
    pub group_by: Vec<GroupBy>,
}

/// One sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// One text per entry of `group_by`, in its order.
    pub group: Vec<String>,
    /// What was counted; none is the row that counts calls.
    pub meter: Option<Meter>,
    /// The sum (of the meter's unit, or of calls).
    pub quantity: i64,
    /// What it costs; none on the row that counts calls and where nothing was priced.
    pub cost: Option<Money>,
}
