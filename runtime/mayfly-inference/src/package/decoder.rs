//! What generation needs to know of a decoder graph: which tensors it has, how its KV cache is laid out, where it ends.

pub(super) mod resolve;
pub(super) mod settings;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::{DimensionInfo, ElementType, TensorInfo};

/// How the graph takes and gives its KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecoderLayout {
    /// GroupQueryAttention reads past and writes present: the same buffer can be both, longer than what is in it. The
    /// number of positions follows from the mask.
    GroupQuery,
    /// Plain operators: `present` is `past` with the new positions behind it, exactly as long as both.
    Concatenated,
}

/// Whether one run may hold tokens of several sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Batching {
    /// Sequences of any length share each run.
    Continuous,
    /// So they do on a GPU; on the CPU one sequence a run. Half precision, which the CPU's operator was not proven with.
    ContinuousOnGpu,
    /// One sequence a run.
    OneAtATime,
}

/// A decoder that [`crate::Inference::generate`] can drive, as resolved at import.
///
/// Past and present are `[batch, kv_heads, positions, head_size]` of [`Self::kv_type`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderInfo {
    /// How past and present are laid out.
    pub layout: DecoderLayout,
    /// Pairs of key and value.
    pub layers: u32,
    /// Heads of each key and value.
    pub kv_heads: u32,
    /// Numbers of each head.
    pub head_size: u32,
    /// f32 or f16.
    pub kv_type: ElementType,
    /// The most positions of one sequence, prompt and new tokens together.
    pub context: u32,
    /// Width of the logits.
    pub vocab: u32,
    /// Inputs beside the past.
    pub inputs: DecoderInputs,
    /// Names of the inputs (key, value), by layer.
    pub past: Vec<(String, String)>,
    /// Names of the outputs (key, value), by layer.
    pub present: Vec<(String, String)>,
    /// The output `[batch, positions, vocab]`, f32 or f16.
    pub logits: String,
    /// Whether the logits have the last position only, `[batch, 1, vocab]`.
    pub last_position_only: bool,
    /// Tokens that end a sequence, sorted; all below [`Self::vocab`].
    pub eos: Vec<u32>,
    /// The token before every sequence, if the model has one.
    pub bos: Option<u32>,
    /// What one run may hold.
    pub batching: Batching,
    /// What the model's own configuration wants where a caller says nothing.
    pub defaults: GenerationDefaults,
}

impl DecoderInfo {
    /// Writes heads and head size into the shapes of past and present: many graphs leave them open though they take one
    /// size only, and a handler that makes the first, empty past has to know it.
    pub(super) fn fix_state(&self, inputs: &mut [TensorInfo], outputs: &mut [TensorInfo]) {
        let pairs = self.past.iter().chain(&self.present);
        let names: Vec<&String> = pairs.flat_map(|(key, value)| [key, value]).collect();
        for tensor in inputs.iter_mut().chain(outputs).filter(|tensor| names.contains(&&tensor.name)) {
            if let [_, heads, _, size] = tensor.dimensions.as_mut_slice() {
                *heads = DimensionInfo::Fixed(self.kv_heads);
                *size = DimensionInfo::Fixed(self.head_size);
            }
        }
    }
}

/// Inputs of a decoder beside the past; all i64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderInputs {
    /// `[batch, new]`.
    pub ids: String,
    /// `[batch, past + new]`, 1 = token.
    pub mask: Option<String>,
    /// `[batch, new]`. Graphs of either layout may have it.
    pub positions: Option<String>,
}

/// Sampling as the model's own configuration wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationDefaults {
    /// 0 to 2.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// At least 1.
    pub top_k: Option<u32>,
    /// Above 0.
    pub repetition_penalty: Option<f32>,
}

/// The numbers are finite: the import takes no others, and JSON has no others.
impl Eq for GenerationDefaults {}
