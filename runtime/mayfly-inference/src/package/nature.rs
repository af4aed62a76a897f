//! What follows from a graph's operators alone: whether its work depends on values, and whether rows see each other.

use std::collections::HashSet;

use prost::bytes::Bytes;

use super::onnx::{GraphProto, ModelProto, NodeProto};

/// What the operators of a model say of its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nature {
    /// How much there is to do follows from the sizes of the inputs, whatever is in them.
    pub(super) steady: bool,
    /// An operator whose result for one row may depend on other rows, or on chance.
    pub(super) mixes: Option<String>,
}

impl Nature {
    pub(super) fn of(model: &ModelProto) -> Self {
        let empty = Vec::new();
        let main = model.graph.as_ref().map_or(&empty, |graph| &graph.node);
        let all = main.iter().chain(model.functions.iter().flat_map(|function| &function.node));
        let mixes = all.clone().find(|node| mixes(node)).map(|node| node.op_type.clone());
        // What is in a body of If, Loop or Scan need not be looked at: they are neither steady nor free of mixing.
        let branches = all.clone().any(branches);
        let steady = !branches
            && model.graph.as_ref().is_some_and(sizes_follow)
            && model.functions.iter().all(|function| !function.node.iter().any(|node| sizing(node).is_some()));
        Self { steady, mixes }
    }
}

fn branches(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "If" | "Loop" | "Scan" | "SequenceMap")
}

/// One scale for a whole tensor, one draw for a whole tensor, one branch for all rows, or rows that are counted together.
fn mixes(node: &NodeProto) -> bool {
    branches(node)
        || matches!(
            node.op_type.as_str(),
            "DynamicQuantizeLinear"
                | "DynamicQuantizeMatMul"
                | "DynamicQuantizeLSTM"
                | "Bernoulli"
                | "Multinomial"
                | "RandomNormal"
                | "RandomNormalLike"
                | "RandomUniform"
                | "RandomUniformLike"
                | "Unique"
        )
}

/// The inputs of an operator that say how large its output is.
fn sizing(node: &NodeProto) -> Option<&'static [usize]> {
    Some(match node.op_type.as_str() {
        "Range" => &[0, 1, 2],
        "ConstantOfShape" | "HannWindow" | "HammingWindow" | "BlackmanWindow" => &[0],
        "Expand" | "Tile" | "OneHot" | "Pad" | "Upsample" | "DFT" | "CenterCropPad" | "AffineGrid" => &[1],
        "Resize" => &[2, 3],
        "MelWeightMatrix" => &[0, 1],
        "Col2Im" => &[1, 2],
        "STFT" => &[1, 3],
        "MaxUnpool" => &[2],
        "CropAndResize" => &[3],
        _ => return None,
    })
}

/// Whether everything that sizes something is made of constants and of sizes.
fn sizes_follow(graph: &GraphProto) -> bool {
    let mut known: HashSet<Bytes> =
        graph.initializer.iter().map(|tensor| Bytes::copy_from_slice(tensor.name.as_bytes())).collect();
    // Nodes come in an order in which each reads what was made before.
    for node in &graph.node {
        let is_known = |at: &usize| node.input.get(*at).is_none_or(|name| name.is_empty() || known.contains(name));
        if sizing(node).is_some_and(|inputs| !inputs.iter().all(is_known)) {
            return false;
        }
        let by_size = matches!(node.op_type.as_str(), "Shape" | "Size");
        if by_size || (0..node.input.len()).all(|at| is_known(&at)) {
            known.extend(node.output.iter().filter(|name| !name.is_empty()).cloned());
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::onnx::{FunctionProto, TensorProto};
    use super::*;

    fn node(op_type: &str, input: &[&str], output: &str) -> NodeProto {
        let names = |names: &[&str]| names.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())).collect();
        NodeProto { op_type: op_type.into(), input: names(input), output: names(&[output]), ..NodeProto::default() }
    }

    fn nature(nodes: Vec<NodeProto>) -> Nature {
        let two = TensorProto { name: "two".into(), ..TensorProto::default() };
        let graph = GraphProto { node: nodes, initializer: vec![two], ..GraphProto::default() };
        Nature::of(&ModelProto { graph: Some(graph), ..ModelProto::default() })
    }

    #[test]
    fn sizes_may_come_from_sizes_and_constants_only() {
        let plain = nature(vec![node("MatMul", &["x", "two"], "y")]);
        assert_eq!(plain, Nature { steady: true, mixes: None });
        let by_shape = [node("Shape", &["x"], "s"), node("Mul", &["s", "two"], "t"), node("Expand", &["x", "t"], "y")];
        assert!(nature(by_shape.into()).steady);
        let by_value = [node("Mul", &["x", "two"], "t"), node("Expand", &["x", "t"], "y")];
        assert!(!nature(by_value.into()).steady);
        assert!(!nature(vec![node("Range", &["two", "n", "two"], "y")]).steady);
        assert!(!nature(vec![node("Loop", &["two"], "y")]).steady);
    }

    #[test]
    fn a_size_taker_in_a_function_is_not_followed() {
        let function = FunctionProto { node: vec![node("Tile", &["x", "n"], "y")], ..FunctionProto::default() };
        let model =
            ModelProto { graph: Some(GraphProto::default()), functions: vec![function], ..ModelProto::default() };
        assert!(!Nature::of(&model).steady);
    }

    #[test]
    fn what_looks_at_all_rows_is_named() {
        assert_eq!(
            nature(vec![node("DynamicQuantizeLinear", &["x"], "y")]).mixes.as_deref(),
            Some("DynamicQuantizeLinear")
        );
        assert_eq!(nature(vec![node("If", &["x"], "y")]).mixes.as_deref(), Some("If"));
        assert_eq!(nature(vec![node("Softmax", &["x"], "y")]).mixes, None);
    }
}
