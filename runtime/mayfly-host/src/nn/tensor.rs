//! `wasi:nn/tensor`: one copy in, one copy out and only when the guest asks for it.
//!
//! The constructor of this interface cannot answer with an error. A tensor that must not be made (wrong length, too many
//! bytes, too many dimensions) is therefore remembered with the reason and without data; using it gives the error.

use std::sync::Arc;

use bytes::Bytes;
use mayfly_inference::{ElementType, Seen, Tensor};
use mayfly_types::{Digest, Hold, Line};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, WasmList};

use super::bindings::tensor::{Host, HostTensor as HostTensorMethods, TensorType};
use super::errors::NnError;
use super::live::{LiveBytes, Share};
use super::{NnView, View};
use crate::leftovers::discard;

/// Dimensions of a refused tensor that are kept to be shown.
const DIMENSIONS_MAX: usize = 16;

/// The resource `tensor`.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct HostTensor {
    value: Value,
    /// What the first read costs.
    on_read: Option<OnRead>,
    /// The package it is an output of.
    origin: Option<Digest>,
}

#[derive(Debug)]
enum Value {
    Ready { tensor: Tensor, share: Share },
    Refused { dimensions: Vec<u32>, element_type: ElementType, reason: NnError },
}

/// Lines that are owed once somebody sees the value, and the hold they are part of. Charging consumes it.
#[derive(Debug)]
pub(crate) struct OnRead {
    hold: Arc<Hold>,
    lines: Vec<Line>,
    seen: Seen,
}

impl OnRead {
    /// None if reading is free.
    pub(super) fn new(hold: &Arc<Hold>, lines: Vec<Line>, seen: Seen) -> Option<Self> {
        (!lines.is_empty()).then(|| Self { hold: Arc::clone(hold), lines, seen })
    }

    pub(super) fn charge(self) {
        self.hold.charge(&self.lines);
        self.seen.mark();
    }
}

/// A tensor on its way into a run.
#[derive(Debug)]
pub(crate) struct Input {
    pub(super) tensor: Tensor,
    pub(super) share: Share,
    pub(super) on_read: Option<OnRead>,
    pub(super) origin: Option<Digest>,
}

impl HostTensor {
    /// The constructor: checks everything before it allocates, then copies `data` once.
    pub(super) fn from_guest(live: &LiveBytes, dimensions: &[u32], element_type: ElementType, data: &[u8]) -> Self {
        let value = match fill(live, dimensions, element_type, data) {
            Ok((tensor, share)) => Value::Ready { tensor, share },
            Err(reason) => {
                let shown = dimensions.get(..DIMENSIONS_MAX).unwrap_or(dimensions).to_vec();
                Value::Refused { dimensions: shown, element_type, reason }
            }
        };
        Self { value, on_read: None, origin: None }
    }

    /// An output of a run.
    pub(super) fn from_run(tensor: Tensor, share: Share, on_read: Option<OnRead>, origin: Digest) -> Self {
        Self { value: Value::Ready { tensor, share }, on_read, origin: Some(origin) }
    }

    /// The tensor as an input called `name`.
    pub(super) fn into_input(self, name: &str) -> Result<Input, NnError> {
        match self.value {
            Value::Ready { tensor, share } => Ok(Input { tensor, share, on_read: self.on_read, origin: self.origin }),
            Value::Refused { reason, .. } => {
                let name: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
                Err(NnError::new(reason.code, format!("input `{name}`: the tensor could not be made: {}", reason.text)))
            }
        }
    }

    fn dimensions(&self) -> &[u32] {
        match &self.value {
            Value::Ready { tensor, .. } => tensor.dimensions(),
            Value::Refused { dimensions, .. } => dimensions,
        }
    }

    fn element_type(&self) -> ElementType {
        match &self.value {
            Value::Ready { tensor, .. } => tensor.element_type(),
            Value::Refused { element_type, .. } => *element_type,
        }
    }

    /// The bytes, shared; charges what the first read costs. None for attention state.
    pub(super) fn read(&mut self) -> Option<Bytes> {
        match &self.value {
            Value::Ready { tensor, .. } if tensor.is_opaque() => None,
            Value::Ready { tensor, .. } => {
                if let Some(on_read) = self.on_read.take() {
                    on_read.charge();
                }
                Some(tensor.bytes())
            }
            Value::Refused { .. } => Some(Bytes::new()),
        }
    }
}

fn fill(
    live: &LiveBytes,
    dimensions: &[u32],
    element_type: ElementType,
    data: &[u8],
) -> Result<(Tensor, Share), NnError> {
    // Counted before it is allocated; the length check inside `write_with` comes first as well.
    let share = live.take(element_type.bytes_of(dimensions)?)?;
    let tensor = Tensor::write_with(element_type, dimensions, data.len(), |bytes| {
        if bytes.len() != data.len() {
            return Err(NnError::invalid("the data is not as long as the dimensions say"));
        }
        bytes.copy_from_slice(data);
        Ok(())
    })?;
    Ok((tensor, share))
}

pub(super) fn from_wit(ty: TensorType) -> ElementType {
    match ty {
        TensorType::Fp16 => ElementType::F16,
        TensorType::Fp32 => ElementType::F32,
        TensorType::Fp64 => ElementType::F64,
        TensorType::Bf16 => ElementType::Bf16,
        TensorType::U8 => ElementType::U8,
        TensorType::I32 => ElementType::I32,
        TensorType::I64 => ElementType::I64,
    }
}

pub(super) fn to_wit(element_type: ElementType) -> TensorType {
    match element_type {
        ElementType::F16 => TensorType::Fp16,
        ElementType::F32 => TensorType::Fp32,
        ElementType::F64 => TensorType::Fp64,
        ElementType::Bf16 => TensorType::Bf16,
        ElementType::U8 | ElementType::Bool => TensorType::U8,
        ElementType::I32 => TensorType::I32,
        ElementType::I64 => TensorType::I64,
    }
}

/// Replaces the generated constructor and `data`, which copy through a `Vec`, by ones that do not.
pub(super) fn link_without_copies<T: 'static>(linker: &mut Linker<T>, view: View<T>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut instance = linker.instance("wasi:nn/tensor@0.2.0-rc-2024-10-28")?;
    instance.func_wrap(
        "[constructor]tensor",
        move |mut store: StoreContextMut<'_, T>, (dimensions, ty, data): (WasmList<u32>, TensorType, WasmList<u8>)| {
            let live = view(store.data_mut()).nn.live.clone();
            // Guest memory is little endian as this host is; the list is bounds-checked and aligned by then.
            let sizes = dimensions.as_le_slice(&store);
            let tensor = HostTensor::from_guest(&live, sizes, from_wit(ty), data.as_le_slice(&store));
            Ok((view(store.data_mut()).push(tensor)?,))
        },
    )?;
    instance.func_wrap(
        "[method]tensor.data",
        move |mut store: StoreContextMut<'_, T>, (tensor,): (Resource<HostTensor>,)| {
            Ok((view(store.data_mut()).tensor_data(&tensor)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

#[cfg(target_endian = "big")]
compile_error!("tensors are taken over as little endian bytes");

impl NnView<'_> {
    fn tensor_data(&mut self, tensor: &Resource<HostTensor>) -> wasmtime::Result<Bytes> {
        self.table.get_mut(tensor)?.read().ok_or_else(|| {
            wasmtime::Error::msg(
                "attention state (past and present tensors) can be handed back to its model and cannot be read with tensor.data",
            )
        })
    }
}

impl Host for NnView<'_> {}

impl HostTensorMethods for NnView<'_> {
    fn new(&mut self, dimensions: Vec<u32>, ty: TensorType, data: Vec<u8>) -> wasmtime::Result<Resource<HostTensor>> {
        let tensor = HostTensor::from_guest(&self.nn.live, &dimensions, from_wit(ty), &data);
        self.push(tensor)
    }

    fn dimensions(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.dimensions().to_vec())
    }

    fn ty(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<TensorType> {
        Ok(to_wit(self.table.get(&tensor)?.element_type()))
    }

    fn data(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.tensor_data(&tensor)?.into())
    }

    fn drop(&mut self, tensor: Resource<HostTensor>) -> wasmtime::Result<()> {
        discard(self.table, tensor)
    }
}
