//! Request and answer bodies of the control plane.
//!
//! One file per noun; every request body refuses unknown keys, so that a typing error is never a silent default.

mod call;
mod deployment;
mod key;
mod model;
mod node;
mod tenant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use call::{CallDetail, CallLine, LogLine, Usage, UsageGroup};
pub use deployment::{
    Deployed, Deployment, DeploymentStatus, DeploymentSummary, Grant, Handler, HandlerSource, ModelEntry, ModelStatus,
    ModelTable, NewDeployment, Revision, Rollback, Tier,
};
pub use key::{CreatedKey, Key, NewKey, Scope};
pub use model::{Artifact, Dimension, Model, ModelOwner, ModelTensor};
pub use node::{Health, Node, NodeLimit, OnnxRuntime};
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
