//! From a checked graph and its configuration files to [`DecoderInfo`], or to the reason why generation cannot drive it.

use std::collections::BTreeMap;

use super::settings::Settings;
use super::{Batching, DecoderInfo, DecoderInputs, DecoderLayout};
use crate::ElementType;
use crate::package::operators::shown;
use crate::package::wiring::{Cached, Wiring};
use crate::package::{DimensionInfo, Role, TensorInfo};

/// Two tensors of each layer.
const LAYERS_MAX: usize = 1024;

/// A graph as the checks left it, roles resolved.
#[derive(Debug, Clone, Copy)]
pub(in crate::package) struct Graph<'a> {
    pub(in crate::package) inputs: &'a [TensorInfo],
    pub(in crate::package) outputs: &'a [TensorInfo],
    pub(in crate::package) unshaped: &'a [String],
    pub(in crate::package) wiring: &'a Wiring,
    /// The input that stands in for ids.
    pub(in crate::package) embeddings: Option<&'a str>,
    /// What the configuration or `model.toml` says.
    pub(in crate::package) context: Option<u32>,
    pub(in crate::package) vocab: Option<u32>,
}

/// None if the graph keeps no KV cache, so is no decoder at all.
///
/// # Errors
/// For a graph with a KV cache: why generation cannot drive it. It can still be run step by step.
pub(in crate::package) fn resolve(graph: Graph<'_>, settings: &Settings) -> Result<Option<DecoderInfo>, String> {
    let has = |tensors: &[TensorInfo], role| tensors.iter().any(|tensor| tensor.role == role);
    if !has(graph.inputs, Role::Past) || !has(graph.outputs, Role::Present) {
        return Ok(None);
    }
    if let Some(name) = graph.embeddings {
        return Err(format!("it takes `{}` instead of token ids", shown(name)));
    }
    let inputs = inputs(graph)?;
    let past = layers(graph.inputs, Role::Past)?;
    let present = layers(graph.outputs, Role::Present)?;
    if past.len() > LAYERS_MAX || !past.keys().eq(present.keys()) {
        return Err("its past and its present do not have the same layers".to_owned());
    }
    let Shape { kv_heads, head_size, kv_type, any_batch } = shape(graph, settings)?;
    let (logits, width, last_position_only) = logits(graph)?;
    let vocab = width.or(graph.vocab).ok_or("the width of its logits is not known; say `vocab_size` in model.toml")?;
    let context = graph.context.ok_or("its context length is not known; say `max_tokens` in model.toml")?;
    let (past, present): (Vec<_>, Vec<_>) = (past.into_values().collect(), present.into_values().collect());
    let layout = layout(graph.wiring, &past, &present)?;
    if layout == DecoderLayout::GroupQuery && inputs.mask.is_none() {
        return Err("it has GroupQueryAttention and no attention mask".to_owned());
    }
    let shared = layout == DecoderLayout::GroupQuery && any_batch && lengths_by_row(graph.wiring, &inputs);
    let batching = match kv_type {
        ElementType::F32 if shared => Batching::Continuous,
        ElementType::F16 if shared => Batching::ContinuousOnGpu,
        _ => Batching::OneAtATime,
    };
    let mut eos: Vec<u32> = settings.eos.iter().copied().filter(|id| *id < vocab).collect();
    eos.sort_unstable();
    eos.dedup();
    Ok(Some(DecoderInfo {
        layout,
        layers: u32::try_from(past.len()).map_err(|_| "it has too many layers")?,
        kv_heads,
        head_size,
        kv_type,
        context,
        vocab,
        inputs,
        past,
        present,
        logits,
        last_position_only,
        eos,
        bos: settings.bos.filter(|id| *id < vocab),
        batching,
        defaults: settings.defaults,
    }))
}

fn inputs(graph: Graph<'_>) -> Result<DecoderInputs, String> {
    let (mut ids, mut mask, mut positions) = (None, None, None);
    for input in graph.inputs {
        let place = match input.role {
            Role::Ids => &mut ids,
            Role::Mask => &mut mask,
            Role::Positions => &mut positions,
            Role::Past => continue,
            _ if input.name == "use_cache_branch" => {
                return Err("it is a merged decoder, which `use_cache_branch` switches; export it with \
                     `--task text-generation-with-past`, which gives one plain `model.onnx`"
                    .to_owned());
            }
            _ => return Err(format!("generation does not know its input `{}`", shown(&input.name))),
        };
        if input.element_type != ElementType::I64 {
            return Err(format!("its input `{}` is not i64", shown(&input.name)));
        }
        if matches!(input.dimensions.last(), Some(DimensionInfo::Fixed(_))) {
            return Err(format!("its input `{}` has a fixed length", shown(&input.name)));
        }
        *place = Some(input.name.clone());
    }
    Ok(DecoderInputs { ids: ids.ok_or("it has no input for token ids")?, mask, positions })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Key,
    Value,
}

/// Names of (key, value), by layer.
fn layers(tensors: &[TensorInfo], role: Role) -> Result<BTreeMap<u32, (String, String)>, String> {
    let mut found: BTreeMap<u32, (Option<String>, Option<String>)> = BTreeMap::new();
    for tensor in tensors.iter().filter(|tensor| tensor.role == role) {
        let unknown = || format!("`{}` is neither key nor value of a layer", shown(&tensor.name));
        let (layer, part) = place(&tensor.name).ok_or_else(unknown)?;
        let (key, value) = found.entry(layer).or_default();
        let slot = if part == Part::Key { key } else { value };
        if slot.replace(tensor.name.clone()).is_some() {
            return Err(format!("`{}` is not the only one of its layer", shown(&tensor.name)));
        }
    }
    found
        .into_iter()
        .map(|(layer, pair)| match pair {
            (Some(key), Some(value)) => Ok((layer, (key, value))),
            _ => Err(format!("layer {layer} has no pair of key and value")),
        })
        .collect()
}

/// The layer and the part that a name tells: `past_key_values.3.key`, `present_3_value`, `past_key_3`.
fn place(name: &str) -> Option<(u32, Part)> {
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    let mut numbers = words().filter_map(|word| word.parse::<u32>().ok());
    let layer = numbers.next()?;
    // Two numbers: `past.0.self.1.key` and its like are somebody else's scheme.
    if numbers.next().is_some() {
        return None;
    }
    let part = words().rev().find_map(|word| match word {
        "key" | "keys" | "k" => Some(Part::Key),
        "value" | "v" => Some(Part::Value),
        _ => None,
    });
    let foreign = words().any(|word| matches!(word, "encoder" | "decoder" | "cross"));
    if foreign { None } else { part.map(|part| (layer, part)) }
}

struct Shape {
    kv_heads: u32,
    head_size: u32,
    kv_type: ElementType,
    /// Whether a run may have any number of rows.
    any_batch: bool,
}

/// The one shape of all pasts and presents.
fn shape(graph: Graph<'_>, settings: &Settings) -> Result<Shape, String> {
    let mut all: Option<Shape> = None;
    let mut any_batch = true;
    let past = graph.inputs.iter().filter(|tensor| tensor.role == Role::Past);
    let present = graph.outputs.iter().filter(|tensor| tensor.role == Role::Present);
    for tensor in past.chain(present).filter(|tensor| !graph.unshaped.contains(&tensor.name)) {
        let name = shown(&tensor.name);
        let [batch, heads, length, size] = &tensor.dimensions[..] else {
            return Err(format!("`{name}` is not [batch, heads, positions, head size]"));
        };
        if matches!(length, DimensionInfo::Fixed(_)) {
            return Err(format!("`{name}` has a fixed length"));
        }
        any_batch &= !matches!(batch, DimensionInfo::Fixed(_));
        let known = |dimension: &DimensionInfo, configured: Option<u32>| match dimension {
            DimensionInfo::Fixed(size) => Some(*size),
            _ => configured,
        };
        let (Some(kv_heads), Some(head_size)) = (known(heads, settings.kv_heads), known(size, settings.head_size))
        else {
            return Err(format!("neither `{name}` nor a configuration file tells its heads and their size"));
        };
        let kv_type = tensor.element_type;
        if !matches!(kv_type, ElementType::F32 | ElementType::F16) {
            return Err(format!("`{name}` is neither f32 nor f16"));
        }
        match &all {
            None => all = Some(Shape { kv_heads, head_size, kv_type, any_batch }),
            Some(first) if (first.kv_heads, first.head_size, first.kv_type) == (kv_heads, head_size, kv_type) => {}
            Some(_) => return Err(format!("`{name}` has another shape or type than the first layer")),
        }
    }
    let ids = graph.inputs.iter().find(|tensor| tensor.role == Role::Ids);
    any_batch &= !ids.is_some_and(|ids| matches!(ids.dimensions.first(), Some(DimensionInfo::Fixed(_))));
    all.map(|shape| Shape { any_batch, ..shape }).ok_or_else(|| "its past has no shape".to_owned())
}

/// The logits: their name, their width if the graph tells it, whether they are of the last position only.
fn logits(graph: Graph<'_>) -> Result<(String, Option<u32>, bool), String> {
    let mut all = graph.outputs.iter().filter(|output| output.role == Role::Logits);
    let (Some(logits), None) = (all.next(), all.next()) else {
        return Err("it does not have one output of logits".to_owned());
    };
    if !matches!(logits.element_type, ElementType::F32 | ElementType::F16) {
        return Err("its logits are neither f32 nor f16".to_owned());
    }
    if graph.unshaped.contains(&logits.name) {
        return Ok((logits.name.clone(), None, false));
    }
    let [_, positions, width] = &logits.dimensions[..] else {
        return Err("its logits are not [batch, positions, vocabulary]".to_owned());
    };
    let width = match width {
        DimensionInfo::Fixed(width) => Some(*width),
        _ => None,
    };
    Ok((logits.name.clone(), width, matches!(positions, DimensionInfo::Fixed(1))))
}

fn layout(wiring: &Wiring, past: &[(String, String)], present: &[(String, String)]) -> Result<DecoderLayout, String> {
    if wiring.attention.is_empty() {
        return Ok(DecoderLayout::Concatenated);
    }
    let cached = |(past, present): (&(String, String), &(String, String))| {
        wiring.attention.contains(&Cached { past: past.clone(), present: present.clone() })
    };
    if past.iter().zip(present).all(cached) {
        Ok(DecoderLayout::GroupQuery)
    } else {
        Err("some of its layers have GroupQueryAttention and others do not".to_owned())
    }
}

/// Whether rows of different lengths can share a run: the mask must count for nothing but its row sums and its width, and
/// no branch may turn on how long the longest row is (as the two rotary tables of LongRoPE do).
fn lengths_by_row(wiring: &Wiring, inputs: &DecoderInputs) -> bool {
    let readers = inputs.mask.as_ref().and_then(|mask| wiring.readers.get(mask));
    !wiring.branches
        && readers.is_some_and(|readers| readers.iter().all(|op| matches!(op.as_str(), "ReduceSum" | "Shape" | "Cast")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_layer_and_part() {
        for (name, expect) in [
            ("past_key_values.3.key", Some((3, Part::Key))),
            ("past_key_values.11.value", Some((11, Part::Value))),
            ("present.0.value", Some((0, Part::Value))),
            ("past_key_2", Some((2, Part::Key))),
            ("past_2_value", Some((2, Part::Value))),
            ("past_key_values.0.decoder.key", None),
            ("past_conv.0", None),
            ("past.0.1.key", None),
            ("past_key", None),
            ("past_key_values.99999999999.key", None),
        ] {
            assert_eq!(place(name), expect, "{name}");
        }
    }
}
