//! The checks on a decoded model: operators, nesting, constants, functions, and what goes in and comes out.

use std::collections::{HashMap, HashSet};

use super::division;
use super::external::External;
use super::functions::{Body, expanded};
use super::import::ImportPolicy;
use super::info::{DimensionInfo, Role, TensorInfo};
use super::nature::Nature;
use super::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use super::operators::{allowed, shown};
use super::tensors::{self, Constant};
use super::wiring::Wiring;
use crate::ElementType;

/// Nodes of the main graph, of subgraphs and of functions once in place.
const NODES_MAX: u64 = 500_000;
const FUNCTIONS_MAX: usize = 10_000;
const TENSORS_MAX: usize = 4_096;

/// What the checks found.
#[derive(Debug)]
pub(super) struct Checked {
    /// Ranges of other files that the graph needs.
    pub(super) externals: Vec<External>,
    /// Inputs that have no default, and outputs; roles still [`Role::Data`].
    pub(super) inputs: Vec<TensorInfo>,
    pub(super) outputs: Vec<TensorInfo>,
    /// Outputs whose shape the graph does not tell.
    pub(super) unshaped: Vec<String>,
    /// What is connected to its inputs and outputs.
    pub(super) wiring: Wiring,
    /// All weights of some size are f32.
    pub(super) floats: bool,
    /// What its operators say of its runs.
    pub(super) nature: Nature,
}

type Functions<'a> = HashMap<(&'a str, &'a str, &'a str), usize>;

/// Makes every check that needs the graph alone.
///
/// # Errors
/// A text that names the thing and the rule.
pub(super) fn check(model: &ModelProto, policy: &ImportPolicy) -> Result<Checked, String> {
    let graph = model.graph.as_ref().ok_or("the model has no graph")?;
    if model.ir_version.is_none() {
        return Err("the model does not say which version of ONNX it is (ir_version)".to_owned());
    }
    if model.functions.len() > FUNCTIONS_MAX {
        return Err(format!("the model has {} functions; at most {FUNCTIONS_MAX} are accepted", model.functions.len()));
    }
    let mut names = Functions::new();
    for (index, function) in model.functions.iter().enumerate() {
        if names.insert((&function.domain, &function.name, &function.overload), index).is_some() {
            return Err(format!("the model has two functions named `{}`", shown(&function.name)));
        }
    }
    let mut walk = Walk { functions: names, policy, bytes: 0, externals: Vec::new() };
    let mut main = Body::default();
    walk.graph(graph, 0, &mut main)?;
    let mut bodies = Vec::with_capacity(model.functions.len());
    for function in &model.functions {
        let mut body = Body { name: function.name.clone(), ..Body::default() };
        walk.nodes(&function.node, 0, &mut body)?;
        for attribute in &function.attribute_proto {
            walk.attribute(attribute, 0, &mut body)?;
        }
        bodies.push(body);
    }
    let size = expanded(&main, &bodies)?;
    if size.nodes > NODES_MAX {
        return Err(format!("the model has more than {NODES_MAX} nodes"));
    }
    walk.depth(size.depth)?;
    division::check(model)?;
    let (inputs, outputs, unshaped) = interface(graph)?;
    let wiring = Wiring::of(graph, &inputs);
    let floats = floats(graph);
    let nature = Nature::of(model);
    Ok(Checked { externals: walk.externals, inputs, outputs, unshaped, wiring, nature, floats })
}

/// Whether every initializer of some size is f32. Only then is a run without packed weights slower by little: kernels of
/// quantized weights (`MatMulNBits`) unpack them anew at each run, which takes 60 times as long.
fn floats(graph: &GraphProto) -> bool {
    const FLOAT: i32 = 1;
    const SMALL: i64 = 4096;
    let small =
        |dims: &[i64]| dims.iter().try_fold(1_i64, |all, dim| all.checked_mul(*dim)).is_some_and(|all| all <= SMALL);
    graph.initializer.iter().all(|tensor| tensor.data_type == FLOAT || small(&tensor.dims))
}

struct Walk<'a> {
    functions: Functions<'a>,
    policy: &'a ImportPolicy,
    bytes: u64,
    externals: Vec<External>,
}

impl Walk<'_> {
    fn graph(&mut self, graph: &GraphProto, depth: usize, body: &mut Body) -> Result<(), String> {
        self.depth(depth)?;
        body.depth = body.depth.max(depth);
        for tensor in &graph.initializer {
            self.constant(tensors::check(tensor)?)?;
        }
        for sparse in &graph.sparse_initializer {
            self.constant(tensors::check_sparse(sparse)?)?;
        }
        self.nodes(&graph.node, depth, body)
    }

    fn nodes(&mut self, nodes: &[NodeProto], depth: usize, body: &mut Body) -> Result<(), String> {
        for node in nodes {
            body.nodes += 1;
            let key = (node.domain.as_str(), node.op_type.as_str(), node.overload.as_str());
            match self.functions.get(&key) {
                Some(&function) => body.calls.push((function, depth)),
                None => allowed(&node.domain, &node.op_type)?,
            }
            let holds_graphs = matches!(node.domain.as_str(), "" | "ai.onnx")
                && matches!(node.op_type.as_str(), "If" | "Loop" | "Scan" | "SequenceMap");
            for attribute in &node.attribute {
                if !holds_graphs && (attribute.g.is_some() || !attribute.graphs.is_empty()) {
                    return Err(format!(
                        "the operator `{}` has a graph inside, which only If, Loop and Scan may",
                        shown(&node.op_type)
                    ));
                }
                self.attribute(attribute, depth, body)?;
            }
        }
        Ok(())
    }

    fn attribute(&mut self, attribute: &AttributeProto, depth: usize, body: &mut Body) -> Result<(), String> {
        for tensor in attribute.t.iter().chain(&attribute.tensors) {
            self.constant(tensors::check(tensor)?)?;
        }
        for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
            self.constant(tensors::check_sparse(sparse)?)?;
        }
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            self.graph(graph, depth + 1, body)?;
        }
        Ok(())
    }

    fn depth(&self, depth: usize) -> Result<(), String> {
        let most = self.policy.subgraph_depth_max;
        if depth > most {
            return Err(format!("If, Loop and Scan are nested more than {most} deep"));
        }
        Ok(())
    }

    fn constant(&mut self, constant: Constant) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(constant.bytes);
        if self.bytes > self.policy.package_bytes_max {
            return Err(format!("the model's constants take more than {} bytes", self.policy.package_bytes_max));
        }
        self.externals.extend(constant.external);
        Ok(())
    }
}

type Interface = (Vec<TensorInfo>, Vec<TensorInfo>, Vec<String>);

fn interface(graph: &GraphProto) -> Result<Interface, String> {
    let defaults: HashSet<&str> = graph
        .initializer
        .iter()
        .map(|tensor| tensor.name.as_str())
        .chain(graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|v| v.name.as_str()))
        .collect();
    let required = graph.input.iter().filter(|input| !defaults.contains(input.name.as_str()));
    let mut unshaped = Vec::new();
    let inputs = tensors_of(required, "input", |name| Err(format!("the input `{name}` has no shape")))?;
    let outputs = tensors_of(graph.output.iter(), "output", |name| {
        unshaped.push(name.to_owned());
        Ok(())
    })?;
    if inputs.is_empty() || outputs.is_empty() {
        return Err("the model has no inputs or no outputs".to_owned());
    }
    Ok((inputs, outputs, unshaped))
}

fn tensors_of<'a>(
    values: impl Iterator<Item = &'a ValueInfoProto>,
    what: &str,
    mut without_shape: impl FnMut(&str) -> Result<(), String>,
) -> Result<Vec<TensorInfo>, String> {
    let mut seen = HashSet::new();
    let mut tensors = Vec::new();
    for value in values {
        let name = value.name.as_str();
        if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
            return Err(format!(
                "an {what} is named `{}`; names have 1 to 256 bytes and no control characters",
                shown(name)
            ));
        }
        if !seen.insert(name) {
            return Err(format!("two {what}s are named `{}`", shown(name)));
        }
        if tensors.len() == TENSORS_MAX {
            return Err(format!("the model has more than {TENSORS_MAX} {what}s"));
        }
        let Some(tensor) = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()) else {
            return Err(format!(
                "the {what} `{}` is not a plain tensor (sequences, maps and optionals cannot be passed)",
                shown(name)
            ));
        };
        let element_type = element_type(tensor.elem_type).ok_or_else(|| {
            format!(
                "the {what} `{}` has the element type {}; f16, bf16, f32, f64, u8, i32, i64 and bool can be passed",
                shown(name),
                type_name(tensor.elem_type)
            )
        })?;
        let mut dimensions = Vec::new();
        match &tensor.shape {
            None => without_shape(name)?,
            Some(shape) if shape.dim.len() > 16 => {
                return Err(format!(
                    "the {what} `{}` has {} dimensions; at most 16 are supported",
                    shown(name),
                    shape.dim.len()
                ));
            }
            Some(shape) => {
                for dim in &shape.dim {
                    dimensions.push(match (dim.dim_value, dim.dim_param.as_deref()) {
                        // Old exporters write -1 for what the caller chooses.
                        (Some(-1), _) => DimensionInfo::Any,
                        (Some(size), _) => DimensionInfo::Fixed(
                            u32::try_from(size)
                                .ok()
                                .filter(|size| *size > 0)
                                .ok_or_else(|| format!("the {what} `{}` has a dimension of {size}", shown(name)))?,
                        ),
                        (None, Some(symbol)) if (1..=80).contains(&symbol.len()) => DimensionInfo::Named(shown(symbol)),
                        _ => DimensionInfo::Any,
                    });
                }
            }
        }
        tensors.push(TensorInfo { name: name.to_owned(), element_type, dimensions, role: Role::Data });
    }
    Ok(tensors)
}

const fn element_type(onnx: i32) -> Option<ElementType> {
    Some(match onnx {
        1 => ElementType::F32,
        2 => ElementType::U8,
        6 => ElementType::I32,
        7 => ElementType::I64,
        9 => ElementType::Bool,
        10 => ElementType::F16,
        11 => ElementType::F64,
        16 => ElementType::Bf16,
        _ => return None,
    })
}

fn type_name(onnx: i32) -> String {
    match onnx {
        3 => "int8".to_owned(),
        4 => "uint16".to_owned(),
        5 => "int16".to_owned(),
        8 => "string".to_owned(),
        12 => "uint32".to_owned(),
        13 => "uint64".to_owned(),
        other => format!("number {other}"),
    }
}
