//! Models and stored files.

use std::collections::BTreeMap;

use mayfly_types::{Digest, KeyId, ModelId, Name, ProjectId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Timestamp;

/// A stored file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// What it is stored under.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

/// Who a model belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelOwner {
    /// The operator imported it: every project may be granted it.
    Host,
    /// A project brought it.
    Project,
}

/// In which process a model runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunsIn {
    /// In the server's own.
    #[default]
    Server,
    /// In a process of its tenant's own.
    Apart,
    /// Nowhere, until the operator has approved it.
    Nowhere,
}

/// The size of one dimension: a number, a name shared within one run, or null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Dimension {
    /// Always this.
    Fixed(u32),
    /// Chosen by the caller; the same name means the same size within one run.
    Named(String),
    /// Chosen by the caller.
    Any(()),
}

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelTensor {
    /// The graph's own name.
    pub name: String,
    /// For example `fp32`.
    pub element_type: String,
    /// One entry per dimension.
    pub dimensions: Vec<Dimension>,
    /// What the host takes it for, for example `ids` or `mask`.
    pub role: String,
}

/// Whether a model could be loaded now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// There is room.
    Fits,
    /// Something else has to go first: now, or once it is idle and has stayed as long as it may.
    FitsAfterEviction,
    /// It is more than this device may ever have.
    NeverFits,
}

/// What loading a model takes on one device of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelMemory {
    /// `cpu` or `cuda`.
    pub device: String,
    /// Whether it could be loaded now.
    pub fit: Fit,
    /// Bytes of its own, as predicted or as an earlier load took them; for a language model with the attention state that it
    /// may hold.
    pub bytes: u64,
    /// Bytes of files that it maps: shared, and taken back by the system when it needs them.
    pub mapped_bytes: u64,
    /// What all models may take together; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
}

/// The key that the operator pinned a model with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PinnedBy {
    /// Its id.
    #[schema(value_type = String)]
    pub key: KeyId,
    /// The first characters of its secret.
    pub prefix: String,
    /// What it is for.
    pub label: String,
}

/// The operator's word that a model stays loaded on a device, whoever calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelPin {
    /// `cpu` or `cuda`.
    pub device: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub pinned_at: Timestamp,
    /// Who pinned it. For the operator only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<PinnedBy>,
    /// Whether it is loaded there now.
    pub loaded: bool,
    /// Why it is not kept there, if it is not: what may be kept is less than it was, for example. For the operator only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A model package under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// This registration; goes into bills.
    #[schema(value_type = String)]
    pub id: ModelId,
    /// Unique for its owner.
    #[schema(value_type = String)]
    pub name: Name,
    /// Who it belongs to.
    pub owner: ModelOwner,
    /// The project that brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub project: Option<ProjectId>,
    /// The stored package.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Whether the operator has vouched for it.
    pub approved: bool,
    /// In which process it runs.
    #[serde(default)]
    pub runs: RunsIn,
    /// When it was added.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Bytes of all its files.
    pub bytes: u64,
    /// What loading it takes on each device, and whether it could be loaded now. Only where one model is asked for that runs
    /// in the server's own process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<ModelMemory>,
    /// Where the operator has it kept loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<ModelPin>,
    /// Inputs that a run must give.
    pub inputs: Vec<ModelTensor>,
    /// Outputs of a run.
    pub outputs: Vec<ModelTensor>,
    /// Whether the package carries a tokenizer.
    pub has_tokenizer: bool,
    /// Vocabulary size, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<u32>,
    /// Context length, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The padding token, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_id: Option<u32>,
    /// Facts from the package's own configuration.
    pub properties: BTreeMap<String, String>,
}
