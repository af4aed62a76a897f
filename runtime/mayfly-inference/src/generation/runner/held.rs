//! Attention state between two runs of a graph that gives it anew each time: on the host a tensor, on a device the value
//! that the run left there.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ort::memory::MemoryInfo;
use ort::session::{IoBinding, Session, SessionInputValue};
use ort::value::{DynTensor, DynTensorValueType, DynValue};

use super::binding::{bind_value, host_memory, name};
use crate::generation::device::{Copier, Place, memory_of};
use crate::library::Library;
use crate::tensor::OutputError;
use crate::{Device, ElementType, Tensor, TensorError};

/// Keys or values of one layer and one slot, `[1, heads, positions, head_size]`. Never written once made.
#[derive(Clone)]
pub(super) enum Held {
    Host(Tensor),
    Device(Arc<DynTensor>),
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(tensor) => f.debug_tuple("Host").field(&tensor.dimensions()).finish(),
            Self::Device(value) => f.debug_tuple("Device").field(&value.shape()).finish(),
        }
    }
}

impl Held {
    /// An output in host memory of a run whose state was `state`.
    pub(super) fn of_output(value: DynValue, state: &[(String, Self)]) -> Result<Self, OutputError> {
        let inputs = state.iter().filter_map(|(_, held)| match held {
            Self::Host(tensor) => Some(tensor),
            Self::Device(_) => None,
        });
        Tensor::from_output_of(value, inputs).map(Self::Host)
    }

    /// An output that stays on the device.
    pub(super) fn of_device(value: DynValue) -> Result<Self, OutputError> {
        let value = value.downcast::<DynTensorValueType>().map_err(|_| OutputError::NotTensor)?;
        Ok(Self::Device(Arc::new(value)))
    }

    pub(super) fn as_input(&self) -> ort::Result<SessionInputValue<'_>> {
        match self {
            Self::Host(tensor) => tensor.as_input(),
            Self::Device(value) => Ok((&**value).into()),
        }
    }

    /// Positions in it; none if it has no such dimension.
    pub(super) fn positions(&self) -> Option<u32> {
        match self {
            Self::Host(tensor) => tensor.dimensions().get(2).copied(),
            Self::Device(value) => u32::try_from(*value.shape().get(2)?).ok(),
        }
    }

    /// A copy of the first `positions`. On a device it comes to the host for that, and goes back with the next run: it
    /// happens once for a prefix that is used again.
    pub(super) fn first_positions(&self, positions: u32, device: Option<&mut DeviceSide>) -> ort::Result<Self> {
        let text = |error: TensorError| ort::Error::new(error.to_string());
        let whole = match (self, device) {
            (Self::Host(tensor), _) => Cow::Borrowed(tensor),
            (Self::Device(value), Some(device)) => Cow::Owned(device.read(value)?),
            (Self::Device(_), None) => return Err(ort::Error::new("attention state is on no device")),
        };
        first_positions(&whole, positions).map(Self::Host).map_err(text)
    }
}

/// A copy of the first `positions` of `[1, heads, all, size]`.
fn first_positions(tensor: &Tensor, positions: u32) -> Result<Tensor, TensorError> {
    let [rows, heads, all, size] = *tensor.dimensions() else { return Err(TensorError::Rank(4)) };
    let dimensions = [rows, heads, positions, size];
    let element_type = tensor.element_type();
    let bytes =
        |dimensions: &[u32]| usize::try_from(element_type.bytes_of(dimensions)?).map_err(|_| TensorError::Overflow);
    let (whole, part) = (bytes(&[all, size])?, bytes(&[positions, size])?);
    let source = tensor.as_slice();
    Tensor::fill_with(element_type, &dimensions, bytes(&dimensions)?, |target| {
        if part > 0 {
            for (to, from) in target.chunks_exact_mut(part).zip(source.chunks_exact(whole)) {
                to.copy_from_slice(&from[..part]);
            }
        }
        Ok(())
    })
}

/// What runs on a device need beside the session.
#[derive(Debug)]
pub(super) struct DeviceSide {
    memory: MemoryInfo<'static>,
    host: MemoryInfo<'static>,
    copier: Copier,
}

impl DeviceSide {
    pub(super) fn new(device: Device, library: &Library) -> ort::Result<Self> {
        Ok(Self { memory: memory_of(device)?, host: host_memory()?, copier: Copier::new(device, library)? })
    }

    /// A run with `inputs`, which must live until it is over. Outputs that are `kept` stay on the device, the others come
    /// to the host.
    pub(super) fn bind<'a>(
        &self,
        session: &Session,
        inputs: &[(Cow<'_, str>, SessionInputValue<'_>)],
        outputs: impl Iterator<Item = (&'a String, bool)>,
    ) -> ort::Result<IoBinding> {
        let mut binding = session.create_binding()?;
        for (input, value) in inputs {
            bind_value(&mut binding, &name(input)?, value)?;
        }
        for (output, kept) in outputs {
            binding.bind_output_to_device(output.as_str(), if kept { &self.memory } else { &self.host })?;
        }
        Ok(binding)
    }

    /// A copy of `value` in host memory.
    fn read(&mut self, value: &DynTensor) -> ort::Result<Tensor> {
        let text = |error: TensorError| ort::Error::new(error.to_string());
        let element_type = ElementType::from_runtime(*value.data_type());
        let element_type = element_type.ok_or_else(|| ort::Error::new("attention state of an unknown type"))?;
        let sizes = value.shape().iter().map(|&size| u32::try_from(size));
        let dimensions: Vec<u32> = sizes.collect::<Result<_, _>>().map_err(|_| text(TensorError::Overflow))?;
        let len = element_type.bytes_of(&dimensions).map_err(text)?;
        let len = usize::try_from(len).map_err(|_| text(TensorError::Overflow))?;
        let mut copied = Ok(());
        let tensor = Tensor::write_with::<TensorError>(element_type, &dimensions, len, |bytes| {
            let from = Place::Device(value.data_ptr().cast_mut().cast());
            // SAFETY: the value holds `len` bytes on the device, as its shape and type say, and nobody writes to them; as
            // many of ours are at `bytes`.
            #[expect(unsafe_code, reason = "see `Copier::copy`")]
            let done = unsafe { self.copier.copy(from, Place::Host(bytes.as_mut_ptr()), len) };
            copied = done;
            Ok(())
        });
        copied.and(tensor.map_err(text))
    }
}
