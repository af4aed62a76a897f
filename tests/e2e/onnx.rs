//! Writes ONNX models that no exporter writes: field by field, with nothing checked. Numbers of fields are the format's.

use std::path::{Path, PathBuf};

/// Element types.
pub(crate) const FLOAT: u64 = 1;
pub(crate) const INT32: u64 = 6;
pub(crate) const INT64: u64 = 7;
pub(crate) const STRING: u64 = 8;

/// A protobuf message in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    pub(crate) fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    pub(crate) fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(crate) fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    pub(crate) fn messages<'a>(self, field: u64, values: impl IntoIterator<Item = &'a Self>) -> Self {
        values.into_iter().fold(self, |all, value| all.message(field, value))
    }

    pub(crate) fn texts(self, field: u64, values: &[&str]) -> Self {
        values.iter().fold(self, |all, value| all.text(field, value))
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// A node of the standard's domain.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Message]) -> Message {
    Message::default().texts(1, inputs).texts(2, outputs).text(4, op).messages(5, attributes)
}

/// A node of another domain.
pub(crate) fn node_of(domain: &str, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Message]) -> Message {
    node(op, inputs, outputs, attributes).text(7, domain)
}

pub(crate) fn integer(name: &str, value: u64) -> Message {
    Message::default().text(1, name).number(3, value).number(20, 2)
}

pub(crate) fn subgraph(name: &str, graph: &Message) -> Message {
    Message::default().text(1, name).message(6, graph).number(20, 5)
}

pub(crate) fn constant(name: &str, tensor: &Message) -> Message {
    Message::default().text(1, name).message(5, tensor).number(20, 4)
}

/// A tensor with its bytes in place, whatever its dimensions say.
pub(crate) fn tensor(name: &str, element_type: u64, dims: &[i64], raw: &[u8]) -> Message {
    let dims = dims.iter().fold(Message::default(), |all, size| all.number(1, size.cast_unsigned()));
    dims.number(2, element_type).text(8, name).bytes(9, raw)
}

/// A list of int64.
pub(crate) fn int64s(name: &str, values: &[i64]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, INT64, &[i64::try_from(values.len()).unwrap()], &raw)
}

/// A value that goes in or out; a dimension below 0 is the caller's to choose.
pub(crate) fn value(name: &str, element_type: u64, dims: &[i64]) -> Message {
    let shape = dims.iter().fold(Message::default(), |shape, &size| {
        let dim = match u64::try_from(size) {
            Ok(size) => Message::default().number(1, size),
            Err(_) => Message::default().text(2, &format!("n{size}")),
        };
        shape.message(1, &dim)
    });
    let tensor = Message::default().number(1, element_type).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

/// A graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Message>,
    pub(crate) inputs: Vec<Message>,
    pub(crate) outputs: Vec<Message>,
    pub(crate) weights: Vec<Message>,
    pub(crate) sparse: Vec<Message>,
}

impl Graph {
    /// One node from `x` to `y`, both of any length, beside weights.
    pub(crate) fn one(node: Message, weights: Vec<Message>) -> Self {
        Self {
            nodes: vec![node],
            inputs: vec![value("x", FLOAT, &[-1])],
            outputs: vec![value("y", FLOAT, &[-2])],
            weights,
            sparse: Vec::new(),
        }
    }

    pub(crate) fn message(&self) -> Message {
        Message::default()
            .messages(1, &self.nodes)
            .text(2, "g")
            .messages(5, &self.weights)
            .messages(11, &self.inputs)
            .messages(12, &self.outputs)
            .messages(15, &self.sparse)
    }

    /// As a model file in `folder`.
    pub(crate) fn save(&self, folder: &Path, functions: &[Message]) -> PathBuf {
        let opset = |domain: &str, version| Message::default().text(1, domain).number(2, version);
        let model = Message::default()
            .number(1, 8)
            .message(7, &self.message())
            .messages(8, &[opset("", 17), opset("com.microsoft", 1), opset("own", 1)])
            .messages(25, functions);
        let file = folder.join("model.onnx");
        std::fs::write(&file, model.0).unwrap();
        file
    }
}
