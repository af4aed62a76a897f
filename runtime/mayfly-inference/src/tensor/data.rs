//! The memory behind a tensor: ours, or ONNX Runtime's when it is the output of a run.

use std::alloc::{Layout, alloc_zeroed};
use std::ptr::NonNull;
use std::sync::Arc;

use ort::value::DynTensor;

use super::TensorError;
use super::shelf::{self, Block};

/// ONNX Runtime's own allocations are aligned to this; some of its kernels are faster for it.
const ALIGN: usize = 64;
/// What `malloc` aligns to by itself. Asking for no more lets zeroed memory come from the system without being touched.
const ALIGN_GIVEN: usize = 16;

/// Bytes of a tensor. Never written once made.
pub(super) enum Data {
    /// Our own.
    Host(Buffer),
    /// The output of a run.
    Runtime(RuntimeData),
}

impl Data {
    /// `len` zeroed bytes, then whatever `fill` writes.
    pub(super) fn filled<E: From<TensorError>>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut buffer = Buffer::zeroed(len)?;
        fill(buffer.as_mut_slice())?;
        Ok(Self::Host(buffer))
    }

    /// `len` bytes that `write` writes, all of them: what is in them before was somebody else's.
    pub(super) fn written<E: From<TensorError>>(
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut buffer = Buffer::used(len)?;
        write(buffer.as_mut_slice())?;
        Ok(Self::Host(buffer))
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Host(buffer) => buffer.as_slice(),
            Self::Runtime(data) => data.as_slice(),
        }
    }
}

/// Aligned memory of our own.
pub(super) struct Buffer {
    /// What the allocator gave; none for no bytes.
    block: Option<Block>,
    /// The first aligned byte within it.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory alone, and only `&mut self` writes to it.
#[expect(unsafe_code, reason = "a raw pointer is neither Send nor Sync by itself")]
unsafe impl Send for Buffer {}
// SAFETY: as above; `&self` only reads.
#[expect(unsafe_code, reason = "a raw pointer is neither Send nor Sync by itself")]
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Zeros.
    fn zeroed(len: usize) -> Result<Self, TensorError> {
        let (mut buffer, fresh) = Self::of(len)?;
        if !fresh {
            buffer.as_mut_slice().fill(0);
        }
        Ok(buffer)
    }

    /// Zeros, or what was there before.
    fn used(len: usize) -> Result<Self, TensorError> {
        Ok(Self::of(len)?.0)
    }

    /// Also whether it is fresh, and so all zeros.
    #[expect(unsafe_code, reason = "no safe way to get zeroed memory that is not touched twice and may fail")]
    fn of(len: usize) -> Result<(Self, bool), TensorError> {
        if len == 0 {
            // SAFETY: 64 is not zero.
            let start = unsafe { NonNull::new_unchecked(std::ptr::without_provenance_mut(ALIGN)) };
            return Ok((Self { block: None, start, len }, true));
        }
        let layout = len
            .checked_add(ALIGN - ALIGN_GIVEN)
            .and_then(|size| Layout::from_size_align(size, ALIGN_GIVEN).ok())
            .ok_or(TensorError::Overflow)?;
        let (block, fresh) = match shelf::take(layout) {
            Some(block) => (block, false),
            None => {
                // SAFETY: the layout's size is not zero.
                let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(TensorError::Memory(len as u64))?;
                (Block { start, layout }, true)
            }
        };
        let at = block.start.addr().get();
        // SAFETY: the block begins at a multiple of 16, so the offset is at most 48; it has `len` and 48 bytes at least.
        let start = unsafe { block.start.add(at.next_multiple_of(ALIGN) - at) };
        Ok((Self { block: Some(block), start, len }, fresh))
    }

    #[expect(unsafe_code, reason = "the memory is held by pointer")]
    fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` is followed by `len` initialized bytes that live as long as `self`; nothing writes to them
        // while it is shared. For no bytes any aligned pointer that is not null will do.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    #[expect(unsafe_code, reason = "the memory is held by pointer")]
    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` excludes everybody else.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            shelf::put(block);
        }
    }
}

/// An output of a run, in ONNX Runtime's memory.
pub(super) struct RuntimeData {
    value: DynTensor,
    len: usize,
    /// A graph may hand an input through: then the output's memory is the input's, which must stay.
    _shares: Option<Arc<Data>>,
}

impl RuntimeData {
    /// `len` is the size of `value`'s data in bytes; it must be in host memory. `inputs` are those of the run.
    pub(super) fn new<'a>(value: DynTensor, len: usize, inputs: impl IntoIterator<Item = &'a Arc<Data>>) -> Self {
        let at = value.data_ptr().addr();
        let shares = inputs.into_iter().find(|input| {
            input.as_slice().as_ptr_range().start.addr() <= at && at < input.as_slice().as_ptr_range().end.addr()
        });
        Self { value, len, _shares: shares.cloned() }
    }

    pub(super) fn value(&self) -> &DynTensor {
        &self.value
    }

    #[expect(unsafe_code, reason = "the memory belongs to the library")]
    fn as_slice(&self) -> &[u8] {
        let data = self.value.data_ptr().cast::<u8>();
        if self.len == 0 || data.is_null() {
            return &[];
        }
        // SAFETY: the value owns (or `_shares` keeps) `len` bytes at `data`; the run that wrote them has returned, and
        // ONNX Runtime does not write to a value that it is given as an input.
        unsafe { std::slice::from_raw_parts(data, self.len) }
    }
}
