//! API keys. The secret is in exactly one answer: the one that made it.

use mayfly_types::{DeploymentId, KeyId, Name, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Limits, Timestamp};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Call deployments.
    Call,
    /// Deploy, import models, read logs and usage, make call keys, within its tenant or project.
    Deploy,
    /// Everything; for the operator only.
    Admin,
}

/// One of the two keys that a deployment may have for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Slot {
    Primary,
    Secondary,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// Its id.
    #[schema(value_type = String)]
    pub id: KeyId,
    /// The first characters of the secret, to recognise it by.
    pub prefix: String,
    /// For people.
    pub label: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Whose it is; absent for the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    /// The one project it reaches; absent if it reaches all of its tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub project: Option<ProjectId>,
    /// The only deployments it may call; absent if it may call all in its reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub deployments: Vec<DeploymentId>,
    /// Which of its deployment's own two keys it is; absent for every other key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// When its secret was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, some seconds late; absent if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
}

/// A deployment's own two keys: one is used while the other is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentKeys {
    /// Null before it is first made.
    pub primary: Option<Key>,
    /// Null before it is first made.
    pub secondary: Option<Key>,
}

/// A key to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// For people, at most 100 characters.
    #[serde(default)]
    pub label: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Whose it will be, by name. Taken from `project` if that is given, else from the key that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tenant: Option<Name>,
    /// The one project it may reach, by name; without it, all of the tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub project: Option<Name>,
    /// The only deployments it may call, at most 100: ids, `project/name`, or names in `project`. Without it, all in its
    /// reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployments: Vec<String>,
    /// What its calls may use together.
    #[serde(default)]
    pub limits: Limits,
    /// When it stops working; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// A key that was just made, with its secret: shown this once and not stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    /// The key.
    pub key: Key,
    /// Goes into `authorization: Bearer …`.
    pub secret: String,
}

impl std::fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedKey").field("key", &self.key).finish_non_exhaustive()
    }
}
