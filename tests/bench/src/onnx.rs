//! Small ONNX graphs of f32 tensors, written without a Python package: protobuf by hand, only what these rows need.

/// Rank two everywhere: one row, or as many as the caller gives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Size {
    Fixed(u64),
    Named(&'static str),
}

/// A graph in the making.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: Vec<u8>,
    weights: Vec<u8>,
    inputs: Vec<u8>,
    outputs: Vec<u8>,
}

const FLOAT: u64 = 1;
const EXTERNAL: u64 = 1;

impl Graph {
    pub(crate) fn node(&mut self, operator: &str, inputs: &[&str], output: &str) {
        let mut node = Vec::new();
        for input in inputs {
            text(&mut node, 1, input);
        }
        text(&mut node, 2, output);
        text(&mut node, 3, output); // the node's name
        text(&mut node, 4, operator);
        bytes(&mut self.nodes, 1, &node);
    }

    /// `size` bytes at `offset` of the file `file` beside the graph.
    pub(crate) fn external_weight(&mut self, name: &str, dims: [u64; 2], file: &str, offset: u64, size: u64) {
        let mut tensor = Vec::new();
        for dim in dims {
            number(&mut tensor, 1, dim);
        }
        number(&mut tensor, 2, FLOAT);
        text(&mut tensor, 8, name);
        for (key, value) in [("location", file), ("offset", &offset.to_string()), ("length", &size.to_string())] {
            let mut entry = Vec::new();
            text(&mut entry, 1, key);
            text(&mut entry, 2, value);
            bytes(&mut tensor, 13, &entry);
        }
        number(&mut tensor, 14, EXTERNAL);
        bytes(&mut self.weights, 5, &tensor);
    }

    pub(crate) fn input(&mut self, name: &str, sizes: [Size; 2]) {
        bytes(&mut self.inputs, 11, &outlet(name, sizes));
    }

    pub(crate) fn output(&mut self, name: &str, sizes: [Size; 2]) {
        bytes(&mut self.outputs, 12, &outlet(name, sizes));
    }

    /// The file. `maker` makes files of equal graphs differ.
    pub(crate) fn file(self, maker: &str) -> Vec<u8> {
        let mut graph = self.nodes;
        text(&mut graph, 2, "bench");
        graph.extend(self.weights);
        graph.extend(self.inputs);
        graph.extend(self.outputs);
        let mut opset = Vec::new();
        text(&mut opset, 1, "");
        number(&mut opset, 2, 17);
        let mut model = Vec::new();
        number(&mut model, 1, 8); // IR version
        text(&mut model, 2, maker);
        bytes(&mut model, 7, &graph);
        bytes(&mut model, 8, &opset);
        model
    }
}

/// y = x + x, `[1, n]`: its own work is next to nothing.
pub(crate) fn double(maker: &str) -> Vec<u8> {
    let mut graph = Graph::default();
    graph.node("Add", &["x", "x"], "y");
    graph.input("x", [Size::Fixed(1), Size::Named("n")]);
    graph.output("y", [Size::Fixed(1), Size::Named("n")]);
    graph.file(maker)
}

/// y0 = -x0, y1 = -x1, ..: each `[1, elements]`.
pub(crate) fn negate_all(tensors: usize, elements: u64) -> Vec<u8> {
    let mut graph = Graph::default();
    for index in 0..tensors {
        let (input, output) = (format!("x{index}"), format!("y{index}"));
        graph.node("Neg", &[&input], &output);
        graph.input(&input, [Size::Fixed(1), Size::Fixed(elements)]);
        graph.output(&output, [Size::Fixed(1), Size::Fixed(elements)]);
    }
    graph.file("mayfly-bench")
}

fn outlet(name: &str, sizes: [Size; 2]) -> Vec<u8> {
    let mut shape = Vec::new();
    for size in sizes {
        let mut dimension = Vec::new();
        match size {
            Size::Fixed(size) => number(&mut dimension, 1, size),
            Size::Named(name) => text(&mut dimension, 2, name),
        }
        bytes(&mut shape, 1, &dimension);
    }
    let (mut tensor, mut kind, mut outlet) = (Vec::new(), Vec::new(), Vec::new());
    number(&mut tensor, 1, FLOAT);
    bytes(&mut tensor, 2, &shape);
    bytes(&mut kind, 1, &tensor);
    text(&mut outlet, 1, name);
    bytes(&mut outlet, 2, &kind);
    outlet
}

fn number(into: &mut Vec<u8>, field: u64, value: u64) {
    varint(into, field << 3);
    varint(into, value);
}

fn text(into: &mut Vec<u8>, field: u64, value: &str) {
    bytes(into, field, value.as_bytes());
}

fn bytes(into: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(into, field << 3 | 2);
    varint(into, value.len() as u64);
    into.extend_from_slice(value);
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    into.push(value.to_le_bytes()[0]);
}
