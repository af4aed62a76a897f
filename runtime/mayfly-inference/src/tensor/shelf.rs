//! Memory of large tensors that have gone, for those that come: fresh pages cost more than filling them.
//!
//! A part of the allocator, and like it one for the process. It holds at most [`BYTES_MAX`], and nothing once models are
//! unloaded or rest ([`clear`], with the C library's own heap).

use std::alloc::{Layout, dealloc};
use std::ptr::NonNull;
use std::sync::Mutex;

/// Smaller blocks come from pages that are in use anyway.
const BLOCK_BYTES_MIN: usize = 64 << 10;
/// All blocks together.
const BYTES_MAX: usize = 64 << 20;
/// Blocks that are kept; also how many are looked at.
const BLOCKS_MAX: usize = 64;

/// Memory of the global allocator.
pub(super) struct Block {
    pub(super) start: NonNull<u8>,
    pub(super) layout: Layout,
}

// SAFETY: a block is memory that nobody else has; where it is used does not matter.
#[expect(unsafe_code, reason = "a raw pointer is not Send by itself")]
unsafe impl Send for Block {}

static SHELF: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// A block that has room for `layout` and is not much larger. What is in it is what was there before.
pub(super) fn take(layout: Layout) -> Option<Block> {
    if layout.size() < BLOCK_BYTES_MIN {
        return None;
    }
    let mut blocks = SHELF.try_lock().ok()?;
    let fits = |block: &Block| {
        let size = block.layout.size();
        block.layout.align() == layout.align() && size >= layout.size() && size - layout.size() <= layout.size() / 4
    };
    let place = blocks.iter().rposition(fits)?;
    Some(blocks.swap_remove(place))
}

/// Keeps a block for later, or gives it back where there is no room for it.
pub(super) fn put(block: Block) {
    if block.layout.size() >= BLOCK_BYTES_MIN
        && let Ok(mut blocks) = SHELF.try_lock()
    {
        let kept: usize = blocks.iter().map(|block| block.layout.size()).sum();
        if blocks.len() < BLOCKS_MAX && kept.saturating_add(block.layout.size()) <= BYTES_MAX {
            blocks.push(block);
            return;
        }
    }
    free(block);
}

/// Gives all of it back.
pub(crate) fn clear() {
    let blocks = std::mem::take(&mut *SHELF.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    blocks.into_iter().for_each(free);
}

#[expect(unsafe_code, reason = "the memory is held by pointer")]
fn free(block: Block) {
    // SAFETY: a block comes from the global allocator with this layout, and is given back once.
    unsafe { dealloc(block.start.as_ptr(), block.layout) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::alloc::alloc_zeroed;

    use super::*;

    #[expect(unsafe_code, reason = "a block to keep")]
    fn block(bytes: usize) -> Block {
        let layout = Layout::from_size_align(bytes, 16).unwrap();
        // SAFETY: its size is not zero.
        Block { start: NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap(), layout }
    }

    #[test]
    fn what_is_kept_fits_is_not_much_larger_and_is_bounded() {
        // Sizes that no other test asks for.
        let wanted = |bytes| Layout::from_size_align(bytes, 16).unwrap();
        put(block(9 << 20));
        assert!(take(wanted((9 << 20) + 1)).is_none() && take(wanted(5 << 20)).is_none(), "too small, too large");
        let taken = take(wanted((8 << 20) + 5)).unwrap();
        assert_eq!(taken.layout.size(), 9 << 20);
        assert!(take(wanted(9 << 20)).is_none(), "it is taken once");
        put(taken);
        put(block(BYTES_MAX + 16));
        assert!(take(wanted(BYTES_MAX + 16)).is_none(), "more than is ever kept");
        put(block(1024));
        assert!(take(wanted(1024)).is_none(), "small ones are not");
        clear();
        assert!(take(wanted(9 << 20)).is_none());
    }
}
