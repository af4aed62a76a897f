//! The records. Times are microseconds since the Unix epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_host::Place;
use mayfly_inference::{Device, ModelInfo};
use mayfly_types::{
    DeploymentId, Digest, FilterSpec, GuestLimits, KeyId, LevelLimits, ModelId, Name, ProjectId, RevisionId, ScaleSpec,
    TenantId,
};
use serde::{Deserialize, Serialize};

use crate::{KeyScope, TenantModels};

/// Owns projects and pays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Tenant {
    pub id: TenantId,
    pub name: Name,
    pub limits: LevelLimits,
    pub created_at: i64,
}

/// Holds deployments, keys and models. Its name is unique on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Project {
    pub id: ProjectId,
    pub tenant: TenantId,
    pub name: Name,
    pub limits: LevelLimits,
    pub created_at: i64,
}

/// One of the two keys that every deployment may have for itself: one is used while the other is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Slot {
    Primary,
    Secondary,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Primary, Self::Secondary];

    /// `primary` or `secondary`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

/// An API key. The secret is never stored, only its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Its id.
    pub id: KeyId,
    /// Whose it is; none only for the operator's admin keys.
    pub tenant: Option<TenantId>,
    /// The project it is bound to; none reaches all of the tenant's.
    pub project: Option<ProjectId>,
    /// For people.
    pub label: String,
    /// The first characters of the secret, to recognise it by.
    pub prefix: String,
    /// SHA-256 of the secret (256 random bits, so no slow hash is needed).
    pub hash: [u8; 32],
    /// What it may do.
    pub scopes: Vec<KeyScope>,
    /// The only deployments it may call; empty is all in its reach.
    pub deployments: Vec<DeploymentId>,
    /// Whether it is one of a deployment's own two.
    pub slot: Option<(DeploymentId, Slot)>,
    /// What calls made with it may use together.
    pub limits: Arc<LevelLimits>,
    /// When its secret was made.
    pub created_at: i64,
    /// When it stops working.
    pub expires_at: Option<i64>,
    /// When it was revoked.
    pub revoked_at: Option<i64>,
    /// When it was last used, some seconds late; none if it never was.
    pub last_used_at: Option<i64>,
}

impl Key {
    /// Whether it may call this deployment, as far as its own list goes; its reach is another question.
    pub fn names(&self, deployment: DeploymentId) -> bool {
        self.deployments.is_empty() || self.deployments.contains(&deployment)
    }
}

/// Who a model belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The operator imported it: every project may be granted it.
    Host,
    /// A project brought it.
    Project(ProjectId),
}

/// A model package under a name. The name can be given to a newer package; the id cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// This registration.
    pub id: ModelId,
    /// Whose it is.
    pub owner: Owner,
    /// Unique for its owner among models that are not removed.
    pub name: Name,
    /// The stored package.
    pub digest: Digest,
    /// What it is.
    pub info: ModelInfo,
    /// Whether the operator has vouched for it. Always true for [`Owner::Host`].
    pub approved: bool,
    /// When it was added.
    pub created_at: i64,
}

impl Model {
    /// In which process it runs on a host with this policy.
    pub fn place(&self, policy: TenantModels) -> Place {
        match policy {
            _ if self.approved => Place::Server,
            TenantModels::Isolate => Place::Apart,
            TenantModels::Approve | TenantModels::Refuse => Place::Nowhere,
        }
    }
}

/// The operator's word that a model stays loaded on a device, whoever calls it. It goes with the model's name: to the
/// package that takes the name over if that is the operator's, and away with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPin {
    /// The registration that has the name now.
    pub model: ModelId,
    /// Where it is kept.
    pub device: Device,
    /// Who pinned it; none for the system itself.
    pub by: Option<PinnedBy>,
    /// When.
    pub at: i64,
}

/// The key that pinned a model. It may have been revoked since.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `Key`")]
pub struct PinnedBy {
    pub key: KeyId,
    pub prefix: String,
    pub label: String,
}

/// The handler of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerRecord {
    /// The stored component.
    pub digest: Digest,
    /// `builtin:NAME` if it is one of those in the binary.
    pub builtin: Option<String>,
}

/// One model a revision may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelGrant {
    /// The registration.
    pub model: ModelId,
    /// Where it runs.
    pub device: Device,
    /// Hand out every position of a decoder's outputs.
    pub all_positions: bool,
}

/// What makes a revision: the part two equal deploys share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionSpec {
    /// The handler.
    pub handler: HandlerRecord,
    /// By alias.
    pub models: BTreeMap<Name, ModelGrant>,
    /// For `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// What a call may use.
    pub limits: GuestLimits,
    /// What generated text may not say.
    #[serde(default, skip_serializing_if = "FilterSpec::is_empty")]
    pub filter: FilterSpec,
    /// Whether all its callers go on from each other's prompts.
    #[serde(default)]
    pub share_prefixes: bool,
    /// How many of its calls run at once, and how many wait.
    #[serde(default, skip_serializing_if = "ScaleSpec::is_empty")]
    pub scale: ScaleSpec,
}

/// An immutable version of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its id.
    pub id: RevisionId,
    /// Of which deployment.
    pub deployment: DeploymentId,
    /// 1 for the first.
    pub number: u32,
    /// What it is.
    pub spec: RevisionSpec,
    /// When it was made.
    pub created_at: i64,
}

/// A named endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its project.
    pub project: ProjectId,
    /// Unique in the project among deployments that are not deleted.
    pub name: Name,
    /// The revision that answers; none before the first.
    pub active: Option<RevisionId>,
    /// What its calls may use together.
    pub limits: LevelLimits,
    /// When it was made.
    pub created_at: i64,
}

/// A deployment that can answer, with those it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Active {
    pub tenant: Tenant,
    pub project: Project,
    pub deployment: Deployment,
    pub revision: Revision,
}
