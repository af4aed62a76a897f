//! The same decoder with logits of the last position only, which is all that generation samples from.
//!
//! The projection onto the vocabulary is up to a third of a prompt's work, and what it gives for a chunk of 256 tokens can
//! be more than a hundred megabytes, of which one row is read. Before the projection the last position is gathered.
//! This works on the wire form: all else is copied byte for byte.

use std::collections::{HashMap, HashSet};
use std::io;

use prost::encoding::decode_varint;

use super::fields::{Field, next, put, put_number};

/// Names of what is added.
const POSITION: &[u8] = b"mayfly/last_position";
const HIDDEN: &[u8] = b"mayfly/last_hidden";

/// The most operators between the projection and the logits: a cast, a cap by `tanh`, a scale.
const BEHIND_MAX: usize = 8;
/// How far a constant may be from the initializer it is made of.
const CONSTANT_DEPTH_MAX: usize = 8;

/// `INT64` of ONNX's element types, and `INT` of its attributes.
const INT64: u64 = 7;
const INT: u64 = 2;

/// `model`, a serialized `ModelProto`, with an output `logits` of `[batch, 1, vocab]` in place of
/// `[batch, positions, vocab]`. None where the graph's end is not a projection by constant weights with only
/// element-wise operators behind it: what an operator gives for one position must not depend on the others.
///
/// # Errors
/// The bytes are not a model.
pub(crate) fn last_position_only(model: &[u8], logits: &str) -> io::Result<Option<Vec<u8>>> {
    let mut graphs = Vec::new();
    let mut rest = model;
    while let Some(field) = next(&mut rest)? {
        graphs.extend(field.payload.filter(|_| field.number == 7));
    }
    let [graph] = graphs[..] else { return Ok(None) };
    let graph = Graph::of(graph)?;
    let Some(cut) = graph.cut(logits.as_bytes()) else { return Ok(None) };
    let changed = graph.changed(&cut, logits.as_bytes())?;
    let mut out = Vec::with_capacity(model.len() + 256);
    let mut rest = model;
    while let Some(field) = next(&mut rest)? {
        match field.number {
            7 => put(&mut out, 7, &changed),
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(Some(out))
}

/// Where the last position is gathered.
struct Cut<'a> {
    /// The projection, among the nodes.
    node: usize,
    /// What has another shape afterwards, the logits among them.
    behind: HashSet<&'a [u8]>,
}

struct Node<'a> {
    whole: &'a [u8],
    inputs: Vec<&'a [u8]>,
    outputs: Vec<&'a [u8]>,
    operator: &'a [u8],
    domain: &'a [u8],
}

impl<'a> Node<'a> {
    fn of(whole: &'a [u8]) -> io::Result<Self> {
        let mut node = Self { whole, inputs: Vec::new(), outputs: Vec::new(), operator: b"", domain: b"" };
        let mut rest = whole;
        while let Some(Field { number, payload, .. }) = next(&mut rest)? {
            let Some(payload) = payload else { continue };
            match number {
                1 => node.inputs.push(payload),
                2 => node.outputs.push(payload),
                4 => node.operator = payload,
                7 => node.domain = payload,
                _ => {}
            }
        }
        Ok(node)
    }

    fn is_standard(&self) -> bool {
        self.domain.is_empty() || self.domain == b"ai.onnx"
    }
}

struct Graph<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node<'a>>,
    /// By name, the number of dimensions.
    initializers: HashMap<&'a [u8], usize>,
    /// Which node gives a value.
    makers: HashMap<&'a [u8], usize>,
    /// Names of inputs and outputs of the graph.
    ends: HashSet<&'a [u8]>,
}

impl<'a> Graph<'a> {
    fn of(bytes: &'a [u8]) -> io::Result<Self> {
        let (mut nodes, mut initializers, mut ends, mut inputs) =
            (Vec::new(), HashMap::new(), HashSet::new(), Vec::new());
        let mut rest = bytes;
        while let Some(Field { number, payload, .. }) = next(&mut rest)? {
            let Some(payload) = payload else { continue };
            match number {
                1 => nodes.push(Node::of(payload)?),
                5 => {
                    let (name, rank) = tensor(payload)?;
                    initializers.insert(name, rank);
                }
                11 | 12 => {
                    let name = text(payload, 1)?;
                    ends.insert(name);
                    inputs.extend((number == 11).then_some(name));
                }
                _ => {}
            }
        }
        // What is an input as well is only the default of one.
        initializers.retain(|name, _| !inputs.contains(name));
        let made = nodes.iter().enumerate().flat_map(|(at, node)| node.outputs.iter().map(move |name| (*name, at)));
        let makers = made.collect();
        Ok(Self { bytes, nodes, initializers, makers, ends })
    }

    fn cut(&self, logits: &[u8]) -> Option<Cut<'a>> {
        let taken = |name: &[u8]| {
            self.makers.contains_key(name) || self.initializers.contains_key(name) || self.ends.contains(name)
        };
        if taken(POSITION) || taken(HIDDEN) {
            return None;
        }
        let mut behind = HashSet::new();
        let mut name = *self.ends.get(logits)?;
        for _ in 0..=BEHIND_MAX {
            let at = *self.makers.get(name)?;
            let node = &self.nodes[at];
            // Whoever else reads it, or a graph within an operator, expects all positions.
            let read = self.nodes.iter().flat_map(|node| &node.inputs).filter(|input| **input == name).count();
            let within = name != logits && (self.ends.contains(name) || self.has_branches());
            if node.outputs.len() != 1 || read != usize::from(name != logits) || within {
                return None;
            }
            behind.insert(name);
            let (first, others) = node.inputs.split_first()?;
            if others.iter().all(|name| self.constant(name, CONSTANT_DEPTH_MAX)) && self.projects(node) {
                return Some(Cut { node: at, behind });
            }
            name = self.by_element(node, first, others)?;
        }
        None
    }

    /// Whether `node` multiplies its first input `[batch, positions, hidden]` with a matrix.
    fn projects(&self, node: &Node<'_>) -> bool {
        match node.operator {
            b"MatMulNBits" | b"MatMulBnb4" | b"MatMulFpQ4" => node.domain == b"com.microsoft",
            b"MatMul" => {
                let rank = node.inputs.get(1).and_then(|name| self.rank(name, CONSTANT_DEPTH_MAX));
                node.is_standard() && rank == Some(2)
            }
            _ => false,
        }
    }

    /// What `node` works on element by element, if that is all it does.
    fn by_element(&self, node: &Node<'a>, first: &'a [u8], others: &[&'a [u8]]) -> Option<&'a [u8]> {
        let constant = |name: &&[u8]| self.constant(name, CONSTANT_DEPTH_MAX);
        match node.operator {
            _ if !node.is_standard() => None,
            b"Cast" | b"Tanh" | b"Identity" if others.is_empty() => Some(first),
            // A constant of the other operand goes for each position, since nobody knows their number.
            b"Add" | b"Mul" | b"Sub" | b"Div" => match others {
                [second] if constant(second) => Some(first),
                [second] if constant(&first) => Some(second),
                _ => None,
            },
            _ => None,
        }
    }

    fn constant(&self, name: &[u8], depth: usize) -> bool {
        if name.is_empty() || self.initializers.contains_key(name) {
            return true;
        }
        let Some(node) = self.makers.get(name).map(|at| &self.nodes[*at]).filter(|_| depth > 0) else { return false };
        match node.inputs.is_empty() {
            true => node.operator == b"Constant",
            false => node.inputs.iter().all(|name| self.constant(name, depth - 1)),
        }
    }

    /// Dimensions of a constant, where they can be told.
    fn rank(&self, name: &[u8], depth: usize) -> Option<usize> {
        if let Some(rank) = self.initializers.get(name) {
            return Some(*rank);
        }
        let node = self.makers.get(name).map(|at| &self.nodes[*at]).filter(|_| depth > 0)?;
        let keeps = matches!(node.operator, b"Transpose" | b"Cast" | b"Identity" | b"DequantizeLinear");
        if keeps && node.is_standard() { self.rank(node.inputs.first()?, depth - 1) } else { None }
    }

    fn has_branches(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node.operator, b"If" | b"Loop" | b"Scan"))
    }

    fn changed(&self, cut: &Cut<'_>, logits: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(self.bytes.len() + 256);
        let mut nodes = 0;
        let mut rest = self.bytes;
        while let Some(field) = next(&mut rest)? {
            match (field.number, field.payload) {
                (1, Some(_)) => {
                    if nodes == cut.node {
                        let node = &self.nodes[nodes];
                        put(&mut out, 1, &gather(node.inputs[0]));
                        put(&mut out, 1, &reading(node.whole, HIDDEN)?);
                    } else {
                        out.extend_from_slice(field.whole);
                    }
                    nodes += 1;
                }
                (12, Some(value)) if text(value, 1)? == logits => put(&mut out, 12, &of_one_position(value)?),
                // Shapes that somebody noted down, of what has another one now.
                (13, Some(value)) if cut.behind.contains(text(value, 1)?) => {}
                _ => out.extend_from_slice(field.whole),
            }
        }
        put(&mut out, 5, &last());
        Ok(out)
    }
}

/// Name and number of dimensions of a `TensorProto`.
fn tensor(mut bytes: &[u8]) -> io::Result<(&[u8], usize)> {
    let (mut name, mut rank): (&[u8], _) = (b"", 0);
    while let Some(Field { number, payload, .. }) = next(&mut bytes)? {
        match (number, payload) {
            (1, None) => rank += 1,
            (1, Some(mut packed)) => {
                while !packed.is_empty() {
                    decode_varint(&mut packed).map_err(io::Error::other)?;
                    rank += 1;
                }
            }
            (8, Some(payload)) => name = payload,
            _ => {}
        }
    }
    Ok((name, rank))
}

/// Field `number` of a message; the last one counts, and none is empty.
fn text(mut bytes: &[u8], number: u32) -> io::Result<&[u8]> {
    let mut text: &[u8] = b"";
    while let Some(field) = next(&mut bytes)? {
        text = field.payload.filter(|_| field.number == number).unwrap_or(text);
    }
    Ok(text)
}

/// `HIDDEN`: the last position of `from`, `[batch, positions, hidden]`, as `[batch, 1, hidden]`.
fn gather(from: &[u8]) -> Vec<u8> {
    let mut axis = Vec::new();
    put(&mut axis, 1, b"axis");
    put_number(&mut axis, 3, 1);
    put_number(&mut axis, 20, INT);
    let mut out = Vec::new();
    put(&mut out, 1, from);
    put(&mut out, 1, POSITION);
    put(&mut out, 2, HIDDEN);
    put(&mut out, 3, HIDDEN);
    put(&mut out, 4, b"Gather");
    put(&mut out, 5, &axis);
    out
}

/// The initializer `POSITION`, `[-1]`.
fn last() -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, 1);
    put_number(&mut out, 2, INT64);
    put(&mut out, 8, POSITION);
    put(&mut out, 9, &(-1_i64).to_le_bytes());
    out
}

/// `node` with `input` as its first one.
fn reading(mut node: &[u8], input: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(node.len() + input.len());
    let mut first = true;
    while let Some(field) = next(&mut node)? {
        if field.number == 1 && std::mem::take(&mut first) {
            put(&mut out, 1, input);
        } else {
            out.extend_from_slice(field.whole);
        }
    }
    Ok(out)
}

/// A `ValueInfoProto` whose second dimension is 1.
fn of_one_position(value: &[u8]) -> io::Result<Vec<u8>> {
    /// From a value to its type, its tensor type, its shape, and the dimensions of it.
    const PATH: [u32; 4] = [2, 1, 2, 1];
    fn rewrite(mut bytes: &[u8], path: &[u32]) -> io::Result<Vec<u8>> {
        let Some((number, deeper)) = path.split_first() else { return Ok(Vec::new()) };
        let (mut out, mut seen) = (Vec::new(), 0);
        while let Some(field) = next(&mut bytes)? {
            let inner = field.payload.filter(|_| field.number == *number);
            seen += usize::from(inner.is_some());
            match inner {
                Some(_) if deeper.is_empty() && seen == 2 => {
                    let mut one = Vec::new();
                    put_number(&mut one, 1, 1);
                    put(&mut out, *number, &one);
                }
                Some(inner) if !deeper.is_empty() => put(&mut out, *number, &rewrite(inner, deeper)?),
                _ => out.extend_from_slice(field.whole),
            }
        }
        Ok(out)
    }
    rewrite(value, &PATH)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::package::onnx::ModelProto;
    use crate::package::wire::{field, graph, int, model, node, value};

    fn matrix(name: &str, dims: &[u64]) -> Vec<u8> {
        let count = usize::try_from(dims.iter().product::<u64>()).unwrap();
        let dims: Vec<u8> = dims.iter().flat_map(|dim| int(1, *dim)).collect();
        [dims, int(2, 1), field(8, name.as_bytes()), field(9, &vec![0; count * 4])].concat()
    }

    fn decoder(nodes: &[Vec<u8>], outputs: &[&str]) -> Vec<u8> {
        let weights = [matrix("w", &[4, 8]), matrix("w3", &[1, 4, 8]), matrix("cap", &[1])];
        let outputs: Vec<_> = outputs.iter().map(|name| value(name, 1, &[2, 7, 8])).collect();
        model(&graph(nodes, &weights, &[value("x", 1, &[2, 7, 4])], &outputs))
    }

    fn cut(model: &[u8]) -> Option<ModelProto> {
        last_position_only(model, "logits").unwrap().map(|model| ModelProto::decode(&model[..]).unwrap())
    }

    #[test]
    fn the_last_position_goes_into_the_projection() {
        let norm = node("Tanh", &["x"], "h", &[]);
        let after = cut(&decoder(&[norm, node("MatMul", &["h", "w"], "logits", &[])], &["logits"])).unwrap();
        let graph = after.graph.unwrap();
        let operators: Vec<_> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(operators, ["Tanh", "Gather", "MatMul"]);
        assert_eq!(graph.node[1].input, [&b"h"[..], POSITION]);
        assert_eq!(graph.node[1].attribute[0].i, Some(1));
        assert_eq!(graph.node[2].input, [HIDDEN, &b"w"[..]]);
        let shape = graph.output[0].r#type.clone().unwrap().tensor_type.unwrap().shape.unwrap();
        assert_eq!(shape.dim.iter().map(|dim| dim.dim_value).collect::<Vec<_>>(), [Some(2), Some(1), Some(8)]);
        let position = graph.initializer.iter().find(|tensor| tensor.name.as_bytes() == POSITION).unwrap();
        assert_eq!((position.dims[0], &position.raw_data.as_ref().unwrap()[..]), (1, &[0xff; 8][..]));
    }

    #[test]
    fn operators_behind_it_may_work_element_by_element() {
        let capped = [
            node("MatMul", &["x", "w"], "a", &[]),
            node("Div", &["a", "cap"], "b", &[]),
            node("Tanh", &["b"], "c", &[]),
            node("Mul", &["cap", "c"], "d", &[]),
            node("Cast", &["d"], "logits", &[]),
        ];
        let after = cut(&decoder(&capped, &["logits"])).unwrap();
        assert_eq!(after.graph.unwrap().node.len(), 6);
        let tied = [node("Transpose", &["w"], "t", &[]), node("MatMul", &["x", "t"], "logits", &[])];
        assert!(cut(&decoder(&tied, &["logits"])).is_some());
    }

    #[test]
    fn any_other_end_is_left_alone() {
        let project = node("MatMul", &["x", "w"], "logits", &[]);
        type Case<'a> = (&'a str, Vec<Vec<u8>>, &'a [&'a str]);
        let refused: [Case<'_>; 8] = [
            ("not a product", vec![node("Tanh", &["x"], "logits", &[])], &["logits"]),
            ("both sides vary", vec![node("MatMul", &["x", "x"], "logits", &[])], &["logits"]),
            ("weights of three dimensions", vec![node("MatMul", &["x", "w3"], "logits", &[])], &["logits"]),
            (
                "across positions",
                vec![node("MatMul", &["x", "w"], "a", &[]), node("CumSum", &["a", "cap"], "logits", &[])],
                &["logits"],
            ),
            (
                "read in between",
                vec![
                    node("MatMul", &["x", "w"], "a", &[]),
                    node("Tanh", &["a"], "logits", &[]),
                    node("Neg", &["a"], "y", &[]),
                ],
                &["logits", "y"],
            ),
            (
                "given in between",
                vec![node("MatMul", &["x", "w"], "a", &[]), node("Tanh", &["a"], "logits", &[])],
                &["logits", "a"],
            ),
            ("read behind", vec![project.clone(), node("Neg", &["logits"], "y", &[])], &["logits", "y"]),
            (
                "a name of ours",
                vec![project, node("Neg", &["x"], "mayfly/last_hidden", &[])],
                &["logits", "mayfly/last_hidden"],
            ),
        ];
        for (why, nodes, outputs) in refused {
            assert_eq!(cut(&decoder(&nodes, outputs)), None, "{why}");
        }
        let no_logits = decoder(&[node("MatMul", &["x", "w"], "y", &[])], &["y"]);
        assert_eq!(cut(&no_logits), None);
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = decoder(&[node("MatMul", &["x", "w"], "logits", &[])], &["logits"]);
        assert!(last_position_only(&bytes[..bytes.len() - 3], "logits").is_err());
        assert_eq!(last_position_only(b"", "logits").unwrap(), None);
    }
}
