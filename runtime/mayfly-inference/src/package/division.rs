//! Whole numbers that a caller could divide so that the result overflows. The smallest i32 or i64 by -1 has no result: the
//! processor raises a signal, and ONNX Runtime (1.31) checks for zero only. One run with such inputs would end the process
//! for everybody, so a graph in which a caller can bring both about is refused.
//!
//! What is followed is where values come from: the caller, constants, or shapes. Numbers computed from shapes and constants
//! alone are taken to be harmless: they are how exporters compute sizes. Who makes a model to do harm can hide a division
//! behind them; against that stands the operator's approval, and a process of its own.

use std::collections::HashMap;

use prost::bytes::Bytes;

use super::onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use super::tensors::int64s;

const INT32: i32 = 6;
const INT64: i32 = 7;

/// What is known of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fact {
    /// It may be of i32 or i64.
    whole: bool,
    /// It may be -1.
    minus_one: bool,
    /// It may be the smallest number of its type.
    least: bool,
}

impl Fact {
    /// Neither is known: it is read before anything is said of it.
    const UNKNOWN: Self = Self { whole: true, minus_one: true, least: true };

    const fn from_caller(whole: bool) -> Self {
        Self { whole, minus_one: true, least: true }
    }

    const fn harmless(whole: bool) -> Self {
        Self { whole, minus_one: false, least: false }
    }

    /// A result of this type computed from `self`.
    const fn with(self, whole: bool) -> Self {
        Self { whole, ..self }
    }

    const fn is_from_caller(self) -> bool {
        self.minus_one && self.least
    }

    fn of_constant(tensor: &TensorProto) -> Self {
        let holds = |least: i64| {
            let mut fact = Self::harmless(true);
            for value in int64s(tensor) {
                fact.minus_one |= value == -1;
                fact.least |= value == least;
            }
            fact
        };
        match tensor.data_type {
            INT32 | INT64 if tensor.data_location != 0 => Self::UNKNOWN,
            INT64 => holds(i64::MIN),
            INT32 => match &tensor.raw_data {
                Some(raw) => {
                    let values = raw.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
                    values.fold(Self::harmless(true), |fact, value| Self {
                        minus_one: fact.minus_one || value == -1,
                        least: fact.least || value == i32::MIN,
                        ..fact
                    })
                }
                None => holds(i64::from(i32::MIN)),
            },
            _ => Self::harmless(false),
        }
    }
}

const fn is_whole(element_type: i32) -> bool {
    matches!(element_type, INT32 | INT64)
}

/// Whether a value is declared to be of whole numbers; none if nothing is declared.
fn declared(value: &ValueInfoProto) -> Option<bool> {
    value.r#type.as_ref()?.tensor_type.as_ref().map(|tensor| is_whole(tensor.elem_type))
}

type Scope = HashMap<Bytes, Fact>;

struct Walk<'a> {
    functions: HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
}

/// Looks at all divisions, those of subgraphs and functions included. The model's size was bounded before.
///
/// # Errors
/// A text that names the operator.
pub(super) fn check(model: &ModelProto) -> Result<(), String> {
    let Some(graph) = &model.graph else { return Ok(()) };
    let functions =
        model.functions.iter().map(|f| ((f.domain.as_str(), f.name.as_str(), f.overload.as_str()), f)).collect();
    let inputs = graph.input.iter().map(|input| Fact::from_caller(declared(input).unwrap_or(true))).collect();
    Walk { functions }.graph(graph, inputs, &mut Vec::new()).map(|_outputs| ())
}

fn find(scopes: &[Scope], name: &Bytes) -> Fact {
    scopes.iter().rev().find_map(|scope| scope.get(name)).copied().unwrap_or(Fact::UNKNOWN)
}

impl Walk<'_> {
    /// Facts of the outputs. `inputs` stand in the order of the graph's own.
    fn graph(&self, graph: &GraphProto, inputs: Vec<Fact>, scopes: &mut Vec<Scope>) -> Result<Vec<Fact>, String> {
        let mut scope = Scope::new();
        for (input, fact) in graph.input.iter().zip(inputs) {
            let whole = declared(input).unwrap_or(fact.whole);
            scope.insert(Bytes::copy_from_slice(input.name.as_bytes()), fact.with(whole));
        }
        for tensor in &graph.initializer {
            scope.insert(Bytes::copy_from_slice(tensor.name.as_bytes()), Fact::of_constant(tensor));
        }
        for values in graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref()) {
            scope.insert(Bytes::copy_from_slice(values.name.as_bytes()), Fact::of_constant(values));
        }
        scopes.push(scope);
        self.nodes(&graph.node, scopes)?;
        let outputs = graph.output.iter().map(|output| {
            let fact = find(scopes, &Bytes::copy_from_slice(output.name.as_bytes()));
            fact.with(declared(output).unwrap_or(fact.whole))
        });
        let outputs = outputs.collect();
        scopes.pop();
        Ok(outputs)
    }

    fn nodes(&self, nodes: &[NodeProto], scopes: &mut Vec<Scope>) -> Result<(), String> {
        for node in nodes {
            let inputs: Vec<Fact> =
                node.input.iter().filter(|name| !name.is_empty()).map(|name| find(scopes, name)).collect();
            let outputs = self.node(node, &inputs, scopes)?;
            let all = inputs.into_iter().fold(Fact::harmless(false), |all, input| Fact {
                whole: all.whole || input.whole,
                minus_one: all.minus_one || input.is_from_caller(),
                least: all.least || input.is_from_caller(),
            });
            let scope = scopes.last_mut().expect("the graph pushed its own");
            for (at, name) in node.output.iter().enumerate() {
                scope.insert(name.clone(), outputs.get(at).copied().unwrap_or(all));
            }
        }
        Ok(())
    }

    /// Facts of a node's outputs, as far as its operator says more than its inputs do.
    fn node(&self, node: &NodeProto, inputs: &[Fact], scopes: &mut Vec<Scope>) -> Result<Vec<Fact>, String> {
        let key = (node.domain.as_str(), node.op_type.as_str(), node.overload.as_str());
        if let Some(function) = self.functions.get(&key) {
            return self.call(function, inputs);
        }
        let first = inputs.first().copied().unwrap_or(Fact::harmless(false));
        let caller = inputs.iter().any(|input| input.is_from_caller());
        let result = |whole| if caller { Fact::from_caller(whole) } else { Fact::harmless(whole) };
        let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
        Ok(match node.op_type.as_str() {
            "Div" | "Mod" => {
                let (dividend, divisor) = (first, inputs.get(1).copied().unwrap_or(Fact::UNKNOWN));
                if dividend.whole && divisor.whole && dividend.least && divisor.minus_one {
                    return Err(format!(
                        "the operator `{}` divides whole numbers that a caller chooses, where the divisor may be -1, for \
                         which ONNX Runtime ends the process; divide by a constant, or in floating point",
                        node.op_type
                    ));
                }
                vec![result(dividend.whole && divisor.whole)]
            }
            "Constant" => vec![constant(&node.attribute)],
            "Cast" => vec![result(attribute("to").is_none_or(|to| to.i.is_none_or(is_whole_number)))],
            "Shape" | "Size" => vec![Fact::harmless(true)],
            "ConstantOfShape" => match attribute("value") {
                Some(value) => vec![value.t.as_ref().map_or(Fact::UNKNOWN, Fact::of_constant)],
                None => vec![Fact::harmless(false)],
            },
            "ArgMax" | "ArgMin" | "NonZero" | "NonMaxSuppression" => vec![result(true)],
            "TopK" => vec![result(first.whole), result(true)],
            "Where" => vec![result(inputs.get(1).is_none_or(|input| input.whole))],
            "CastLike" => vec![result(inputs.get(1).is_none_or(|input| input.whole))],
            "OneHot" => vec![result(inputs.get(2).is_none_or(|input| input.whole))],
            // Names and shapes change, values do not.
            "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" => vec![first],
            "If" => {
                let mut outputs: Vec<Fact> = Vec::new();
                for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
                    for (at, mut fact) in self.graph(graph, Vec::new(), scopes)?.into_iter().enumerate() {
                        // Which of the two it is may be the caller's choice; what they hold is not.
                        if let Some(other) = outputs.get_mut(at) {
                            fact.whole |= other.whole;
                            fact.minus_one |= other.minus_one;
                            fact.least |= other.least;
                            *other = fact;
                        } else {
                            outputs.push(fact);
                        }
                    }
                }
                outputs
            }
            "Loop" | "Scan" | "SequenceMap" => {
                // What goes round may come from anywhere by the second turn.
                let mut outputs = Vec::new();
                for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
                    outputs = self.graph(graph, vec![Fact::UNKNOWN; graph.input.len()], scopes)?;
                }
                let kept = usize::from(node.op_type == "Loop");
                outputs.into_iter().skip(kept).map(|fact| Fact::from_caller(fact.whole)).collect()
            }
            // Most operators give the type of their first input.
            _ => {
                let kind = if caller { Fact::from_caller(first.whole) } else { Fact::harmless(first.whole) };
                vec![kind; node.output.len()]
            }
        })
    }

    fn call(&self, function: &FunctionProto, inputs: &[Fact]) -> Result<Vec<Fact>, String> {
        let scope = function.input.iter().cloned().zip(inputs.iter().copied()).collect();
        // A function sees nothing of where it is called.
        let mut scopes = vec![scope];
        self.nodes(&function.node, &mut scopes)?;
        Ok(function.output.iter().map(|name| find(&scopes, name)).collect())
    }
}

fn is_whole_number(element_type: i64) -> bool {
    i32::try_from(element_type).is_ok_and(is_whole)
}

fn constant(attributes: &[AttributeProto]) -> Fact {
    let Some(attribute) = attributes.first() else { return Fact::UNKNOWN };
    match (attribute.name.as_str(), &attribute.t) {
        ("value", Some(tensor)) => Fact::of_constant(tensor),
        ("value_int", _) => {
            let value = attribute.i.unwrap_or_default();
            Fact { whole: true, minus_one: value == -1, least: value == i64::MIN }
        }
        ("value_ints" | "value" | "sparse_value", _) => Fact::UNKNOWN,
        _ => Fact::harmless(false),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::package::onnx::{TensorTypeProto, TypeProto};

    fn value(name: &str, elem_type: i32) -> ValueInfoProto {
        let tensor_type = Some(TensorTypeProto { elem_type, shape: None });
        ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
    }

    fn node(text: &str) -> NodeProto {
        let mut words = text.split(' ');
        let (output, op) = (words.next().unwrap(), words.next().unwrap());
        let bytes = |name: &str| Bytes::copy_from_slice(name.as_bytes());
        NodeProto {
            output: vec![bytes(output)],
            op_type: op.into(),
            input: words.map(bytes).collect(),
            ..NodeProto::default()
        }
    }

    fn number(name: &str, value: i64) -> TensorProto {
        let raw_data = Some(value.to_le_bytes().to_vec().into());
        TensorProto { name: name.into(), dims: vec![1], data_type: INT64, raw_data, ..TensorProto::default() }
    }

    /// Inputs `x`, `y` (i64) and `f` (f32), constants `two`, `minus` and `least`; nodes as `output Operator inputs`.
    fn refuses(nodes: &[&str]) -> bool {
        let graph = GraphProto {
            node: nodes.iter().map(|text| node(text)).collect(),
            input: vec![value("x", INT64), value("y", INT64), value("f", 1)],
            initializer: vec![number("two", 2), number("minus", -1), number("least", i64::MIN)],
            ..GraphProto::default()
        };
        check(&ModelProto { graph: Some(graph), ..ModelProto::default() }).is_err()
    }

    #[test]
    fn what_a_caller_could_overflow() {
        for nodes in [
            &["z Div x y"][..],
            &["z Mod x y"],
            &["z Div x minus"],
            &["z Div least y"],
            &["z Div least minus"],
            &["a Identity x", "b Add y two", "z Div a b"],
            &["a Cast f", "z Div a y"],
            &["a Reshape minus two", "z Div x a"],
            // Not in order: what is not known yet may be anything.
            &["z Div x b", "b Identity minus"],
            &["a Frobnicate x y", "z Div a y"],
        ] {
            assert!(refuses(nodes), "{nodes:?}");
        }
    }

    #[test]
    fn what_exporters_write() {
        for nodes in [
            &["z Div x two"][..],
            &["z Mod x two"],
            &["z Div f f"],
            &["a Sqrt f", "z Div f a"],
            &["s Shape x", "n Gather s two", "z Div n two"],
            &["s Shape x", "n Gather s two", "z Div x n"],
            &["s Shape f", "z Div two s"],
            &["a ConstantOfShape x", "z Div a f"],
            &["z Div two y"],
        ] {
            assert!(!refuses(nodes), "{nodes:?}");
        }
    }

    #[test]
    fn subgraphs_and_functions_are_looked_into() {
        let inner =
            GraphProto { node: vec![node("z Div x y")], output: vec![value("z", INT64)], ..GraphProto::default() };
        let mut branch = node("z If x");
        branch.attribute = vec![AttributeProto { g: Some(inner.clone()), ..AttributeProto::default() }];
        let graph = |node: NodeProto| GraphProto {
            node: vec![node],
            input: vec![value("x", INT64), value("y", INT64)],
            initializer: vec![number("two", 2)],
            ..GraphProto::default()
        };
        let model = |node| ModelProto { graph: Some(graph(node)), ..ModelProto::default() };
        assert!(check(&model(branch)).is_err());

        let name = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let function = FunctionProto {
            name: "f".into(),
            domain: "own".into(),
            input: vec![name("a"), name("b")],
            output: vec![name("c")],
            node: vec![node("c Div a b")],
            ..FunctionProto::default()
        };
        let call = |inputs: &str| NodeProto { domain: "own".into(), ..node(&format!("z f {inputs}")) };
        let with = |node| ModelProto { functions: vec![function.clone()], ..model(node) };
        assert!(check(&with(call("x y"))).is_err());
        assert!(check(&with(call("x two"))).is_ok());
    }
}
