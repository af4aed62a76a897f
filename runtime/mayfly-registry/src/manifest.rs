//! `mayfly.toml`, beside a handler. Unknown keys are errors.

use std::collections::BTreeMap;

use mayfly_types::{GuestLimits, Name};
use serde::{Deserialize, Serialize};

/// The manifest is not one of ours.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(pub String);

/// A granted model: `alias = "name"`, or a table with more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModelEntry {
    /// The registered name; runs on the CPU.
    Name(Name),
    /// The registered name and where it runs.
    Table(ModelTable),
}

/// The long form of a granted model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// The registered name.
    pub model: Name,
    /// `cpu` or `cuda`.
    #[serde(default)]
    pub device: mayfly_inference::Device,
    /// Hand out every position of a decoder's outputs.
    #[serde(default)]
    pub all_positions: bool,
}

/// How `mayfly deploy` builds the handler first. Never run by the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// Run by the shell in the manifest's folder.
    pub command: String,
}

/// A deployment, as its developer writes it down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The deployment's name.
    pub name: Name,
    /// A path beside the manifest, or `builtin:NAME`.
    pub handler: String,
    /// By alias.
    #[serde(default)]
    pub models: BTreeMap<Name, ModelEntry>,
    /// For `wasi:config`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// What a call may use.
    #[serde(default)]
    pub limits: GuestLimits,
    /// How to build it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
}
