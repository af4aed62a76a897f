//! Tensors as the host holds them: typed, shaped, shared, never copied until somebody asks for the bytes.
//!
//! The memory itself is in `tensor/data.rs`; how a tensor becomes a value of ONNX Runtime and back in `tensor/value.rs`.

mod data;
pub(crate) mod shelf;
mod value;

pub(crate) use value::OutputError;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mayfly_types::Digest;

use crate::Seen;
use data::Data;

/// The seven element types of `wasi:nn`, and booleans, which travel as `u8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ElementType {
    F16,
    F32,
    F64,
    Bf16,
    U8,
    I32,
    I64,
    Bool,
}

/// A tensor could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The product of the dimensions does not fit.
    #[error("the dimensions overflow")]
    Overflow,
    /// The data is not as long as the dimensions say.
    #[error("the data has {given} bytes; the dimensions and type need {needed}")]
    Length {
        /// Bytes given.
        given: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// More dimensions than any model has.
    #[error("{0} dimensions; at most 16 are supported")]
    Rank(usize),
    /// The host has no memory for it.
    #[error("the host has no memory for a tensor of {0} bytes")]
    Memory(u64),
    /// A byte that is neither 0 nor 1 where a boolean is wanted.
    #[error("byte {position} is {value}; a boolean is 0 or 1")]
    NotBoolean {
        /// Its place in the data.
        position: usize,
        /// What it is.
        value: u8,
    },
    /// A row has no such position to keep.
    #[error("row {row} has no position {position} to keep")]
    NoPosition {
        /// The row.
        row: usize,
        /// The position asked for.
        position: u64,
    },
}

impl ElementType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::Bool => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// The bytes that `dimensions` need.
    ///
    /// # Errors
    /// [`TensorError::Overflow`] or [`TensorError::Rank`].
    pub fn bytes_of(self, dimensions: &[u32]) -> Result<u64, TensorError> {
        if dimensions.len() > 16 {
            return Err(TensorError::Rank(dimensions.len()));
        }
        // A zero anywhere makes the product zero, but the rest must not overflow either.
        dimensions
            .iter()
            .try_fold(self.size() as u64, |bytes, &size| bytes.checked_mul(u64::from(size)))
            .ok_or(TensorError::Overflow)
    }
}

/// A tensor in host memory. Cloning shares it.
#[derive(Clone)]
pub struct Tensor {
    data: Arc<Data>,
    element_type: ElementType,
    dimensions: Arc<[u32]>,
    /// The package whose attention state this is, if it is one, and the run it came from.
    opaque: Option<(Digest, Seen)>,
}

impl Tensor {
    /// Makes a tensor and lets `fill` write its bytes (row-major, little endian) in place: the one copy in.
    ///
    /// `len` is the length of the data at hand, checked against `dimensions` before anything is allocated.
    /// The bytes given to `fill` are zero.
    ///
    /// # Errors
    /// [`TensorError`], or what `fill` returns.
    pub fn fill_with<E: From<TensorError>>(
        element_type: ElementType,
        dimensions: &[u32],
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        check_length(element_type, dimensions, len)?;
        let data = Data::filled(len, fill)?;
        Ok(Self { data: Arc::new(data), element_type, dimensions: dimensions.into(), opaque: None })
    }

    /// As [`Tensor::fill_with`], but what is given to `write` may hold anything, another tenant's data too: it must write
    /// every byte, or fail.
    ///
    /// # Errors
    /// [`TensorError`], or what `write` returns.
    pub fn write_with<E: From<TensorError>>(
        element_type: ElementType,
        dimensions: &[u32],
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        check_length(element_type, dimensions, len)?;
        let data = Data::written(len, write)?;
        Ok(Self { data: Arc::new(data), element_type, dimensions: dimensions.into(), opaque: None })
    }

    /// A tensor with a copy of `data`.
    ///
    /// # Errors
    /// [`TensorError`].
    pub fn from_bytes(element_type: ElementType, dimensions: &[u32], data: &[u8]) -> Result<Self, TensorError> {
        Self::write_with(element_type, dimensions, data.len(), |bytes| {
            bytes.copy_from_slice(data);
            Ok(())
        })
    }

    /// The element type. A boolean output reads as [`ElementType::Bool`]; at the guest's side it is `u8`.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// One size per dimension.
    pub fn dimensions(&self) -> &[u32] {
        &self.dimensions
    }

    /// Bytes of the data.
    pub fn byte_len(&self) -> u64 {
        self.data.as_slice().len() as u64
    }

    /// The data, shared, not copied.
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(SharedBytes(Arc::clone(&self.data)))
    }

    /// Whether this is attention state: it can be handed back to the model it came from and not be read.
    pub fn is_opaque(&self) -> bool {
        self.opaque.is_some()
    }

    /// The package whose attention state this is.
    pub(crate) fn opaque_of(&self) -> Option<Digest> {
        self.opaque.as_ref().map(|(package, _)| *package)
    }

    /// Whether this is attention state of a run whose outputs somebody has seen.
    pub(crate) fn is_seen(&self) -> bool {
        self.opaque.as_ref().is_some_and(|(_, run)| run.is_marked())
    }

    /// The same tensor, marked as attention state that a run of `package` left.
    pub(crate) fn into_opaque(self, package: Digest, run: Seen) -> Self {
        Self { opaque: Some((package, run)), ..self }
    }

    /// The data, for checks on this side.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// The same memory as a boolean tensor, its bytes checked; a boolean one as it is.
    ///
    /// # Errors
    /// [`TensorError::NotBoolean`], or [`TensorError::Length`] for elements of more than one byte.
    pub(crate) fn as_boolean(&self) -> Result<Self, TensorError> {
        if self.element_type == ElementType::Bool {
            return Ok(self.clone());
        }
        if self.element_type != ElementType::U8 {
            let needed = ElementType::Bool.bytes_of(&self.dimensions)?;
            return Err(TensorError::Length { given: self.byte_len(), needed });
        }
        if let Some((position, &value)) = self.as_slice().iter().enumerate().find(|&(_, &byte)| byte > 1) {
            return Err(TensorError::NotBoolean { position, value });
        }
        Ok(Self { element_type: ElementType::Bool, ..self.clone() })
    }

    /// A copy of one position of each row: `[rows, positions, ..]` becomes `[rows, 1, ..]`.
    ///
    /// `keep[row]` is the position of that row to keep, counted from 0.
    ///
    /// # Errors
    /// [`TensorError::NoPosition`] if a row has no such position, or the tensor no rows and positions.
    pub(crate) fn last_position(&self, keep: &[u32]) -> Result<Self, TensorError> {
        let [rows, positions, rest @ ..] = &*self.dimensions else {
            return Err(TensorError::NoPosition { row: 0, position: keep.first().map_or(0, |&at| at.into()) });
        };
        if *rows as usize != keep.len() {
            return Err(TensorError::NoPosition { row: keep.len().min(*rows as usize), position: 0 });
        }
        if let Some((row, &position)) = keep.iter().enumerate().find(|&(_, at)| at >= positions) {
            return Err(TensorError::NoPosition { row, position: position.into() });
        }
        let dimensions: Vec<u32> = [*rows, 1].iter().chain(rest).copied().collect();
        let step = usize::try_from(self.element_type.bytes_of(rest)?).map_err(|_| TensorError::Overflow)?;
        let len = step.checked_mul(keep.len()).ok_or(TensorError::Overflow)?;
        let source = self.as_slice();
        let tensor = Self::fill_with(self.element_type, &dimensions, len, |bytes| {
            if step > 0 {
                for (row, (target, &at)) in bytes.chunks_exact_mut(step).zip(keep).enumerate() {
                    let start = (row * *positions as usize + at as usize) * step;
                    target.copy_from_slice(&source[start..start + step]);
                }
            }
            Ok::<(), TensorError>(())
        })?;
        Ok(Self { opaque: self.opaque.clone(), ..tensor })
    }
}

/// Whether data of `len` bytes is what the dimensions say.
fn check_length(element_type: ElementType, dimensions: &[u32], len: usize) -> Result<(), TensorError> {
    let needed = element_type.bytes_of(dimensions)?;
    let given = len as u64;
    if given == needed { Ok(()) } else { Err(TensorError::Length { given, needed }) }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the data: it belongs to a tenant and this text goes into logs.
        f.debug_struct("Tensor")
            .field("element_type", &self.element_type)
            .field("dimensions", &self.dimensions)
            .field("opaque", &self.is_opaque())
            .finish_non_exhaustive()
    }
}

/// What a [`Bytes`] holds on to.
struct SharedBytes(Arc<Data>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn f32s(dimensions: &[u32], values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::from_bytes(ElementType::F32, dimensions, &bytes).unwrap()
    }

    #[test]
    fn lengths_are_checked_before_anything_is_allocated() {
        let huge = [u32::MAX, u32::MAX, u32::MAX];
        let check = |dimensions: &[u32], len, error| {
            let result = Tensor::fill_with(ElementType::F32, dimensions, len, |_| Ok::<(), TensorError>(()));
            assert_eq!(result.err(), error, "{dimensions:?}");
        };
        check(&[2, 3], 24, None);
        check(&[], 4, None);
        check(&[2, 3], 23, Some(TensorError::Length { given: 23, needed: 24 }));
        check(&huge, 16, Some(TensorError::Overflow));
        check(&[u32::MAX, 1 << 20], 16, Some(TensorError::Length { given: 16, needed: u64::from(u32::MAX) << 22 }));
        check(&[1; 17], 4, Some(TensorError::Rank(17)));
    }

    #[test]
    fn memory_is_aligned_zeroed_and_shared() {
        for len in [0_u32, 1, 63, 64, 65, 4096, 1 << 20] {
            let mut seen = None;
            let tensor = Tensor::fill_with(ElementType::U8, &[len], len as usize, |bytes| {
                assert!(bytes.iter().all(|&byte| byte == 0));
                bytes.fill(7);
                seen = Some(bytes.as_ptr() as usize);
                Ok::<(), TensorError>(())
            })
            .unwrap();
            let at = seen.unwrap();
            assert_eq!(at % 64, 0, "{len} bytes at {at:#x}");
            let bytes = tensor.clone().bytes();
            drop(tensor);
            assert_eq!(bytes.len(), len as usize);
            assert!(bytes.iter().all(|&byte| byte == 7));
            assert!(len == 0 || bytes.as_ptr() as usize == at, "no copy");
        }
    }

    #[test]
    fn a_failed_fill_gives_its_error() {
        #[derive(Debug, PartialEq)]
        struct Gone;
        impl From<TensorError> for Gone {
            fn from(_: TensorError) -> Self {
                Self
            }
        }
        assert_eq!(Tensor::fill_with(ElementType::U8, &[1], 1, |_| Err(Gone)).err(), Some(Gone));
    }

    #[test]
    fn booleans_are_zero_or_one() {
        let bytes = |data: &[u8]| Tensor::from_bytes(ElementType::U8, &[3], data).unwrap();
        let boolean = bytes(&[0, 1, 1]).as_boolean().unwrap();
        assert_eq!(boolean.element_type(), ElementType::Bool);
        assert_eq!(boolean.as_slice(), [0, 1, 1]);
        assert_eq!(bytes(&[0, 1, 2]).as_boolean().err(), Some(TensorError::NotBoolean { position: 2, value: 2 }));
        assert!(f32s(&[1], &[0.0]).as_boolean().is_err());
    }

    #[test]
    fn a_cut_keeps_one_position_of_each_row() {
        // Two rows of three positions of two values.
        let tensor = f32s(&[2, 3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let cut = tensor.last_position(&[1, 2]).unwrap();
        assert_eq!(cut.dimensions(), [2, 1, 2]);
        assert_eq!(cut.as_slice(), f32s(&[4], &[2.0, 3.0, 10.0, 11.0]).as_slice());

        assert_eq!(tensor.last_position(&[1, 3]).err(), Some(TensorError::NoPosition { row: 1, position: 3 }));
        assert!(tensor.last_position(&[1]).is_err(), "as many positions as rows");
        assert!(f32s(&[2], &[0.0, 1.0]).last_position(&[0, 0]).is_err(), "rows only");
        let empty = f32s(&[1, 2, 0], &[]).last_position(&[1]).unwrap();
        assert_eq!((empty.dimensions(), empty.byte_len()), (&[1, 1, 0][..], 0));
    }

    #[test]
    fn debug_text_shows_no_data() {
        let tensor = Tensor::from_bytes(ElementType::U8, &[4], b"\xc4\xc5\xc6\xc7").unwrap();
        let text = format!("{tensor:?}");
        assert!(text.contains("U8") && !text.contains("19") && !text.contains("c4"), "{text}");
    }
}
