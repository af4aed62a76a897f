//! `package.json`: the list of a package's files and all that was resolved at import. Nothing is resolved again later.

use mayfly_types::Digest;
use serde::{Deserialize, Serialize};

use super::info::ModelInfo;
use super::template::ChatTemplate;

/// The description's file name inside a package.
pub(super) const DESCRIPTION: &str = "package.json";
/// Raised when a field changes its meaning; an older host refuses a newer package.
pub(super) const FORMAT: u32 = 1;

/// One file of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRecord {
    pub(crate) path: String,
    pub(crate) sha256: Digest,
    pub(crate) bytes: u64,
}

/// The content of `package.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    pub(crate) format: u32,
    /// The `.onnx` file, relative to the package.
    pub(crate) graph: String,
    /// Sorted by path; `package.json` itself is not among them.
    pub(crate) files: Vec<FileRecord>,
    pub(crate) info: ModelInfo,
    /// Segment ids must be below it.
    pub(crate) token_types: Option<u32>,
    /// The input that stands in for ids: `[rows, positions, width]`.
    pub(crate) embeddings: Option<String>,
    /// Outputs whose shape the graph does not tell: their `dimensions` are empty and mean nothing.
    pub(crate) unshaped: Vec<String>,
    /// How much there is to do in a run follows from the sizes of its inputs, whatever is in them.
    #[serde(default)]
    pub(crate) steady: bool,
    /// An operator whose result for one row may depend on other rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mixes: Option<String>,
    /// All weights of some size are f32: packing them for the CPU makes runs faster, and leaving it makes them no slower
    /// than by half.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) floats: bool,
    /// How to make prompts of chats, if it is a decoder with a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chat: Option<ChatTemplate>,
}

impl Description {
    /// Bytes of the graph and the data beside it: all but vocabularies, configurations and licences.
    pub(super) fn weight_bytes(&self) -> u64 {
        let beside = |path: &str| {
            let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
            let extension = name.rsplit_once('.').map(|(_, extension)| extension);
            matches!(extension, Some("json" | "txt" | "jinja" | "model" | "toml")) || name.starts_with("LICENSE")
        };
        let weights = self.files.iter().filter(|file| file.path == self.graph || !beside(&file.path));
        weights.map(|file| file.bytes).sum()
    }
}
