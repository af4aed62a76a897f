//! What is connected to a graph's inputs and outputs: enough to tell how a decoder keeps its KV cache.

use std::collections::{BTreeMap, BTreeSet};

use super::info::TensorInfo;
use super::onnx::{GraphProto, NodeProto};

/// Connections of the main graph.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Wiring {
    /// The past and present of each GroupQueryAttention, as the node names them.
    pub(super) attention: BTreeSet<Cached>,
    /// Operators that read an input of the graph, by its name.
    pub(super) readers: BTreeMap<String, BTreeSet<String>>,
    /// Whether it has If, Loop or Scan.
    pub(super) branches: bool,
}

/// What a GroupQueryAttention takes and gives. Names that are not UTF-8 are empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cached {
    pub(super) past: (String, String),
    pub(super) present: (String, String),
}

impl Wiring {
    pub(super) fn of(graph: &GraphProto, inputs: &[TensorInfo]) -> Self {
        let mut wiring = Self::default();
        let names: BTreeSet<&[u8]> = inputs.iter().map(|input| input.name.as_bytes()).collect();
        for node in &graph.node {
            wiring.branches |= node.domain.is_empty() && matches!(node.op_type.as_str(), "If" | "Loop" | "Scan");
            if node.domain == "com.microsoft" && node.op_type == "GroupQueryAttention" {
                wiring.attention.insert(Cached {
                    past: (input(node, 3), input(node, 4)),
                    present: (output(node, 1), output(node, 2)),
                });
            }
            for read in node.input.iter().filter(|name| names.contains(&name[..])) {
                wiring.readers.entry(text(read)).or_default().insert(node.op_type.clone());
            }
        }
        wiring
    }
}

fn input(node: &NodeProto, at: usize) -> String {
    node.input.get(at).map(|name| text(name)).unwrap_or_default()
}

fn output(node: &NodeProto, at: usize) -> String {
    node.output.get(at).map(|name| text(name)).unwrap_or_default()
}

fn text(name: &[u8]) -> String {
    str::from_utf8(name).unwrap_or_default().to_owned()
}
