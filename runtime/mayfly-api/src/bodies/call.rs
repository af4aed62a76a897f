//! Calls, logs and usage, as they are read.

use std::collections::BTreeMap;

use mayfly_types::{DeploymentId, KeyId, Meter, ModelId, Money, Name, ProjectId, RequestId, RevisionId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Timestamp;

/// One line of a call's usage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallLine {
    /// What is counted.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// The model that did the work; absent for guest CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub model: Option<ModelId>,
    /// How much, in the meter's unit.
    pub quantity: i64,
    /// The price of one unit when the call began; absent if it was unpriced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub price: Option<Money>,
    /// What the quantity costs; absent if it was unpriced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub amount: Option<Money>,
}

/// The answer to `x-mayfly-dry-run: 1`: what the call's first work on a model would be charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// Always true.
    pub dry_run: bool,
    /// What would be held; empty if the handler ended without work on a model.
    pub lines: Vec<DryRunLine>,
    /// All lines together.
    #[schema(value_type = String)]
    pub cost: Money,
    /// The host's currency.
    pub currency: String,
    /// Whether all limits have room for it.
    pub admitted: bool,
    /// If not, why not.
    pub refusal: Option<String>,
}

/// One line of a [`DryRun`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRunLine {
    /// What would be counted.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// The model's name in the price book; absent for guest CPU.
    pub model: Option<String>,
    /// How much, in the meter's unit.
    pub quantity: i64,
    /// What it would cost; null if it is unpriced.
    #[schema(value_type = Option<String>)]
    pub cost: Option<Money>,
}

/// One call, as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallDetail {
    /// The `x-request-id` of its answer.
    #[schema(value_type = String)]
    pub id: RequestId,
    /// Whose deployment it was.
    #[schema(value_type = String)]
    pub tenant: TenantId,
    /// The deployment's project.
    #[schema(value_type = String)]
    pub project: ProjectId,
    /// The deployment's name.
    #[schema(value_type = String)]
    pub deployment: Name,
    /// The deployment that answered.
    #[schema(value_type = String)]
    pub deployment_id: DeploymentId,
    /// Its revision.
    #[schema(value_type = String)]
    pub revision: RevisionId,
    /// The key that was used.
    #[schema(value_type = String)]
    pub key: KeyId,
    /// What the caller said its user is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    /// Whether it has ended; if not, usage is what is durable so far.
    pub ended: bool,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Whether what was counted is owed; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed: Option<bool>,
    /// The HTTP status that was sent; 0 if none was.
    pub status: u16,
    /// How cold it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<String>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub opened_at: Timestamp,
    /// Microseconds from its beginning to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_micros: Option<i64>,
    /// Sums by meter, over all models.
    pub usage: BTreeMap<String, i64>,
    /// Usage by meter and model.
    pub lines: Vec<CallLine>,
    /// All amounts together; nothing if nothing is owed.
    #[serde(default)]
    #[schema(value_type = String)]
    pub cost: Money,
    /// The host's currency.
    #[serde(default)]
    pub currency: String,
}

/// One line of a deployment's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The call that wrote it; absent on lines about the log itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request_id: Option<RequestId>,
    /// `stdout`, `stderr`, or `host` for what the host has to say about the handler.
    pub stream: String,
    /// The text, without control characters.
    pub text: String,
}

/// One group of calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageGroup {
    /// What the group's calls share, by the names in `group_by`; records by their ids.
    pub group: BTreeMap<String, String>,
    /// What people call those records, where they still have a name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, String>,
    /// Calls.
    pub calls: i64,
    /// Sums by meter.
    pub usage: BTreeMap<String, i64>,
    /// What they cost; absent where nothing was priced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cost: Option<Money>,
}

/// Sums of usage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// What the groups are kept apart by.
    pub group_by: Vec<String>,
    /// One entry for each group.
    pub data: Vec<UsageGroup>,
    /// All groups together. A call that ran on two models is counted once here and in both models' groups.
    pub total: UsageGroup,
    /// The host's.
    pub currency: String,
}
