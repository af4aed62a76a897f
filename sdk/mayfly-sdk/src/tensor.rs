//! Tensors: made from slices, read as slices, kept by the host in between.

use std::borrow::Cow;
use std::fmt;

use half::{bf16, f16};

use crate::Error;
use crate::bindings::wasi::nn::tensor as wit;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// 16-bit IEEE float.
    F16,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 16-bit brain float.
    Bf16,
    /// Unsigned byte; also stands for booleans, as 0 and 1.
    U8,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
}

impl ElementType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    pub(crate) fn from_wit(ty: wit::TensorType) -> Self {
        match ty {
            wit::TensorType::Fp16 => Self::F16,
            wit::TensorType::Fp32 => Self::F32,
            wit::TensorType::Fp64 => Self::F64,
            wit::TensorType::Bf16 => Self::Bf16,
            wit::TensorType::U8 => Self::U8,
            wit::TensorType::I32 => Self::I32,
            wit::TensorType::I64 => Self::I64,
        }
    }

    fn to_wit(self) -> wit::TensorType {
        match self {
            Self::F16 => wit::TensorType::Fp16,
            Self::F32 => wit::TensorType::Fp32,
            Self::F64 => wit::TensorType::Fp64,
            Self::Bf16 => wit::TensorType::Bf16,
            Self::U8 => wit::TensorType::U8,
            Self::I32 => wit::TensorType::I32,
            Self::I64 => wit::TensorType::I64,
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that tensors can be made of and read as: `f32`, `f64`, `i32`, `i64`, `u8`, [`half::f16`], [`half::bf16`].
pub trait Element: bytemuck::Pod + sealed::Sealed {
    /// The element type it stands for.
    const TYPE: ElementType;
}

macro_rules! elements {
    ($($rust:ty => $name:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const TYPE: ElementType = ElementType::$name;
        }
    )*};
}
elements!(f32 => F32, f64 => F64, i32 => I32, i64 => I64, u8 => U8, f16 => F16, bf16 => Bf16);

/// An input or output of a model. Its data lives at the host; it is copied only when made and when [`Tensor::data`]
/// asks, so that an output handed back as an input costs nothing.
pub struct Tensor(pub(crate) wit::Tensor);

impl Tensor {
    /// A tensor of `values` in row-major order; `dimensions` must multiply to their count.
    ///
    /// # Errors
    /// A 500: the dimensions and the values of a tensor are the handler's own work.
    pub fn from_slice<T: Element>(values: &[T], dimensions: &[usize]) -> Result<Self, Error> {
        let sizes = sizes(dimensions, values.len())?;
        // WebAssembly is little endian, as the tensors are.
        Ok(Self(wit::Tensor::new(&sizes, T::TYPE.to_wit(), bytemuck::cast_slice(values))))
    }

    /// A tensor of raw little-endian bytes.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn from_bytes(bytes: &[u8], element_type: ElementType, dimensions: &[usize]) -> Result<Self, Error> {
        if !bytes.len().is_multiple_of(element_type.size()) {
            return Err(Error::internal(format!("{} bytes are not whole elements of {element_type:?}", bytes.len())));
        }
        let sizes = sizes(dimensions, bytes.len() / element_type.size())?;
        Ok(Self(wit::Tensor::new(&sizes, element_type.to_wit(), bytes)))
    }

    /// One size per dimension.
    pub fn dimensions(&self) -> Vec<usize> {
        self.0.dimensions().into_iter().map(|size| size as usize).collect()
    }

    /// The type of its elements.
    pub fn element_type(&self) -> ElementType {
        ElementType::from_wit(self.0.ty())
    }

    /// Copies the data out of the host.
    pub fn data(&self) -> TensorData {
        TensorData { bytes: self.0.data(), element_type: self.element_type() }
    }

    /// The values, copied out of the host.
    ///
    /// # Errors
    /// A 500 if its elements are of another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, Error> {
        Ok(self.data().as_slice::<T>()?.into_owned())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor").field("type", &self.element_type()).field("dimensions", &self.dimensions()).finish()
    }
}

/// A tensor's data, in the handler's memory.
#[derive(Debug, Clone)]
pub struct TensorData {
    bytes: Vec<u8>,
    element_type: ElementType,
}

impl TensorData {
    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The values; borrowed, unless the bytes do not lie as the type needs them.
    ///
    /// # Errors
    /// A 500 if the elements are of another type.
    pub fn as_slice<T: Element>(&self) -> Result<Cow<'_, [T]>, Error> {
        if self.element_type != T::TYPE {
            let (have, want) = (self.element_type, T::TYPE);
            return Err(Error::internal(format!("the tensor has elements of {have:?}, not {want:?}")));
        }
        match bytemuck::try_cast_slice(&self.bytes) {
            Ok(values) => Ok(Cow::Borrowed(values)),
            Err(bytemuck::PodCastError::TargetAlignmentGreaterAndInputNotAligned) => {
                Ok(Cow::Owned(bytemuck::pod_collect_to_vec(&self.bytes)))
            }
            Err(_) => Err(Error::internal("the tensor's data has half an element")),
        }
    }

    /// The values as `f32`: borrowed if they are, converted from any other type of float.
    ///
    /// # Errors
    /// A 500 if the elements are integers.
    pub fn as_f32(&self) -> Result<Cow<'_, [f32]>, Error> {
        Ok(match self.element_type {
            ElementType::F16 => Cow::Owned(self.as_slice::<f16>()?.iter().map(|x| x.to_f32()).collect()),
            ElementType::Bf16 => Cow::Owned(self.as_slice::<bf16>()?.iter().map(|x| x.to_f32()).collect()),
            #[expect(clippy::cast_possible_truncation, reason = "narrowing a float rounds it")]
            ElementType::F64 => Cow::Owned(self.as_slice::<f64>()?.iter().map(|&x| x as f32).collect()),
            _ => self.as_slice::<f32>()?,
        })
    }
}

/// `dimensions` as the host wants them, if they multiply to `count`.
fn sizes(dimensions: &[usize], count: usize) -> Result<Vec<u32>, Error> {
    let product = dimensions.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    if product != Some(count) {
        return Err(Error::internal(format!("{count} values do not fill a tensor of dimensions {dimensions:?}")));
    }
    dimensions
        .iter()
        .map(|&size| u32::try_from(size).map_err(|_| Error::internal(format!("a dimension of {size} is too large"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_must_multiply_to_the_count() {
        assert_eq!(sizes(&[2, 3], 6), Ok(vec![2, 3]));
        assert_eq!(sizes(&[], 1), Ok(vec![]));
        assert_eq!(sizes(&[0, 7], 0), Ok(vec![0, 7]));
        assert!(sizes(&[2, 3], 5).is_err());
        assert!(sizes(&[usize::MAX, 2], 6).is_err());
    }

    #[test]
    fn data_reads_as_its_own_type_only() {
        let mut bytes = vec![];
        bytes.extend(1.5_f32.to_le_bytes());
        bytes.extend((-2.0_f32).to_le_bytes());
        let data = TensorData { bytes, element_type: ElementType::F32 };
        assert_eq!(*data.as_slice::<f32>().expect("it is f32"), [1.5, -2.0]);
        assert!(data.as_slice::<i32>().is_err());
        assert!(matches!(data.as_f32(), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn floats_of_other_widths_convert() {
        let data = TensorData { bytes: f16::from_f32(0.5).to_le_bytes().to_vec(), element_type: ElementType::F16 };
        assert_eq!(*data.as_f32().expect("a float"), [0.5]);
        let data = TensorData { bytes: 3_i32.to_le_bytes().to_vec(), element_type: ElementType::I32 };
        assert!(data.as_f32().is_err());
    }

    #[test]
    fn half_an_element_is_an_error() {
        let data = TensorData { bytes: vec![0; 5], element_type: ElementType::F32 };
        assert!(data.as_slice::<f32>().is_err());
    }
}
