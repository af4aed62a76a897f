//! Constant tensors of a model: their dimensions, their type and their data must agree, wherever the data is.

use prost::bytes::Bytes;

use super::external::External;
use super::onnx::{SparseTensorProto, TensorProto};
use super::operators::shown;

const EXTERNAL: i32 = 1;
const STRING: i32 = 8;
const INT64: i32 = 7;
const RANK_MAX: usize = 16;
/// No machine of ours holds a larger one; also keeps every product far from the end of `u64`.
const BYTES_MAX: u64 = 1 << 44;

/// What a tensor takes, and where its data is if not inside the `.onnx` file.
#[derive(Debug, PartialEq)]
pub(super) struct Constant {
    pub(super) bytes: u64,
    pub(super) external: Option<External>,
}

/// Checks one dense tensor.
///
/// # Errors
/// A text that names the tensor and the rule.
pub(super) fn check(tensor: &TensorProto) -> Result<Constant, String> {
    let name = shown(&tensor.name);
    let fault = |what: &str| format!("the tensor `{name}` {what}");
    if tensor.segment.is_some() {
        return Err(fault("is stored in segments, which is not accepted"));
    }
    let count = elements(&tensor.dims).map_err(|what| fault(&what))?;
    if tensor.data_type == STRING {
        if tensor.data_location == EXTERNAL || tensor.raw_data.is_some() || tensor.string_data.len() as u64 != count {
            return Err(fault(&format!("needs {count} strings and does not have them in place")));
        }
        let bytes = tensor.string_data.iter().map(|text| text.len() as u64).sum();
        return Ok(Constant { bytes, external: None });
    }
    let bits =
        bits(tensor.data_type).ok_or_else(|| fault(&format!("has the unknown element type {}", tensor.data_type)))?;
    let bytes = count
        .checked_mul(bits)
        .map(|bits| bits.div_ceil(8))
        .filter(|bytes| *bytes <= BYTES_MAX)
        .ok_or_else(|| fault("has dimensions that are too large"))?;
    match tensor.data_location {
        0 if !tensor.external_data.is_empty() => Err(fault("names external data and says that it has none")),
        0 => {
            inline(tensor, count, bits, bytes).map_err(|what| fault(&what))?;
            Ok(Constant { bytes, external: None })
        }
        EXTERNAL => {
            if tensor.raw_data.as_ref().is_some_and(|raw| !raw.is_empty()) {
                return Err(fault("has both external data and data in place"));
            }
            let external = External::of(tensor, bytes).map_err(|what| fault(&what))?;
            Ok(Constant { bytes, external: Some(external) })
        }
        other => Err(fault(&format!("has the unknown data location {other}"))),
    }
}

/// Checks one sparse tensor. Its dense form counts, since the runtime makes that of it.
///
/// # Errors
/// As [`check`].
pub(super) fn check_sparse(sparse: &SparseTensorProto) -> Result<Constant, String> {
    let (Some(values), Some(indices)) = (&sparse.values, &sparse.indices) else {
        return Err("a sparse tensor has no values or no indices".to_owned());
    };
    let name = shown(&values.name);
    let fault = |what: &str| format!("the sparse tensor `{name}` {what}");
    if values.data_type == STRING || indices.data_type != INT64 {
        return Err(fault("must have numbers as values and int64 indices"));
    }
    for part in [values, indices] {
        if check(part)?.external.is_some() {
            return Err(fault("has external data, which is not accepted for sparse tensors"));
        }
    }
    let dense = elements(&sparse.dims).map_err(|what| fault(&what))?;
    let count = elements(&values.dims).map_err(|what| fault(&what))?;
    let rank = sparse.dims.len();
    let linear = indices.dims.len() == 1;
    let fits = values.dims.len() == 1
        && indices.dims.first() == values.dims.first()
        && (linear || (indices.dims.len() == 2 && usize::try_from(indices.dims[1]) == Ok(rank)));
    if !fits || count > dense {
        return Err(fault("has indices that do not fit its values and dimensions"));
    }
    let in_range = |(at, index): (usize, i64)| {
        let size = if linear { dense } else { sparse.dims[at % rank].try_into().unwrap_or(0) };
        u64::try_from(index).is_ok_and(|index| index < size)
    };
    if !int64s(indices).enumerate().all(in_range) {
        return Err(fault("has an index outside its dimensions"));
    }
    let bits = bits(values.data_type).ok_or_else(|| fault("has an unknown element type"))?;
    let bytes = dense.checked_mul(bits.div_ceil(8)).filter(|bytes| *bytes <= BYTES_MAX);
    bytes.map(|bytes| Constant { bytes, external: None }).ok_or_else(|| fault("has dimensions that are too large"))
}

fn elements(dims: &[i64]) -> Result<u64, String> {
    if dims.len() > RANK_MAX {
        return Err(format!("has {} dimensions; at most {RANK_MAX} are supported", dims.len()));
    }
    // Zeros last: the other dimensions must not overflow behind a zero.
    let mut product = 1_u64;
    for &dim in dims {
        let size = u64::try_from(dim).map_err(|_| format!("has the negative dimension {dim}"))?;
        product =
            product.checked_mul(size.max(1)).filter(|p| *p <= BYTES_MAX).ok_or("has dimensions that are too large")?;
    }
    Ok(if dims.contains(&0) { 0 } else { product })
}

/// Bits of one element, by ONNX's number of the type. Strings have none.
const fn bits(data_type: i32) -> Option<u64> {
    Some(match data_type {
        25 | 26 => 2,
        21..=23 => 4,
        2 | 3 | 9 | 17..=20 | 24 => 8,
        4 | 5 | 10 | 16 => 16,
        1 | 6 | 12 => 32,
        7 | 11 | 13 | 14 => 64,
        15 => 128,
        _ => return None,
    })
}

fn inline(tensor: &TensorProto, count: u64, bits: u64, bytes: u64) -> Result<(), String> {
    if let Some(raw) = &tensor.raw_data {
        let given = raw.len() as u64;
        return if given == bytes { Ok(()) } else { Err(format!("has {given} bytes of data and needs {bytes}")) };
    }
    let (given, needed) = match tensor.data_type {
        1 => (fixed(&tensor.float_data, 4)?, count),
        14 => (fixed(&tensor.float_data, 4)?, count * 2),
        11 => (fixed(&tensor.double_data, 8)?, count),
        15 => (fixed(&tensor.double_data, 8)?, count * 2),
        INT64 => (varints(&tensor.int64_data), count),
        12 | 13 => (varints(&tensor.uint64_data), count),
        // Types below a byte are packed, eight bits to each number.
        _ if bits < 8 => (varints(&tensor.int32_data), bytes),
        _ => (varints(&tensor.int32_data), count),
    };
    if given == needed { Ok(()) } else { Err(format!("has {given} numbers of data and needs {needed}")) }
}

fn fixed(chunks: &[Bytes], size: u64) -> Result<u64, String> {
    let bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    if bytes.is_multiple_of(size) { Ok(bytes / size) } else { Err("has data that ends inside a number".to_owned()) }
}

/// Each number of variable length ends with the one byte whose high bit is clear.
fn varints(chunks: &[Bytes]) -> u64 {
    chunks.iter().flatten().filter(|byte| *byte & 0x80 == 0).count() as u64
}

/// The values of an int64 tensor, or of an int32 one that has no raw bytes.
pub(super) fn int64s(tensor: &TensorProto) -> impl Iterator<Item = i64> + '_ {
    let raw = tensor.raw_data.as_deref().unwrap_or_default();
    let (words, _) = raw.as_chunks::<8>();
    let packed = tensor.int64_data.iter().chain(&tensor.int32_data).flat_map(|chunk| {
        let mut chunk = chunk.clone();
        std::iter::from_fn(move || prost::encoding::decode_varint(&mut chunk).ok().map(u64::cast_signed))
    });
    words.iter().map(|word| i64::from_le_bytes(*word)).chain(packed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn raw(data_type: i32, dims: &[i64], bytes: usize) -> TensorProto {
        TensorProto {
            dims: dims.into(),
            data_type,
            name: "w".into(),
            raw_data: Some(vec![0; bytes].into()),
            ..TensorProto::default()
        }
    }

    #[test]
    fn data_is_as_long_as_the_dimensions_say() {
        assert_eq!(check(&raw(1, &[2, 3], 24)).unwrap().bytes, 24);
        assert_eq!(check(&raw(22, &[3], 2)).unwrap().bytes, 2);
        assert_eq!(check(&raw(1, &[], 4)).unwrap().bytes, 4);
        for (dims, bytes) in [
            (&[2, 3][..], 23),
            (&[2, 3], 0),
            (&[-1], 4),
            (&[i64::MAX, i64::MAX], 4),
            (&[1 << 40, 1 << 40, 0], 0),
            (&[1; 17], 4),
        ] {
            assert!(check(&raw(1, dims, bytes)).unwrap_err().contains("`w`"), "{dims:?}");
        }
        assert!(check(&raw(99, &[1], 4)).unwrap_err().contains("element type"));
    }

    #[test]
    fn packed_numbers_are_counted() {
        let tensor = |bytes: &[u8]| TensorProto {
            dims: vec![2],
            data_type: INT64,
            int64_data: vec![Bytes::copy_from_slice(bytes)],
            ..TensorProto::default()
        };
        assert!(check(&tensor(&[0x96, 0x01, 0x05])).is_ok());
        assert!(check(&tensor(&[0x05])).is_err());
    }

    #[test]
    fn a_sparse_tensor_counts_as_dense_and_its_indices_are_checked() {
        let sparse = |dims: &[i64], index: i64| SparseTensorProto {
            values: Some(raw(1, &[1], 4)),
            indices: Some(TensorProto {
                dims: vec![1],
                data_type: INT64,
                raw_data: Some(index.to_le_bytes().to_vec().into()),
                ..TensorProto::default()
            }),
            dims: dims.into(),
        };
        assert_eq!(check_sparse(&sparse(&[4, 4], 15)).unwrap().bytes, 64);
        assert!(check_sparse(&sparse(&[4, 4], 16)).unwrap_err().contains("outside"));
        assert!(check_sparse(&sparse(&[4, 4], -1)).unwrap_err().contains("outside"));
        assert!(check_sparse(&sparse(&[1 << 42, 1 << 42], 0)).unwrap_err().contains("too large"));
        assert!(check_sparse(&SparseTensorProto::default()).is_err());
    }
}
