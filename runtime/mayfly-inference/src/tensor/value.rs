//! A tensor as a value of ONNX Runtime, and back. No copy in either direction.

use std::sync::Arc;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::SessionInputValue;
use ort::value::{
    DynTensor, DynTensorValueType, DynValue, PrimitiveTensorElementType, Shape, TensorElementType, TensorRefMut,
};

use super::data::{Data, RuntimeData};
use super::{ElementType, Tensor};

/// Why an output of a run cannot be a tensor of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("is not a tensor")]
    NotTensor,
    #[error("has elements of type {0}, which is not supported")]
    Type(TensorElementType),
    #[error("has a size that does not fit")]
    Size,
}

impl ElementType {
    /// The library's name of it.
    pub(crate) const fn from_runtime(element_type: TensorElementType) -> Option<Self> {
        Some(match element_type {
            TensorElementType::Float16 => Self::F16,
            TensorElementType::Float32 => Self::F32,
            TensorElementType::Float64 => Self::F64,
            TensorElementType::Bfloat16 => Self::Bf16,
            TensorElementType::Uint8 => Self::U8,
            TensorElementType::Int32 => Self::I32,
            TensorElementType::Int64 => Self::I64,
            TensorElementType::Bool => Self::Bool,
            _ => return None,
        })
    }
}

impl Tensor {
    /// This tensor as a value that borrows its memory for one run. The library must be open.
    pub(crate) fn as_input(&self) -> ort::Result<SessionInputValue<'_>> {
        if let Data::Runtime(data) = &*self.data
            && ElementType::from_runtime(*data.value().data_type()) == Some(self.element_type)
        {
            return Ok(data.value().into());
        }
        match self.element_type {
            ElementType::F16 => self.borrowed::<half::f16>(),
            ElementType::F32 => self.borrowed::<f32>(),
            ElementType::F64 => self.borrowed::<f64>(),
            ElementType::Bf16 => self.borrowed::<half::bf16>(),
            ElementType::U8 => self.borrowed::<u8>(),
            ElementType::I32 => self.borrowed::<i32>(),
            ElementType::I64 => self.borrowed::<i64>(),
            ElementType::Bool => self.borrowed::<bool>(),
        }
    }

    #[expect(unsafe_code, reason = "the safe constructors want typed slices, which this memory is not")]
    fn borrowed<T: PrimitiveTensorElementType + std::fmt::Debug>(&self) -> ort::Result<SessionInputValue<'_>> {
        let info = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
        let shape = Shape::new(self.dimensions.iter().map(|&size| i64::from(size)));
        let data = self.as_slice().as_ptr().cast_mut().cast();
        // SAFETY: the pointer is host memory, aligned for every element type, and holds as many elements as the shape
        // says (checked when the tensor was made; booleans were checked to be 0 or 1). It lives as long as the borrow
        // of `self`. It is given as an input only, which ONNX Runtime does not write to.
        let value = unsafe { TensorRefMut::<T>::from_raw(info, data, shape)? };
        Ok(value.into())
    }

    /// An output of a run whose inputs were `inputs`.
    pub(crate) fn from_output(value: DynValue, inputs: &[(String, Self)]) -> Result<Self, OutputError> {
        Self::from_output_of(value, inputs.iter().map(|(_, input)| input))
    }

    /// As [`Self::from_output`].
    pub(crate) fn from_output_of<'a>(
        value: DynValue,
        inputs: impl IntoIterator<Item = &'a Self>,
    ) -> Result<Self, OutputError> {
        let value: DynTensor = value.downcast::<DynTensorValueType>().map_err(|_| OutputError::NotTensor)?;
        let element_type =
            ElementType::from_runtime(*value.data_type()).ok_or_else(|| OutputError::Type(*value.data_type()))?;
        if !value.memory_info().is_cpu_accessible() {
            return Err(OutputError::NotTensor);
        }
        let dimensions: Arc<[u32]> = value
            .shape()
            .iter()
            .map(|&size| u32::try_from(size))
            .collect::<Result<_, _>>()
            .map_err(|_| OutputError::Size)?;
        let len = element_type.bytes_of(&dimensions).ok().and_then(|len| usize::try_from(len).ok());
        let len = len.ok_or(OutputError::Size)?;
        let data = RuntimeData::new(value, len, inputs.into_iter().map(|input| &input.data));
        Ok(Self { data: Arc::new(Data::Runtime(data)), element_type, dimensions, opaque: None })
    }
}
