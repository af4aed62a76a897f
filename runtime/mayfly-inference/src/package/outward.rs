//! Large weights move out of the graph into a file beside it, so that sessions map them instead of holding copies.
//!
//! This works on the wire form: what is not moved is copied byte for byte, fields that nobody here knows included, and
//! what is moved keeps its bytes. So a session computes the same, bit for bit. Only initializers move, those of subgraphs
//! too; tensors in attributes (`Constant`), sparse ones, strings and functions stay where they are.
//!
//! The bytes were scanned and checked before (`scan.rs`, `graph.rs`); nothing here runs the model, so it needs no child.

use std::io::{self, Write};

use prost::bytes::Buf as _;
use prost::encoding::{decode_varint, encode_varint};

use super::fields::{Field, next, put};

/// Smaller tensors stay: each one outside costs a mapping of its own in each session.
const TENSOR_BYTES_MIN: u64 = 64 << 10;
/// The most mappings of one session that an import makes; of more tensors the largest are moved.
const TENSORS_MAX: usize = 1024;
/// Models with less are left as they came: there is nothing to gain.
const MODEL_BYTES_MIN: u64 = 1 << 20;
/// A graph that would still be larger is left as it came: it is built in memory here.
const REST_BYTES_MAX: u64 = 256 << 20;
/// Each tensor begins on a page.
const ALIGNMENT: u64 = 4096;

/// Numbers of ONNX's element types.
const FLOAT: u64 = 1;
const INT64: u64 = 7;
const STRING: u64 = 8;
const DOUBLE: u64 = 11;

/// Messages on the way to an initializer.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Initializer,
}

impl Kind {
    const fn child(self, number: u32) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Graph, 1) => Self::Node,
            (Self::Graph, 5) => Self::Initializer,
            (Self::Node, 5) => Self::Attribute,
            _ => return None,
        })
    }
}

/// Which tensors of a model move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Tensors of at least so many bytes.
    least: u64,
}

impl Plan {
    /// What is to move of `model`; none if it is not worth it.
    pub(super) fn of(model: &[u8]) -> io::Result<Option<Self>> {
        let mut sizes = Vec::new();
        measure(model, Kind::Model, &mut sizes)?;
        sizes.sort_unstable_by(|left, right| right.cmp(left));
        let least = sizes.get(TENSORS_MAX).map_or(TENSOR_BYTES_MIN, |first_left| first_left + 1);
        let moved: u64 = sizes.iter().filter(|size| **size >= least).sum();
        let rest = (model.len() as u64).saturating_sub(moved);
        Ok((moved >= MODEL_BYTES_MIN && rest <= REST_BYTES_MAX).then_some(Self { least }))
    }

    /// Writes what moves to `weights`, which the graph will know as `location`; gives the new graph.
    pub(super) fn apply(self, model: &[u8], location: &str, weights: &mut impl Write) -> io::Result<Vec<u8>> {
        let mut mover = Mover { least: self.least, location, weights, written: 0 };
        mover.rewrite(model, Kind::Model)
    }
}

fn measure(mut bytes: &[u8], kind: Kind, sizes: &mut Vec<u64>) -> io::Result<()> {
    if let Kind::Initializer = kind {
        sizes.extend(Data::of(bytes)?.map(|data| data.bytes()).filter(|size| *size >= TENSOR_BYTES_MIN));
        return Ok(());
    }
    while let Some(field) = next(&mut bytes)? {
        if let (Some(child), Some(payload)) = (kind.child(field.number), field.payload) {
            measure(payload, child, sizes)?;
        }
    }
    Ok(())
}

/// The numbers of a tensor, in one of the forms that can be moved.
enum Data<'a> {
    /// As the file beside the graph has them: little-endian, one after the other.
    Plain(Vec<&'a [u8]>),
    Varints(Vec<&'a [u8]>),
}

impl<'a> Data<'a> {
    /// Of a tensor; none if it has to stay.
    fn of(mut tensor: &'a [u8]) -> io::Result<Option<Self>> {
        let (mut raw, mut listed, mut data_type, mut outside) = (None, Vec::new(), 0, false);
        while let Some(Field { number, payload, value, .. }) = next(&mut tensor)? {
            match (number, payload) {
                (2, None) => data_type = value,
                (9, Some(payload)) => raw = Some(payload),
                (4..=7 | 10 | 11, Some(payload)) if !payload.is_empty() => listed.push((number, payload)),
                // Numbers that are not packed, segments, and data that is outside already.
                (3..=7 | 10 | 11 | 13, _) => outside = true,
                (14, None) => outside |= value != 0,
                _ => {}
            }
        }
        if outside || data_type == STRING {
            return Ok(None);
        }
        let Some((number, _)) = listed.first().copied() else { return Ok(raw.map(|raw| Self::Plain(vec![raw]))) };
        if raw.is_some() || listed.iter().any(|(other, _)| *other != number) {
            return Ok(None);
        }
        let chunks = listed.into_iter().map(|(_, chunk)| chunk).collect();
        Ok(match (number, data_type) {
            (4, FLOAT) | (10, DOUBLE) => Some(Self::Plain(chunks)),
            (7, INT64) => Some(Self::Varints(chunks)),
            _ => None,
        })
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Plain(chunks) => chunks.iter().map(|chunk| chunk.len() as u64).sum(),
            // Each number ends with the one byte whose high bit is clear.
            Self::Varints(chunks) => {
                chunks.iter().copied().flatten().filter(|byte| **byte & 0x80 == 0).count() as u64 * 8
            }
        }
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Plain(chunks) => chunks.iter().try_for_each(|chunk| to.write_all(chunk)),
            Self::Varints(chunks) => chunks.iter().try_for_each(|chunk| {
                let mut chunk = *chunk;
                while chunk.has_remaining() {
                    to.write_all(&decode_varint(&mut chunk).map_err(io::Error::other)?.to_le_bytes())?;
                }
                Ok(())
            }),
        }
    }
}

struct Mover<'a, W> {
    least: u64,
    location: &'a str,
    weights: &'a mut W,
    written: u64,
}

impl<W: Write> Mover<'_, W> {
    fn rewrite(&mut self, mut bytes: &[u8], kind: Kind) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while let Some(field) = next(&mut bytes)? {
            match (kind.child(field.number), field.payload) {
                (Some(Kind::Initializer), Some(tensor)) => match Data::of(tensor)? {
                    Some(data) if data.bytes() >= self.least => {
                        let tensor = self.move_out(tensor, &data)?;
                        put(&mut out, field.number, &tensor);
                    }
                    _ => out.extend_from_slice(field.whole),
                },
                (Some(child), Some(payload)) => {
                    let inner = self.rewrite(payload, child)?;
                    put(&mut out, field.number, &inner);
                }
                _ => out.extend_from_slice(field.whole),
            }
        }
        Ok(out)
    }

    /// Writes the numbers, and gives the tensor without them.
    fn move_out(&mut self, mut tensor: &[u8], data: &Data<'_>) -> io::Result<Vec<u8>> {
        let offset = self.written.next_multiple_of(ALIGNMENT);
        let gap = usize::try_from(offset - self.written).map_err(io::Error::other)?;
        self.weights.write_all(&vec![0; gap])?;
        data.write(self.weights)?;
        let length = data.bytes();
        self.written = offset + length;
        let mut out = Vec::new();
        while let Some(field) = next(&mut tensor)? {
            // The numbers, and that they are here.
            if !matches!(field.number, 4..=7 | 9..=11 | 14) {
                out.extend_from_slice(field.whole);
            }
        }
        for (key, value) in
            [("location", self.location.to_owned()), ("offset", offset.to_string()), ("length", length.to_string())]
        {
            let mut entry = Vec::new();
            put(&mut entry, 1, key.as_bytes());
            put(&mut entry, 2, value.as_bytes());
            put(&mut out, 13, &entry);
        }
        encode_varint(14 << 3, &mut out);
        encode_varint(1, &mut out);
        Ok(out)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::package::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

    fn raw(name: &str, bytes: usize) -> TensorProto {
        let data: Vec<u8> = (0..bytes).map(|at| ((at * 7 + name.len()) % 251) as u8).collect();
        TensorProto {
            dims: vec![i64::try_from(bytes / 4).unwrap()],
            data_type: 1,
            name: name.into(),
            raw_data: Some(data.into()),
            ..TensorProto::default()
        }
    }

    fn model(graph: GraphProto) -> Vec<u8> {
        ModelProto { ir_version: Some(8), graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
    }

    fn moved(model: &[u8]) -> (ModelProto, Vec<u8>) {
        let mut weights = Vec::new();
        let graph = Plan::of(model).unwrap().unwrap().apply(model, "w.bin", &mut weights).unwrap();
        (ModelProto::decode(&graph[..]).unwrap(), weights)
    }

    fn entry<'a>(tensor: &'a TensorProto, key: &str) -> &'a str {
        &tensor.external_data.iter().find(|entry| entry.key == key).unwrap().value
    }

    #[test]
    fn large_initializers_move_and_all_else_stays() {
        let constant = NodeProto {
            op_type: "Constant".into(),
            attribute: vec![AttributeProto { t: Some(raw("constant", 1 << 20)), ..AttributeProto::default() }],
            ..NodeProto::default()
        };
        let branch = GraphProto { initializer: vec![raw("inner", 100_000)], ..GraphProto::default() };
        let branches = NodeProto {
            op_type: "If".into(),
            attribute: vec![AttributeProto { g: Some(branch), ..AttributeProto::default() }],
            ..NodeProto::default()
        };
        let sparse = SparseTensorProto { values: Some(raw("sparse", 1 << 20)), ..SparseTensorProto::default() };
        let graph = GraphProto {
            node: vec![constant, branches],
            initializer: vec![raw("first", 1 << 20), raw("small", 4096), raw("last", 70_000)],
            sparse_initializer: vec![sparse],
            ..GraphProto::default()
        };
        let before = ModelProto { ir_version: Some(8), graph: Some(graph), ..ModelProto::default() };
        let (mut after, weights) = moved(&before.encode_to_vec());
        let mut places = Vec::new();
        // Putting the numbers back gives what was there before.
        let mut back = |tensor: &mut TensorProto| {
            if tensor.data_location == 0 {
                return;
            }
            assert_eq!(entry(tensor, "location"), "w.bin");
            let number = |key: &str| entry(tensor, key).parse::<usize>().unwrap();
            let (offset, length) = (number("offset"), number("length"));
            assert_eq!(offset % 4096, 0);
            places.push((tensor.name.clone(), length));
            tensor.raw_data = Some(weights[offset..offset + length].to_vec().into());
            tensor.external_data.clear();
            tensor.data_location = 0;
        };
        let graph = after.graph.as_mut().unwrap();
        graph.initializer.iter_mut().for_each(&mut back);
        graph.node[1].attribute[0].g.as_mut().unwrap().initializer.iter_mut().for_each(&mut back);
        assert_eq!(after, before);
        let expected = [("first", 1 << 20), ("last", 70_000), ("inner", 100_000)];
        assert_eq!(places, expected.map(|(name, length)| (name.to_owned(), length)));
    }

    #[test]
    fn lists_of_numbers_become_their_bytes() {
        let count = 1 << 18;
        let mut varints = Vec::new();
        (0..count).for_each(|number| encode_varint((number as i64 - 5).cast_unsigned(), &mut varints));
        let floats: Vec<u8> = (0..count).flat_map(|number| (number as f32).to_le_bytes()).collect();
        let list = |data_type, floats: Vec<u8>, int64s: Vec<u8>, int32s: Vec<u8>| TensorProto {
            dims: vec![count as i64],
            data_type,
            float_data: (!floats.is_empty()).then(|| floats.into()).into_iter().collect(),
            int64_data: (!int64s.is_empty()).then(|| int64s.into()).into_iter().collect(),
            int32_data: (!int32s.is_empty()).then(|| int32s.into()).into_iter().collect(),
            ..TensorProto::default()
        };
        let graph = GraphProto {
            initializer: vec![
                list(1, floats.clone(), vec![], vec![]),
                list(7, vec![], varints, vec![]),
                list(3, vec![], vec![], vec![1; count]),
            ],
            ..GraphProto::default()
        };
        let (after, weights) = moved(&model(graph));
        let tensors = after.graph.unwrap().initializer;
        assert!(tensors[0].float_data.is_empty() && tensors[1].int64_data.is_empty());
        assert_eq!(tensors[2].int32_data[0].len(), count, "of a type that is packed differently");
        assert_eq!(weights[..floats.len()], floats);
        let numbers: Vec<u8> = (0..count).flat_map(|number| (number as i64 - 5).to_le_bytes()).collect();
        assert_eq!(weights[floats.len()..], numbers);
    }

    #[test]
    fn little_is_left_alone() {
        let with = |tensors: Vec<TensorProto>| model(GraphProto { initializer: tensors, ..GraphProto::default() });
        assert_eq!(Plan::of(&with(vec![raw("w", 1_000_000)])).unwrap(), None, "less than a mebibyte");
        assert_eq!(Plan::of(&with((0..1000).map(|_| raw("w", 4096)).collect())).unwrap(), None, "all small");
        let outside = TensorProto { data_location: 1, ..raw("w", 2 << 20) };
        assert_eq!(Plan::of(&with(vec![outside])).unwrap(), None);
        let many = with((0..TENSORS_MAX + 10).map(|at| raw("w", 65_536 + at * 4)).collect());
        let (after, _) = moved(&many);
        let outside = after.graph.unwrap().initializer.iter().filter(|tensor| tensor.data_location == 1).count();
        assert!((TENSORS_MAX - 10..=TENSORS_MAX).contains(&outside), "{outside}");
    }

    #[test]
    fn unknown_fields_survive_and_damage_is_an_error() {
        let mut bytes = model(GraphProto { initializer: vec![raw("w", 2 << 20)], ..GraphProto::default() });
        // `opset_import`, which `onnx.rs` does not name.
        bytes.extend([0x42, 0x02, 0x10, 0x0d]);
        let graph = Plan::of(&bytes).unwrap().unwrap().apply(&bytes, "w", &mut io::sink()).unwrap();
        assert!(graph.ends_with(&[0x42, 0x02, 0x10, 0x0d]) && graph.len() < 200, "{graph:?}");
        assert!(Plan::of(&bytes[..bytes.len() - 3]).is_err());
    }
}
