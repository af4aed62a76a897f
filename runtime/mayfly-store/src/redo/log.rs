//! The end of the log: where appends are written.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mayfly_ledger::Append;
use mayfly_types::RequestId;

use super::segment::{self, FRAME_BYTES, HEADER_BYTES, Header, Key};
use super::{form, io_error};
use crate::{DbError, Node, folder};

/// Bytes of a segment.
const SEGMENT_BYTES: u64 = 4 << 20;
/// Bytes of one where the disk has no room for more.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Files kept for later segments.
const SPARE_MAX: usize = 2;
/// Bytes of the buffer that are kept from one write to the next.
const BUFFER_KEPT_BYTES: usize = 256 << 10;

/// Appends go in at the end; nobody else writes to the folder.
#[derive(Debug)]
pub(crate) struct Log {
    folder: PathBuf,
    node: Node,
    /// Appends have to reach the disk.
    sync: bool,
    /// The number of the newest segment.
    segments: u64,
    /// The number of the newest append.
    newest: u64,
    current: Segment,
    /// Full segments, oldest first, with the number of the newest append in each.
    full: VecDeque<(Slot, u64)>,
    /// Files whose appends are all applied.
    spare: Vec<Slot>,
    /// Frames not yet written, and where each begins.
    buffer: Vec<u8>,
    frames: Vec<usize>,
}

#[derive(Debug)]
struct Slot {
    file: File,
    path: PathBuf,
    bytes: u64,
}

#[derive(Debug)]
struct Segment {
    slot: Slot,
    key: Key,
    /// Where the next frame goes.
    end: u64,
    /// Frames that were not acknowledged may stand behind the end: nothing more goes in.
    spoilt: bool,
    /// The next write is done and then said to have failed, as a disk can.
    #[cfg(test)]
    fails: bool,
}

impl Log {
    /// Begins a log after append `newest`, in a folder that has none.
    ///
    /// # Errors
    /// The folder cannot be written, or has no room.
    pub(crate) fn begin(folder: &Path, node: Node, newest: u64, sync: bool) -> io::Result<Self> {
        let slot = Slot::make(folder, 1, 0, sync)?;
        let current = Segment::begin(slot, node, 1, newest + 1, sync)?;
        Ok(Self {
            folder: folder.to_owned(),
            node,
            sync,
            segments: 1,
            newest,
            current,
            full: VecDeque::new(),
            spare: Vec::new(),
            buffer: Vec::new(),
            frames: Vec::new(),
        })
    }

    /// The number of the newest append.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Takes `append` up for the next [`Log::write`]; its bytes.
    ///
    /// # Errors
    /// It has no form, and is not taken up.
    pub(crate) fn add(&mut self, append: &Append) -> Result<u64, DbError> {
        let at = segment::open_frame(&mut self.buffer);
        form::write(append, &mut self.buffer).inspect_err(|_error| self.buffer.truncate(at))?;
        if self.buffer.len() - at > segment::APPEND_BYTES_MAX {
            self.buffer.truncate(at);
            return Err(DbError::Failed { detail: "an append of more than 1 GiB".to_owned() });
        }
        self.frames.push(at);
        Ok((self.buffer.len() - at) as u64)
    }

    /// Lets go of the append that was taken up last.
    pub(crate) fn unadd(&mut self) {
        if let Some(at) = self.frames.pop() {
            self.buffer.truncate(at);
        }
    }

    /// Writes what was taken up, all of it or nothing, with one write; durable when this returns. `applied`: the number
    /// of the newest append that is in the tables.
    ///
    /// # Errors
    /// The disk refused; what was taken up is let go of.
    pub(crate) fn write(&mut self, applied: u64) -> Result<(), DbError> {
        if self.frames.is_empty() {
            return Ok(());
        }
        let written = self.write_all(applied);
        if written.is_ok() {
            self.newest += self.frames.len() as u64;
        }
        self.frames.clear();
        self.buffer.clear();
        // One large answer must not hold its memory for ever.
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        written.map_err(|error| io_error(&error))
    }

    fn write_all(&mut self, applied: u64) -> io::Result<()> {
        let bytes = self.buffer.len() as u64;
        if self.current.spoilt || self.current.end + bytes > self.current.slot.bytes {
            self.next_segment(HEADER_BYTES as u64 + bytes, applied)?;
        }
        let ends = self.frames.iter().skip(1).copied().chain([self.buffer.len()]);
        for ((number, at), end) in (self.newest + 1..).zip(&self.frames).zip(ends) {
            segment::close_frame(&mut self.buffer[*at..end], number, &self.current.key);
        }
        self.current.write(&self.buffer, self.sync)
    }

    fn next_segment(&mut self, bytes: u64, applied: u64) -> io::Result<()> {
        while self.full.front().is_some_and(|(_, newest)| *newest <= applied) {
            let (slot, _) = self.full.pop_front().expect("looked at just above");
            if self.spare.len() < SPARE_MAX && slot.bytes == SEGMENT_BYTES {
                self.spare.push(slot);
            } else {
                fs::remove_file(&slot.path)?;
            }
        }
        let number = self.segments + 1;
        let fits = self.spare.iter().position(|slot| slot.bytes >= bytes);
        let slot = match fits {
            Some(place) => self.spare.swap_remove(place),
            None => Slot::make(&self.folder, number, bytes, self.sync)?,
        };
        let next = Segment::begin(slot, self.node, number, self.newest + 1, self.sync)?;
        self.segments = number;
        let full = std::mem::replace(&mut self.current, next);
        self.full.push_back((full.slot, self.newest));
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn fail_next_write(&mut self) {
        self.current.fails = true;
    }

    /// Removes the files: everything in them is applied.
    ///
    /// # Errors
    /// A file is left, which the next start finds applied.
    pub(crate) fn remove(self) -> io::Result<()> {
        let Self { current, full, spare, .. } = self;
        let mut slots = full.into_iter().map(|(slot, _)| slot).chain(spare).chain([current.slot]);
        slots.try_for_each(|slot| fs::remove_file(&slot.path))
    }
}

impl Slot {
    /// A new file of a segment's size, or what is left of the disk if that is enough for `least` bytes. It has that room, and
    /// not only says so.
    fn make(folder: &Path, number: u64, least: u64, sync: bool) -> io::Result<Self> {
        let path = folder.join(format!("{number:016}.log"));
        // One that is there was begun and given up.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let mut bytes = SEGMENT_BYTES.max(least);
        let mut made = reserve(&file, bytes);
        let smaller = SEGMENT_BYTES_MIN.max(least);
        if smaller < bytes
            && made
                .as_ref()
                .is_err_and(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
        {
            bytes = smaller;
            made = file.set_len(0).and_then(|()| reserve(&file, bytes));
        }
        let made = made.and_then(|()| if sync { folder::sync_folder(folder) } else { Ok(()) });
        if let Err(error) = made {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { file, path, bytes })
    }
}

/// Takes the room from the disk, so that a full one is noticed before an append is on its way.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        // A file system that cannot: appends then find out by themselves.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(bytes),
        other => Ok(other?),
    }
}

impl Segment {
    fn begin(slot: Slot, node: Node, number: u64, first: u64, sync: bool) -> io::Result<Self> {
        // Two ids: their time and counters besides, more random bits than a checksum here has.
        let salt = blake3::hash(&[RequestId::new().to_bytes(), RequestId::new().to_bytes()].concat());
        let header = Header { number, node, first, salt: *salt.as_bytes().first_chunk().expect("32 bytes") };
        slot.file.write_all_at(&header.write(), 0)?;
        if sync {
            slot.file.sync_all()?;
        }
        Ok(Self {
            slot,
            key: header.key(),
            end: HEADER_BYTES as u64,
            spoilt: false,
            #[cfg(test)]
            fails: false,
        })
    }

    /// Writes at the end, all or nothing.
    fn write(&mut self, frames: &[u8], sync: bool) -> io::Result<()> {
        let mut done = 0;
        let written = loop {
            match self.slot.file.write_at(&frames[done..], self.end + done as u64) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if done == frames.len() {
                break if sync { self.slot.file.sync_data() } else { Ok(()) };
            }
        };
        #[cfg(test)]
        let written = if std::mem::take(&mut self.fails) { Err(ErrorKind::Other.into()) } else { written };
        if written.is_err() && done > 0 {
            // Whole frames may stand there now, which nobody may take for acknowledged: the next segment begins with
            // their numbers, and until it does a blank says that here is the end.
            self.spoilt = true;
            let _ = self.slot.file.write_all_at(&[0; FRAME_BYTES], self.end);
            return written;
        }
        self.end += done as u64;
        written
    }
}
