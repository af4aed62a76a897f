//! Memory for attention state (KV): on the host reserved address space whose pages come by touch and go when a slot is
//! released; on a device blocks that are taken whole.

use std::io;
use std::ptr::NonNull;

use ort::memory::MemoryInfo;
use ort::session::Session;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::device::Blocks;
use crate::Device;
use crate::library::Library;

/// Where a decoder's KV lives. It is where the session runs: anywhere else it would cross the bus at every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// In this process's memory, as the CPU provider wants it: a page is taken by the first touch and given back with
    /// its slot.
    Host,
    /// In a device's memory: all slots are taken at the load and given back with the session.
    Device(Device),
}

impl Placement {
    /// Where the KV of a session on `device` has to be.
    pub(super) const fn of(device: Device) -> Self {
        match device {
            Device::Cpu => Self::Host,
            Device::Cuda => Self::Device(device),
        }
    }
}

/// Zeroed pages of address space; memory is taken by the first touch of each page only.
#[derive(Debug)]
pub(super) struct Reserved {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its pages alone, and gives them out as raw pointers only; who uses those keeps to Rust's rules.
#[expect(unsafe_code, reason = "a raw pointer is neither Send nor Sync by itself")]
unsafe impl Send for Reserved {}

impl Reserved {
    /// `len` bytes, page-aligned; at least one page.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let len = len.max(1);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping anywhere replaces nothing.
        #[expect(unsafe_code, reason = "allocators would count or touch the memory")]
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// As [`Self::new`], for memory that is used whole and from its beginning: faults come by large pages where the
    /// system has them.
    pub(super) fn dense(len: usize) -> io::Result<Self> {
        let this = Self::new(len)?;
        // SAFETY: the range is our mapping; the advice changes no content.
        #[expect(unsafe_code, reason = "there is no other way to ask for large pages")]
        let advised = unsafe { madvise(this.start.as_ptr().cast(), this.len, Advice::LinuxHugepage) };
        if let Err(error) = advised {
            tracing::debug!(%error, "no large pages here: the first run takes longer");
        }
        Ok(this)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first byte. Writing through it needs what `&mut` would.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Gives the whole pages of `offset..offset + len` back to the system; they read as zeros afterwards.
    pub(super) fn forget(&mut self, offset: usize, len: usize) {
        let page = rustix::param::page_size();
        let start = offset.next_multiple_of(page);
        let end = offset.saturating_add(len).min(self.len) / page * page;
        if start >= end {
            return;
        }
        // SAFETY: whole pages within our mapping, which nobody else has a reference into while we are borrowed mutably.
        #[expect(unsafe_code, reason = "there is no other way to give pages back and keep their addresses")]
        let result = unsafe { madvise(self.as_ptr().add(start).cast(), end - start, Advice::LinuxDontNeed) };
        if let Err(error) = result {
            tracing::warn!(%error, "memory of attention state could not be given back");
        }
    }

    /// Copies `len` bytes from `from` to `to`. The ranges must lie within it and not overlap.
    pub(super) fn copy(&mut self, from: usize, to: usize, len: usize) {
        let fits = |start: usize| start.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(fits(from) && fits(to) && from.abs_diff(to) >= len, "a copy within the slots");
        // SAFETY: both ranges were checked to be inside and apart, and we are borrowed mutably.
        #[expect(unsafe_code, reason = "the memory is never seen as one slice, which would have to be whole")]
        unsafe {
            std::ptr::copy_nonoverlapping(self.as_ptr().add(from), self.as_ptr().add(to), len);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: our own mapping, whole, and nobody has a pointer into it any more: owners drop what points there first.
        #[expect(unsafe_code, reason = "what was mapped is unmapped")]
        let result = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        if let Err(error) = result {
            tracing::warn!(%error, "memory of attention state could not be unmapped");
        }
    }
}

/// The shape of one key or value buffer, `[slots, heads, positions, head bytes]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotShape {
    pub(super) slots: usize,
    pub(super) heads: usize,
    pub(super) positions: usize,
    /// Bytes of one head at one position.
    pub(super) head_bytes: usize,
}

impl SlotShape {
    pub(super) fn slot_bytes(self) -> usize {
        self.heads * self.positions * self.head_bytes
    }

    fn bytes(self) -> Option<usize> {
        [self.heads, self.positions, self.head_bytes]
            .iter()
            .try_fold(self.slots, |bytes, size| bytes.checked_mul(*size))
    }
}

/// The keys and values of all slots, one buffer for each layer's keys and each layer's values.
#[derive(Debug)]
pub(super) struct KvBuffers {
    shape: SlotShape,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Host(Vec<Reserved>),
    Device(Blocks),
}

impl KvBuffers {
    /// `count` buffers of `shape` in host memory.
    pub(super) fn new(count: usize, shape: SlotShape) -> io::Result<Self> {
        let bytes = shape.bytes().ok_or(io::ErrorKind::OutOfMemory)?;
        let buffers = (0..count).map(|_| Reserved::new(bytes)).collect::<io::Result<_>>()?;
        Ok(Self { shape, memory: Memory::Host(buffers) })
    }

    /// `count` buffers of `shape` in the memory of `device`, which `session` runs on.
    pub(super) fn on_device(
        session: &Session,
        device: Device,
        library: &Library,
        count: usize,
        shape: SlotShape,
    ) -> ort::Result<Self> {
        shape.bytes().ok_or_else(|| ort::Error::new("they are too large"))?;
        let blocks = Blocks::new(session, device, library, count, (shape.slots, shape.slot_bytes()))?;
        Ok(Self { shape, memory: Memory::Device(blocks) })
    }

    /// The device's memory they are in; none for the host's.
    pub(super) fn device_memory(&self) -> Option<&MemoryInfo<'static>> {
        match &self.memory {
            Memory::Host(_) => None,
            Memory::Device(blocks) => Some(blocks.info()),
        }
    }

    /// Bytes that are taken whatever is in use.
    pub(super) fn fixed_bytes(&self) -> Option<u64> {
        match &self.memory {
            Memory::Host(_) => None,
            Memory::Device(blocks) => Some(blocks.bytes()),
        }
    }

    /// The first byte of `slot` in buffer `index`.
    pub(super) fn slot(&self, index: usize, slot: usize) -> *mut u8 {
        assert!(slot < self.shape.slots, "a slot of ours");
        let offset = slot * self.shape.slot_bytes();
        match &self.memory {
            Memory::Host(buffers) => buffers[index].as_ptr().wrapping_add(offset),
            Memory::Device(blocks) => blocks.at(index, offset),
        }
    }

    /// Copies the first `positions` of slot `from` to slot `to`, in all buffers. On a device the rest comes with them: one
    /// long copy there is faster than one for each head.
    pub(super) fn copy(&mut self, from: usize, to: usize, positions: usize) -> ort::Result<()> {
        if from == to {
            return Ok(());
        }
        assert!(from.max(to) < self.shape.slots && positions <= self.shape.positions, "a copy within the slots");
        let bytes = self.shape.slot_bytes();
        match &mut self.memory {
            Memory::Host(buffers) => {
                let head = self.shape.positions * self.shape.head_bytes;
                for buffer in buffers {
                    for at in (0..self.shape.heads).map(|index| index * head) {
                        let [from, to] = [from, to].map(|slot| slot * bytes + at);
                        buffer.copy(from, to, positions * self.shape.head_bytes);
                    }
                }
                Ok(())
            }
            Memory::Device(blocks) => {
                (0..blocks.count()).try_for_each(|block| blocks.copy((block, from * bytes), (block, to * bytes), bytes))
            }
        }
    }

    /// Gives the memory of `slot` back to the system, where it can be given back alone.
    pub(super) fn release(&mut self, slot: usize) {
        let bytes = self.shape.slot_bytes();
        match &mut self.memory {
            Memory::Host(buffers) => buffers.iter_mut().for_each(|buffer| buffer.forget(slot * bytes, bytes)),
            Memory::Device(_) => {}
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, unsafe_code, reason = "tests")]
mod tests {
    use super::*;

    fn write(buffers: &KvBuffers, slot: usize, value: u8) {
        // SAFETY: within the slot, and nobody else uses it.
        unsafe { buffers.slot(0, slot).write_bytes(value, buffers.shape.slot_bytes()) };
    }

    fn read(buffers: &KvBuffers, slot: usize, at: usize) -> u8 {
        assert!(at < buffers.shape.slot_bytes());
        // SAFETY: within the slot, and nobody writes.
        unsafe { buffers.slot(0, slot).add(at).read() }
    }

    #[test]
    fn a_copy_takes_the_first_positions_of_each_head() {
        let shape = SlotShape { slots: 3, heads: 2, positions: 8, head_bytes: 4 };
        let mut buffers = KvBuffers::new(2, shape).unwrap();
        write(&buffers, 0, 7);
        write(&buffers, 2, 1);
        buffers.copy(0, 2, 3).unwrap();
        let seen: Vec<u8> = (0..64).map(|at| read(&buffers, 2, at)).collect();
        let head: Vec<u8> = [[7; 12].as_slice(), &[1; 20]].concat();
        assert_eq!(seen, [head.clone(), head].concat());
        assert_eq!(read(&buffers, 1, 0), 0, "its neighbour is as it was");
    }

    #[test]
    fn released_slots_read_as_zeros_and_their_neighbours_stay() {
        let shape = SlotShape { slots: 3, heads: 4, positions: 256, head_bytes: 64 };
        let mut buffers = KvBuffers::new(1, shape).unwrap();
        (0..3).for_each(|slot| write(&buffers, slot, 9));
        buffers.release(1);
        assert_eq!([0, 1, 2].map(|slot| read(&buffers, slot, 0)), [9, 0, 9]);
        assert_eq!([0, 1, 2].map(|slot| read(&buffers, slot, shape.slot_bytes() - 1)), [9, 0, 9]);
    }

    #[test]
    fn address_space_is_no_memory() {
        // 4 TiB: more than any test machine has.
        let shape = SlotShape { slots: 16, heads: 8, positions: 1 << 20, head_bytes: 1 << 15 };
        let buffers = KvBuffers::new(1, shape).unwrap();
        assert_eq!(read(&buffers, 15, shape.slot_bytes() - 1), 0);
        assert!(KvBuffers::new(1, SlotShape { slots: usize::MAX, ..shape }).is_err(), "an overflow is refused");
    }

    #[test]
    fn it_is_where_the_session_runs() {
        assert_eq!(Placement::of(Device::Cpu), Placement::Host);
        assert_eq!(Placement::of(Device::Cuda), Placement::Device(Device::Cuda));
    }
}
