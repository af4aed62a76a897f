//! Typed views of reserved memory that ONNX Runtime reads and writes by pointer between our own uses.

use std::io;

use half::f16;

use crate::generation::kv::Reserved;

/// Elements of one type in memory of their own.
#[derive(Debug)]
pub(super) struct Elements<T> {
    memory: Reserved,
    len: usize,
    /// The most elements that were in use since the memory was last given back.
    used: usize,
    _type: std::marker::PhantomData<T>,
}

/// Types of which every bit pattern is a value, zero included.
pub(super) trait Plain: Copy {}
impl Plain for i64 {}
impl Plain for f32 {}
impl Plain for f16 {}

impl<T: Plain> Elements<T> {
    /// `len` zeros.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory: Reserved::dense(bytes)?, len, used: 0, _type: std::marker::PhantomData })
    }

    /// The first byte, for a view of the first `len` elements that a run writes.
    pub(super) fn view(&mut self, len: usize) -> *mut u8 {
        self.used = self.used.max(len);
        self.as_view(len)
    }

    /// The first byte, for a view of the first `len` elements that a run reads.
    pub(super) fn as_view(&self, len: usize) -> *mut u8 {
        assert!(len <= self.len, "{len} elements, room for {}", self.len);
        self.memory.as_ptr()
    }

    /// The first `len` elements. No run may be under way.
    pub(super) fn slice(&mut self, len: usize) -> &mut [T] {
        let start = self.view(len).cast::<T>();
        // SAFETY: page-aligned memory with room for `len` elements (checked), zeroed when it was mapped; any bits are a
        // value of `T`. Runs, which use the memory by pointer, need `&mut` of its owner, as this does.
        #[expect(unsafe_code, reason = "the memory is held by pointer")]
        unsafe {
            std::slice::from_raw_parts_mut(start, len)
        }
    }

    /// Gives the memory back; it is zeros again.
    pub(super) fn forget(&mut self) {
        self.memory.forget(0, self.memory.len());
        self.used = 0;
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> u64 {
        (self.used * size_of::<T>()) as u64
    }
}
