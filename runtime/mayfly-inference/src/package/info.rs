//! What a package tells people, guests and the rest of this crate about its graph.

use serde::{Deserialize, Serialize};

use super::decoder::DecoderInfo;
use crate::ElementType;

/// What the host takes a tensor for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the field's own; wit/mayfly-inference.wit says what each means")]
pub enum Role {
    Ids,
    Mask,
    TokenTypes,
    Positions,
    Past,
    Present,
    Logits,
    State,
    Data,
}

/// The size of one dimension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DimensionInfo {
    /// Always this.
    Fixed(u32),
    /// Chosen by the caller; the same name means the same size within one run.
    Named(String),
    /// Chosen by the caller.
    Any,
}

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorInfo {
    /// The graph's own name.
    pub name: String,
    /// The element type.
    pub element_type: ElementType,
    /// One entry per dimension.
    pub dimensions: Vec<DimensionInfo>,
    /// What the host takes it for.
    pub role: Role,
}

/// What a package is, as resolved at import and shown to people and guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInfo {
    /// Inputs that a run must give.
    pub inputs: Vec<TensorInfo>,
    /// Outputs of a run.
    pub outputs: Vec<TensorInfo>,
    /// Whether the package carries a tokenizer.
    pub has_tokenizer: bool,
    /// Vocabulary size, if known: ids must be below it.
    pub vocab_size: Option<u32>,
    /// Context length, if known: positions must be below it.
    pub max_tokens: Option<u32>,
    /// The padding token, if known.
    pub pad_id: Option<u32>,
    /// Facts from the package's own configuration, sorted by key (see `properties` in wit/mayfly-inference.wit).
    pub properties: Vec<(String, String)>,
    /// Bytes of all files.
    pub bytes: u64,
    /// How to generate with it, if it is a decoder that the host can drive; a decoder that it cannot drive says why in the
    /// property `generation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<DecoderInfo>,
}
