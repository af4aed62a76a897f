//! Request and answer bodies of the control plane.
//!
//! One file per noun; every request body refuses unknown keys, so that a typing error is never a silent default.

mod activity;
mod audit;
mod call;
mod credit;
mod deployment;
mod estimate;
mod key;
mod ledger;
mod limits;
mod model;
mod node;
mod price;
mod tenant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use activity::DeploymentActivity;
pub use audit::AuditEntry;
pub use call::{CallDetail, CallLine, DryRun, DryRunLine, LogLine, Usage, UsageGroup};
pub use credit::{Credit, CreditGrant, NewCredit};
pub use deployment::{
    Deployed, Deployment, DeploymentStatus, DeploymentSummary, Grant, Handler, HandlerSource, ModelEntry, ModelStatus,
    ModelTable, NewDeployment, Revision, Rollback, Tier,
};
pub use estimate::{Estimate, EstimateInput, EstimateLine, LinePrice, NewEstimate};
pub use key::{CreatedKey, DeploymentKeys, Key, NewKey, Scope, Slot};
pub use ledger::Verification;
pub use limits::{Limits, SpendLimit};
pub use model::{Artifact, Dimension, Fit, Model, ModelMemory, ModelOwner, ModelPin, ModelTensor, PinnedBy, RunsIn};
pub use node::{Health, Node, NodeLimit, OnnxRuntime};
pub use price::{NewPrice, Price, PriceChange, PriceDifference};
pub use tenant::{NewProject, NewTenant, Project, Tenant};

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries, in the list's order.
    pub data: Vec<T>,
    /// Pass it as `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A list that fits one page.
    pub fn whole(data: Vec<T>) -> Self {
        Self { data, next: None }
    }
}
