//! The memory that server and worker share: one anonymous file of fixed size, in which the server gives out places.
//!
//! Sealed against growing and shrinking, and used with reads and writes only, so that no trick of the worker's can make
//! the server's own memory disappear. Its size is all that one tenant's transfers can ever take.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create};

/// Places begin at multiples of this.
const ALIGN: u64 = 4096;
/// The pages of a place beyond this part of the file go back when it is free; those before are used again soon.
const KEPT_BYTES: u64 = 16 << 20;

/// A place in the arena.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: u64,
    len: u64,
}

/// Which parts of a file of some size are taken. Pure.
#[derive(Debug)]
pub(super) struct Places {
    size: u64,
    /// Begin and length of what is taken, in order.
    taken: Vec<(u64, u64)>,
}

impl Places {
    pub(super) fn new(size: u64) -> Self {
        Self { size: size / ALIGN * ALIGN, taken: Vec::new() }
    }

    /// Whether `len` bytes fit once nothing else is there.
    pub(super) fn could_fit(&self, len: u64) -> bool {
        len <= self.size
    }

    /// The first gap of `len` bytes; none while there is none.
    pub(super) fn take(&mut self, len: u64) -> Option<Place> {
        let len = len.max(1).checked_next_multiple_of(ALIGN)?;
        let mut at = 0;
        let mut index = 0;
        for &(begin, length) in &self.taken {
            if begin - at >= len {
                break;
            }
            at = begin + length;
            index += 1;
        }
        if self.size - at < len {
            return None;
        }
        self.taken.insert(index, (at, len));
        Some(Place { at, len })
    }

    /// Gives a place back.
    pub(super) fn free(&mut self, place: &Place) {
        self.taken.retain(|&(at, _)| at != place.at);
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Arena(File);

impl Arena {
    /// A new one of `size` bytes, none of which exists before it is written.
    pub(super) fn new(size: u64) -> io::Result<Self> {
        let file = memfd_create("mayfly-worker", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, size)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self(file.into()))
    }

    /// The one that came from the other side.
    pub(super) fn received(file: std::os::fd::OwnedFd) -> Self {
        Self(file.into())
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    /// Fills `bytes`; an error if the file ends before.
    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, at)
    }

    /// The pages of a free place go back to the system.
    pub(super) fn give_back(&self, place: &Place) {
        let begin = place.at.max(KEPT_BYTES);
        let end = place.at.saturating_add(place.len);
        if begin < end {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if let Err(error) = fallocate(&self.0, mode, begin, end - begin) {
                tracing::debug!(%error, "a part of a worker's shared memory was not given back");
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_are_used_again_from_the_front() {
        let mut places = Places::new(16 * ALIGN + 5);
        assert!(places.could_fit(16 * ALIGN) && !places.could_fit(16 * ALIGN + 1));
        let first = places.take(1).unwrap();
        let second = places.take(ALIGN + 1).unwrap();
        let third = places.take(0).unwrap();
        assert_eq!((first.at, second.at, third.at), (0, ALIGN, 3 * ALIGN));
        places.free(&second);
        assert_eq!(places.take(3 * ALIGN).unwrap().at, 4 * ALIGN, "too large for the gap");
        assert_eq!(places.take(2 * ALIGN).unwrap().at, ALIGN);
        assert_eq!(places.take(10 * ALIGN), None);
        assert_eq!(places.take(u64::MAX), None);
        assert!(places.take(9 * ALIGN).is_some());
    }

    proptest! {
        #[test]
        fn places_never_overlap_and_all_comes_back(steps in prop::collection::vec((any::<bool>(), 0_u64..9 * ALIGN), 1..60)) {
            let mut places = Places::new(32 * ALIGN);
            let mut held: Vec<Place> = Vec::new();
            for (take, len) in steps {
                if take {
                    if let Some(place) = places.take(len) {
                        prop_assert!(place.len >= len && place.at + place.len <= 32 * ALIGN);
                        for other in &held {
                            prop_assert!(place.at + place.len <= other.at || other.at + other.len <= place.at);
                        }
                        held.push(place);
                    }
                } else if !held.is_empty() {
                    let place = held.swap_remove(usize::try_from(len).unwrap() % held.len());
                    places.free(&place);
                }
            }
            for place in held {
                places.free(&place);
            }
            prop_assert_eq!(places.take(32 * ALIGN).map(|place| place.at), Some(0));
        }
    }

    #[test]
    fn the_file_has_its_size_for_ever() {
        let arena = Arena::new(64 * ALIGN).unwrap();
        assert!(ftruncate(arena.file(), 0).is_err() && ftruncate(arena.file(), 1 << 30).is_err());
        assert!(arena.write(64 * ALIGN - 2, b"abc").is_err(), "it does not grow");
        arena.write(64 * ALIGN - 3, b"abc").unwrap();
        let mut bytes = [0; 3];
        arena.read(64 * ALIGN - 3, &mut bytes).unwrap();
        assert_eq!(&bytes, b"abc");
        assert!(arena.read(64 * ALIGN - 2, &mut bytes).is_err());
    }

    #[test]
    fn pages_beyond_the_front_go_back() {
        let arena = Arena::new(64 << 20).unwrap();
        let place = Place { at: KEPT_BYTES, len: 8 << 20 };
        arena.write(place.at, &vec![7; 8 << 20]).unwrap();
        let blocks = |arena: &Arena| rustix::fs::fstat(arena.file()).unwrap().st_blocks;
        assert!(blocks(&arena) >= (8 << 20) / 512);
        arena.give_back(&place);
        assert_eq!(blocks(&arena), 0);
    }
}
