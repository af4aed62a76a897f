//! Memory of a device, taken from ONNX Runtime: blocks of it, and copies within it, to it and from it.
//!
//! Nothing here knows CUDA: the allocator is that of a session on the device, and a copy is a run of a graph of one
//! operation on the same provider. So all of it also works with the CPU as the device, which is how it is tested where
//! there is no GPU.

use std::fmt;
use std::ptr::NonNull;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{RunOptions, Session};
use ort::value::TensorElementType;

use super::kv::Reserved;
use super::runner::binding::{Binding, View, host_memory};
use crate::library::Library;
use crate::{Device, session};

/// The memory of `device`, for allocators and views.
pub(super) fn memory_of(device: Device) -> ort::Result<MemoryInfo<'static>> {
    match device {
        Device::Cpu => host_memory(),
        Device::Cuda => MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default),
    }
}

/// Some bytes in host memory or a device's, for a copy.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Host(*mut u8),
    Device(*mut u8),
}

/// Copies bytes within a device's memory, and between it and the host's.
pub(super) struct Copier {
    session: Session,
    options: RunOptions,
    host: MemoryInfo<'static>,
    device: MemoryInfo<'static>,
}

impl fmt::Debug for Copier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Copier")
    }
}

impl Copier {
    pub(super) fn new(device: Device, library: &Library) -> ort::Result<Self> {
        Ok(Self {
            session: session::identity(device, library)?,
            options: RunOptions::new()?,
            host: host_memory()?,
            device: memory_of(device)?,
        })
    }

    /// Copies `len` bytes. They are there when this returns.
    ///
    /// # Safety
    /// Both places have `len` bytes that nobody else uses meanwhile, and the ranges do not overlap.
    #[expect(unsafe_code, reason = "a device's memory is known by its addresses only")]
    pub(super) unsafe fn copy(&mut self, from: Place, to: Place, len: usize) -> ort::Result<()> {
        let shape = [i64::try_from(len).unwrap_or(i64::MAX)];
        let view = |place: Place| {
            let (info, data) = match place {
                Place::Host(data) => (&self.host, data),
                Place::Device(data) => (&self.device, data),
            };
            // SAFETY: `len` bytes at `data`, as our caller promises, until the one run below is over.
            unsafe { View::new(info, TensorElementType::Uint8, data, &shape) }
        };
        let (from, to) = (view(from)?, view(to)?);
        let mut binding = Binding::new(&self.session)?;
        binding.input(c"x", &from)?;
        binding.output(c"y", &to)?;
        binding.run(&mut self.session, &self.options)
    }
}

/// Blocks of one size in a device's memory.
pub(super) struct Blocks {
    blocks: Vec<NonNull<u8>>,
    /// Bytes of one block.
    len: usize,
    allocator: Allocator,
    copier: Copier,
    info: MemoryInfo<'static>,
}

// SAFETY: it owns its blocks alone, and gives them out as raw pointers only, which this process cannot follow where the
// device is not the CPU; who uses those keeps to Rust's rules.
#[expect(unsafe_code, reason = "a raw pointer is not Send by itself")]
unsafe impl Send for Blocks {}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").field("count", &self.blocks.len()).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Blocks {
    /// `count` blocks of `pieces` times `piece_bytes` zeros in the memory of `device`, which `session` runs on.
    ///
    /// Zeros, as what was there before is somebody else's, and as it may be numbers that are none: some operations
    /// multiply what they leave out by zero.
    ///
    /// # Errors
    /// The device has no such memory.
    pub(super) fn new(
        session: &Session,
        device: Device,
        library: &Library,
        count: usize,
        (pieces, piece_bytes): (usize, usize),
    ) -> ort::Result<Self> {
        let len = pieces.checked_mul(piece_bytes).ok_or_else(|| ort::Error::new("blocks that large cannot be had"))?;
        let allocator = Allocator::new(session, memory_of(device)?)?;
        let (copier, info) = (Copier::new(device, library)?, memory_of(device)?);
        let mut this = Self { blocks: Vec::with_capacity(count), len, allocator, copier, info };
        for _ in 0..count {
            let block = this.allocator.alloc::<u8>(len)?.into_raw();
            this.blocks.push(NonNull::new(block.cast()).ok_or_else(|| ort::Error::new("it was not given"))?);
        }
        this.clear(pieces, piece_bytes)?;
        Ok(this)
    }

    /// Sets everything to zero, piece by piece.
    fn clear(&mut self, pieces: usize, piece_bytes: usize) -> ort::Result<()> {
        if self.blocks.is_empty() || self.len == 0 {
            return Ok(());
        }
        let zeros = Reserved::new(piece_bytes).map_err(|error| ort::Error::new(error.to_string()))?;
        let first = self.at(0, 0);
        // SAFETY: a piece of zeros of ours, and the first piece of a block that nobody knows of yet.
        #[expect(unsafe_code, reason = "see `Copier::copy`")]
        unsafe {
            self.copier.copy(Place::Host(zeros.as_ptr()), Place::Device(first), piece_bytes)?;
        }
        for block in 0..self.blocks.len() {
            for piece in 0..pieces {
                if (block, piece) != (0, 0) {
                    self.copy((0, 0), (block, piece * piece_bytes), piece_bytes)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn info(&self) -> &MemoryInfo<'static> {
        &self.info
    }

    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes of all blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.len() as u64 * self.len as u64
    }

    /// Where byte `offset` of a block is.
    pub(super) fn at(&self, block: usize, offset: usize) -> *mut u8 {
        assert!(offset <= self.len, "within the block");
        self.blocks[block].as_ptr().wrapping_add(offset)
    }

    /// Copies `len` bytes from one block and offset to another; the ranges must lie within and not overlap.
    pub(super) fn copy(&mut self, from: (usize, usize), to: (usize, usize), len: usize) -> ort::Result<()> {
        let fits = |(_, offset): (usize, usize)| offset.checked_add(len).is_some_and(|end| end <= self.len);
        let apart = from.0 != to.0 || from.1.abs_diff(to.1) >= len;
        assert!(fits(from) && fits(to) && apart, "a copy within the blocks");
        let [from, to] = [from, to].map(|(block, offset)| Place::Device(self.at(block, offset)));
        // SAFETY: both ranges were checked to be inside blocks of ours and apart, and we are borrowed mutably.
        #[expect(unsafe_code, reason = "see `Copier::copy`")]
        unsafe {
            self.copier.copy(from, to, len)
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        for block in self.blocks.drain(..) {
            // SAFETY: given by this allocator, once; owners drop what points there first.
            #[expect(unsafe_code, reason = "the allocator hands out raw memory")]
            unsafe {
                self.allocator.free(block.as_ptr());
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, unsafe_code, reason = "tests")]
mod tests {
    use super::*;
    use crate::Config;
    use crate::session::Options;

    /// With the CPU as the device.
    fn blocks(count: usize, pieces: usize, piece_bytes: usize) -> Blocks {
        let library = Options::plain(&Config::default()).unwrap().library;
        let session = session::identity(Device::Cpu, &library).unwrap();
        Blocks::new(&session, Device::Cpu, &library, count, (pieces, piece_bytes)).unwrap()
    }

    fn read(blocks: &Blocks, block: usize) -> Vec<u8> {
        // SAFETY: host memory of ours, and nobody writes.
        unsafe { std::slice::from_raw_parts(blocks.at(block, 0), blocks.len).to_vec() }
    }

    #[test]
    fn blocks_are_zeros_and_copies_change_what_they_should() {
        let mut blocks = blocks(3, 2, 1000);
        assert_eq!(blocks.bytes(), 6000);
        for block in 0..3 {
            assert_eq!(read(&blocks, block), [0; 2000]);
        }
        // SAFETY: host memory of ours, and nobody else uses it.
        unsafe { blocks.at(1, 500).write_bytes(7, 1000) };
        blocks.copy((1, 500), (2, 100), 900).unwrap();
        assert_eq!(read(&blocks, 2), [vec![0; 100], vec![7; 900], vec![0; 1000]].concat());
        assert_eq!(read(&blocks, 0), [0; 2000]);
        blocks.copy((1, 500), (1, 1500), 500).unwrap();
        assert_eq!(read(&blocks, 1), [vec![0; 500], vec![7; 1500]].concat());
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let library = Options::plain(&Config::default()).unwrap().library;
        let session = session::identity(Device::Cpu, &library).unwrap();
        assert!(Blocks::new(&session, Device::Cpu, &library, 1, (usize::MAX, 2)).is_err());
    }
}
