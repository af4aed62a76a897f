//! A file of the log: a header, then frames until the first that is none.
//!
//! Header, 96 bytes: magic, format (u32), 4 zero bytes, number of the segment (u64), boot (i64), number of its first append (u64),
//! node (16), salt (16), 8 zero bytes, and the first 16 bytes of BLAKE3 over all that. Frame: length of the append (u32), its
//! number (u64), 16 bytes of BLAKE3 over number and append, keyed by the hash of the header; then the append. Numbers are
//! little-endian. The salt is random, so that no frame of an earlier use of the file, and nothing a caller made up, passes for
//! one of this.

use crate::Node;

pub(super) const HEADER_BYTES: usize = 96;
pub(super) const FRAME_BYTES: usize = 28;
/// Bytes of an append; far above what a call can make.
pub(super) const APPEND_BYTES_MAX: usize = 1 << 30;
const MAGIC: [u8; 8] = *b"mayfredo";
pub(super) const FORMAT: u32 = 1;
const SUMMED: usize = HEADER_BYTES - 16;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Grows with each segment.
    pub(super) number: u64,
    /// Who wrote it.
    pub(super) node: Node,
    /// The number of its first append.
    pub(super) first: u64,
    pub(super) salt: [u8; 16],
}

/// A key for the checksums of one segment's frames.
pub(super) type Key = [u8; 32];

/// Why a file is no segment that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Never begun, or its beginning was cut short: nothing in it was ever acknowledged.
    Blank,
    /// A newer version wrote it.
    Newer(u32),
}

impl Header {
    pub(super) fn write(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.node.boot.to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.node.id);
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&[0; 8]);
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(&sum.as_bytes()[..16]);
        bytes.try_into().expect("96 bytes")
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Unreadable::Blank)?;
        if blake3::hash(&header[..SUMMED]).as_bytes()[..16] != header[SUMMED..] || header[..8] != MAGIC {
            return Err(Unreadable::Blank);
        }
        fn part<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
            header[at..at + N].try_into().expect("within the header")
        }
        let format = u32::from_le_bytes(part(header, 8));
        if format != FORMAT {
            return Err(Unreadable::Newer(format));
        }
        Ok(Self {
            number: u64::from_le_bytes(part(header, 16)),
            node: Node { id: part(header, 40), boot: i64::from_le_bytes(part(header, 24)) },
            first: u64::from_le_bytes(part(header, 32)),
            salt: part(header, 56),
        })
    }

    pub(super) fn key(&self) -> Key {
        *blake3::hash(&self.write()).as_bytes()
    }
}

/// Begins a frame at the end of `out`; what is written after it belongs to it until [`close_frame`].
pub(super) fn open_frame(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.resize(at + FRAME_BYTES, 0);
    at
}

/// Ends a frame, which is all of `frame`.
pub(super) fn close_frame(frame: &mut [u8], number: u64, key: &Key) {
    let (head, append) = frame.split_at_mut(FRAME_BYTES);
    let length = u32::try_from(append.len()).expect("at most APPEND_BYTES_MAX");
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..12].copy_from_slice(&number.to_le_bytes());
    head[12..].copy_from_slice(&sum(key, number, append));
}

fn sum(key: &Key, number: u64, append: &[u8]) -> [u8; 16] {
    let hash = blake3::Hasher::new_keyed(key).update(&number.to_le_bytes()).update(append).finalize();
    *hash.as_bytes().first_chunk().expect("32 bytes")
}

/// What stands at a place in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A whole frame: number, append, and where the next may begin.
    Frame(u64, &'a [u8], usize),
    /// Nothing was written here.
    Blank,
    /// Bytes that are no whole frame.
    Broken,
}

/// Looks at `at`.
pub(super) fn frame<'a>(segment: &'a [u8], at: usize, key: &Key) -> Found<'a> {
    let Some((head, rest)) = segment.get(at..).and_then(|rest| rest.split_first_chunk::<FRAME_BYTES>()) else {
        return Found::Blank;
    };
    if *head == [0; FRAME_BYTES] {
        return Found::Blank;
    }
    let length = u32::from_le_bytes(*head.first_chunk().expect("28 bytes")) as usize;
    let number = u64::from_le_bytes(head[4..12].try_into().expect("8 bytes"));
    match rest.get(..length) {
        Some(append) if length > 0 && sum(key, number, append) == head[12..] => {
            Found::Frame(number, append, at + FRAME_BYTES + length)
        }
        _ => Found::Broken,
    }
}

/// Whether a whole frame with a number above `number` stands anywhere behind `at`: then what is broken there was not
/// the last thing that was written.
pub(super) fn any_frame_after(segment: &[u8], at: usize, number: u64, key: &Key) -> bool {
    /// Numbers further off are no numbers.
    const NEAR: u64 = 1 << 24;
    const BLANK: [u8; 4096] = [0; 4096];
    // Most of a file was never written.
    let used = segment.chunks(BLANK.len()).rposition(|chunk| *chunk != BLANK[..chunk.len()]);
    let segment = &segment[..used.map_or(0, |chunk| (chunk + 1) * BLANK.len()).min(segment.len())];
    let near = |at: usize| {
        let bytes = segment.get(at + 4..at + 12)?;
        let found = u64::from_le_bytes(bytes.try_into().ok()?);
        Some(found > number && found - number < NEAR)
    };
    (at + 1..segment.len()).any(|at| near(at) == Some(true) && matches!(frame(segment, at, key), Found::Frame(..)))
}
