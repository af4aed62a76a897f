//! A first walk over the wire form of a model, before anything is decoded.
//!
//! Two bytes of protobuf can become a hundred bytes of structs, so a crafted file of some megabytes could take
//! gigabytes once decoded. This walk allocates nothing: it counts the fields that decoding would make and bounds
//! their number and their nesting.

/// Fields of all messages together that are not weights. A decoder of 100,000 nodes has about two million.
const FIELDS_MAX: u64 = 8_000_000;
/// Messages inside messages. Each graph in a graph is three levels (node, attribute, graph).
const NESTING_MAX: usize = 60;

#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Function,
    /// From here on, messages without weights or graphs.
    Value,
    Type,
    TensorType,
    Shape,
    Leaf,
}

impl Kind {
    /// The message that field `number` holds, if `onnx.rs` decodes it as one.
    const fn child(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Graph, 11 | 12) => Self::Value,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Value, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Shape, 1) | (Self::Tensor, 13) => Self::Leaf,
            _ => return None,
        })
    }

    /// Whether field `number` is a list of numbers that decoding would widen (`dims`).
    const fn widened(self, number: u64) -> bool {
        matches!((self, number), (Self::Tensor, 1) | (Self::Sparse, 3))
    }
}

/// Walks `bytes`, a `ModelProto`.
///
/// # Errors
/// A text that says what is wrong with the bytes, or which bound they pass.
pub(super) fn scan(bytes: &[u8]) -> Result<(), String> {
    let mut fields = 0;
    walk(bytes, Kind::Model, 0, &mut fields)
}

fn walk(mut bytes: &[u8], kind: Kind, depth: usize, fields: &mut u64) -> Result<(), String> {
    if depth > NESTING_MAX {
        return Err(format!("the model's graphs are nested too deeply (more than {NESTING_MAX} messages)"));
    }
    while !bytes.is_empty() {
        *fields += 1;
        if *fields > FIELDS_MAX {
            return Err(format!("the model's graph has more than {FIELDS_MAX} fields"));
        }
        let tag = varint(&mut bytes)?;
        let number = tag >> 3;
        match tag & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => drop(take(&mut bytes, 8)?),
            5 => drop(take(&mut bytes, 4)?),
            2 => {
                let length = varint(&mut bytes)?;
                let inner = take(&mut bytes, length)?;
                if let Some(child) = kind.child(number) {
                    walk(inner, child, depth + 1, fields)?;
                } else if kind.widened(number) {
                    *fields += inner.len() as u64;
                }
            }
            _ => return Err(CORRUPT.to_owned()),
        }
    }
    Ok(())
}

/// Also what a decoding error is reported as.
pub(super) const CORRUPT: &str = "the file is not an ONNX model, or it is damaged or cut short";

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(CORRUPT)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CORRUPT.to_owned())
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], String> {
    let length = usize::try_from(length).map_err(|_| CORRUPT)?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or(CORRUPT)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::package::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto};

    fn nested(levels: usize) -> GraphProto {
        (0..levels).fold(GraphProto::default(), |inner, _| GraphProto {
            node: vec![NodeProto {
                op_type: "If".into(),
                attribute: vec![AttributeProto { g: Some(inner), ..AttributeProto::default() }],
                ..NodeProto::default()
            }],
            ..GraphProto::default()
        })
    }

    #[test]
    fn deep_nesting_is_refused_before_decoding() {
        let model = |levels| ModelProto { graph: Some(nested(levels)), ..ModelProto::default() }.encode_to_vec();
        assert!(scan(&model(5)).is_ok());
        assert!(scan(&model(200)).unwrap_err().contains("nested too deeply"));
    }

    #[test]
    fn a_bomb_of_empty_nodes_is_refused() {
        let mut graph = Vec::new();
        for _ in 0..FIELDS_MAX {
            graph.extend_from_slice(&[0x0a, 0x00]);
        }
        let mut model = vec![0x3a];
        prost::encoding::encode_varint(graph.len() as u64, &mut model);
        model.extend(graph);
        assert!(scan(&model).unwrap_err().contains("fields"));
    }

    #[test]
    fn every_cut_of_a_model_is_refused_or_fine() {
        let model = ModelProto { graph: Some(nested(3)), ..ModelProto::default() }.encode_to_vec();
        for cut in 1..model.len() {
            assert!(scan(&model[..cut]).is_err(), "cut at {cut}");
        }
        assert!(scan(&[0xff; 32]).is_err());
    }
}
