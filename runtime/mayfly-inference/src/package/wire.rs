//! Small models for tests, written in ONNX's wire form by hand: with the fields that `onnx.rs` does not name.

/// A field with a length.
pub(crate) fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(number << 3 | 2, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    out
}

/// A field with a number.
pub(crate) fn int(number: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(number << 3, &mut out);
    prost::encoding::encode_varint(value, &mut out);
    out
}

/// An initializer `[values]` of f32.
pub(crate) fn floats(name: &str, values: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [int(1, values.len() as u64), int(2, 1), field(8, name.as_bytes()), field(9, &raw)].concat()
}

/// An input or output of an element type and with these dimensions.
pub(crate) fn value(name: &str, element: u64, dims: &[u64]) -> Vec<u8> {
    let shape: Vec<u8> = dims.iter().flat_map(|dim| field(1, &int(1, *dim))).collect();
    let tensor = field(1, &[int(1, element), field(2, &shape)].concat());
    [field(1, name.as_bytes()), field(2, &tensor)].concat()
}

/// A node; attributes as they are.
pub(crate) fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut out: Vec<u8> = inputs.iter().flat_map(|input| field(1, input.as_bytes())).collect();
    out.extend(field(2, output.as_bytes()));
    out.extend(field(4, op.as_bytes()));
    out.extend(attributes.iter().flat_map(|attribute| field(5, attribute)));
    out
}

/// An attribute that is a graph.
pub(crate) fn branch(name: &str, graph: &[u8]) -> Vec<u8> {
    [field(1, name.as_bytes()), field(6, graph), int(20, 5)].concat()
}

pub(crate) fn graph(nodes: &[Vec<u8>], initializers: &[Vec<u8>], inputs: &[Vec<u8>], outputs: &[Vec<u8>]) -> Vec<u8> {
    let all = |number, parts: &[Vec<u8>]| parts.iter().flat_map(|part| field(number, part)).collect::<Vec<_>>();
    [all(1, nodes), field(2, b"g"), all(5, initializers), all(11, inputs), all(12, outputs)].concat()
}

/// Opset 13.
pub(crate) fn model(graph: &[u8]) -> Vec<u8> {
    [int(1, 8), field(7, graph), field(8, &int(2, 13))].concat()
}

/// `y = x * factors`, element by element.
pub(crate) fn product(factors: &[f32]) -> Vec<u8> {
    let dims = [factors.len() as u64];
    let nodes = [node("Mul", &["x", "w"], "y", &[])];
    model(&graph(&nodes, &[floats("w", factors)], &[value("x", 1, &dims)], &[value("y", 1, &dims)]))
}
