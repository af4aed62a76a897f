//! Unpacks an uploaded model (a tar archive) into a folder of its own.
//!
//! Only plain files and folders with harmless names come out; everything else an archive can hold is refused before
//! anything is written for it. What the files contain is for the import to judge.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use mayfly_types::RequestId;
use tar::{Archive, EntryType};
use tokio::sync::mpsc;

use crate::ArtifactError;

/// Bytes of one file's path in the archive.
const PATH_BYTES_MAX: usize = 512;
/// Folders inside each other.
const DEPTH_MAX: usize = 8;
/// Bytes of an extended header.
const EXTENSION_BYTES_MAX: u64 = 16 * 1024;
/// Headers, padding and folders beside the files' content, for each file allowed.
const OVERHEAD_BYTES: u64 = 4 * EXTENSION_BYTES_MAX;
/// Pieces of the upload waiting to be unpacked.
const PIECES_WAITING_MAX: usize = 8;
/// What may follow the archive's end (padding); more is refused.
const TRAILING_BYTES_MAX: usize = 1 << 20;

/// What an uploaded model may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Bytes of all files.
    pub bytes_max: u64,
    /// Files and folders.
    pub files_max: u32,
}

/// An upload was not unpacked; nothing is left of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It is not an archive, or holds something that is not allowed.
    #[error("the model archive was refused: {0}")]
    Refused(String),
    /// Longer than a limit.
    #[error("the model is larger than {0}")]
    TooLarge(String),
    /// The sender broke off.
    #[error("the upload ended early")]
    Incomplete,
    /// Our own disk.
    #[error("the upload could not be stored")]
    Failed {
        /// For the log.
        detail: String,
        /// Whether the disk is full or read-only.
        unwritable: bool,
    },
}

/// Unpacks `archive` into a new folder below `staging` and returns it. Removed again if anything is wrong, also if
/// the caller stops waiting.
///
/// # Errors
/// [`UnpackError`].
pub async fn unpack_model(
    mut archive: BoxStream<'static, Result<Bytes, ArtifactError>>,
    staging: &Path,
    limits: UnpackLimits,
) -> Result<PathBuf, UnpackError> {
    let (pieces, queue) = mpsc::channel(PIECES_WAITING_MAX);
    let folder = staging.join(format!("model-{}", RequestId::new()));
    let work = tokio::task::spawn_blocking(move || unpack_or_remove(queue, folder, limits));
    let mut trailing = 0_usize;
    let mut overlong = false;
    while let Some(piece) = archive.next().await {
        let length = piece.as_ref().map_or(0, Bytes::len);
        let broken = piece.is_err();
        if pieces.send(piece).await.is_err() {
            // Unpacked (or refused) already: what comes now can only be padding.
            trailing = trailing.saturating_add(length);
            overlong = trailing > TRAILING_BYTES_MAX;
        }
        if overlong || broken {
            break;
        }
    }
    drop(pieces);
    let done =
        work.await.unwrap_or_else(|error| Err(UnpackError::Failed { detail: error.to_string(), unwritable: false }));
    match done {
        Ok(folder) if overlong => {
            let _ = tokio::fs::remove_dir_all(&folder).await;
            Err(UnpackError::Refused("more follows after its end".to_owned()))
        }
        done => done,
    }
}

type Piece = Result<Bytes, ArtifactError>;

fn unpack_or_remove(
    queue: mpsc::Receiver<Piece>,
    folder: PathBuf,
    limits: UnpackLimits,
) -> Result<PathBuf, UnpackError> {
    let overhead = OVERHEAD_BYTES.saturating_mul(u64::from(limits.files_max).saturating_add(1));
    let left = limits.bytes_max.saturating_add(overhead);
    let mut pieces = Pieces { queue, piece: Bytes::new(), left, fault: None };
    let made = DirBuilder::new().mode(0o700).create(&folder);
    let done = made.map_err(Stop::Disk).and_then(|()| Unpacking::new(&folder, limits).all(&mut pieces));
    let error = match (done, pieces.fault) {
        (Ok(()), None) => return Ok(folder),
        // The fault of the stream explains whatever the archive reader made of it.
        (_, Some(Fault::Incomplete)) => UnpackError::Incomplete,
        (_, Some(Fault::TooLong)) => UnpackError::TooLarge(limits.text()),
        (Err(Stop::Model(error)), None) => error,
        (Err(Stop::Archive(error)), None) => {
            UnpackError::Refused(format!("it is not a complete tar archive ({error})"))
        }
        (Err(Stop::Disk(error)), None) => UnpackError::Failed {
            detail: error.to_string(),
            unwritable: matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
            ),
        },
    };
    let _ = fs::remove_dir_all(&folder);
    Err(error)
}

impl UnpackLimits {
    fn text(self) -> String {
        format!("model_bytes_max = {} or model_files_max = {}", self.bytes_max, self.files_max)
    }
}

/// Why unpacking stopped.
enum Stop {
    Model(UnpackError),
    Archive(io::Error),
    Disk(io::Error),
}

fn refused(text: impl Into<String>) -> Stop {
    Stop::Model(UnpackError::Refused(text.into()))
}

/// What was wrong with the stream itself.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Incomplete,
    TooLong,
}

/// The upload as a reader, for the blocking side.
struct Pieces {
    queue: mpsc::Receiver<Piece>,
    piece: Bytes,
    left: u64,
    fault: Option<Fault>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.queue.blocking_recv() {
                None => return Ok(0),
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(_)) => {
                    self.fault = Some(Fault::Incomplete);
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        let count = self.piece.len().min(buffer.len());
        let Some(left) = self.left.checked_sub(count as u64) else {
            self.fault = Some(Fault::TooLong);
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        self.left = left;
        self.piece.split_to(count).copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

struct Unpacking<'a> {
    folder: &'a Path,
    limits: UnpackLimits,
    bytes: u64,
    entries: u32,
    files: u32,
    /// A path from an extended header, for the entry that follows.
    long_path: Option<Vec<u8>>,
}

impl<'a> Unpacking<'a> {
    fn new(folder: &'a Path, limits: UnpackLimits) -> Self {
        Self { folder, limits, bytes: 0, entries: 0, files: 0, long_path: None }
    }

    fn all(mut self, pieces: &mut Pieces) -> Result<(), Stop> {
        let mut archive = Archive::new(pieces);
        // Raw: the reader's own handling of extended headers allocates what they ask for.
        for entry in archive.entries().map_err(Stop::Archive)?.raw(true) {
            let mut entry = entry.map_err(Stop::Archive)?;
            self.entries = self.entries.saturating_add(1);
            // A file may have an extended header or two.
            if self.entries > self.limits.files_max.saturating_mul(3) {
                return Err(self.too_large());
            }
            self.one(&mut entry)?;
        }
        if self.files == 0 { Err(refused("it holds no files")) } else { Ok(()) }
    }

    fn too_large(&self) -> Stop {
        Stop::Model(UnpackError::TooLarge(self.limits.text()))
    }

    fn one(&mut self, entry: &mut tar::Entry<'_, &mut Pieces>) -> Result<(), Stop> {
        let size = entry.header().entry_size().map_err(Stop::Archive)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let mut path = extension(entry, size)?;
                while path.last() == Some(&0) {
                    path.pop();
                }
                self.long_path = Some(path);
                Ok(())
            }
            EntryType::XHeader => {
                let text = extension(entry, size)?;
                self.extended(&text)
            }
            // Comments for the whole archive (git writes one).
            EntryType::XGlobalHeader => extension(entry, size).map(|_text| ()),
            EntryType::Regular | EntryType::Continuous => {
                let path = self.path(entry)?;
                self.file(&path, entry, size)
            }
            EntryType::Directory => {
                let path = self.path(entry)?;
                self.directory(&path)
            }
            EntryType::Symlink | EntryType::Link => {
                Err(refused(format!("it holds a link, `{}`; put the file itself there", shown(&entry.path_bytes()))))
            }
            other => Err(refused(format!(
                "`{}` is neither a file nor a folder (tar type {})",
                shown(&entry.path_bytes()),
                char::from(other.as_byte()).escape_default()
            ))),
        }
    }

    /// A pax header: only a path and notes that change nothing are accepted.
    fn extended(&mut self, text: &[u8]) -> Result<(), Stop> {
        for pair in tar::PaxExtensions::new(text) {
            let pair = pair.map_err(Stop::Archive)?;
            let key = pair.key_bytes();
            match key {
                b"path" => self.long_path = Some(pair.value_bytes().to_vec()),
                b"mtime" | b"atime" | b"ctime" | b"uid" | b"gid" | b"uname" | b"gname" | b"comment" => {}
                other if other.starts_with(b"SCHILY.") || other.starts_with(b"LIBARCHIVE.") => {}
                other => return Err(refused(format!("the extended header `{}` is not supported", shown(other)))),
            }
        }
        Ok(())
    }

    fn path(&mut self, entry: &tar::Entry<'_, &mut Pieces>) -> Result<PathBuf, Stop> {
        let bytes = self.long_path.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        checked_path(&bytes).map_err(|why| refused(format!("the path `{}` {why}", shown(&bytes))))
    }

    fn directory(&mut self, path: &Path) -> Result<(), Stop> {
        let mut folder = self.folder.to_owned();
        for part in path {
            folder.push(part);
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(refused(format!("`{}` is a file and a folder", path.display())));
                }
                Err(error) => return Err(Stop::Disk(error)),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, entry: &mut tar::Entry<'_, &mut Pieces>, size: u64) -> Result<(), Stop> {
        self.files = self.files.saturating_add(1);
        self.bytes = self.bytes.saturating_add(size);
        if self.files > self.limits.files_max || self.bytes > self.limits.bytes_max {
            return Err(self.too_large());
        }
        if path.as_os_str().is_empty() {
            return Err(refused("a file has no name"));
        }
        self.directory(path.parent().unwrap_or(Path::new("")))?;
        let place = self.folder.join(path);
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(place) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(refused(format!("`{}` is there twice", path.display())));
            }
            Err(error) => return Err(Stop::Disk(error)),
        };
        copy(entry, &mut file, size)
    }
}

/// Copies exactly `size` bytes, and tells the archive's faults from the disk's.
fn copy(entry: &mut impl Read, file: &mut fs::File, size: u64) -> Result<(), Stop> {
    let mut buffer = vec![0; 256 * 1024];
    let mut left = size;
    while left > 0 {
        let count = entry.read(&mut buffer).map_err(Stop::Archive)?;
        if count == 0 {
            return Err(Stop::Archive(io::ErrorKind::UnexpectedEof.into()));
        }
        io::Write::write_all(file, &buffer[..count]).map_err(Stop::Disk)?;
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

fn extension(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, Stop> {
    if size > EXTENSION_BYTES_MAX {
        return Err(refused("an extended header is too long"));
    }
    let mut text = Vec::new();
    entry.take(size).read_to_end(&mut text).map_err(Stop::Archive)?;
    Ok(text)
}

/// A path below the folder, in plain parts; empty for the folder itself.
fn checked_path(bytes: &[u8]) -> Result<PathBuf, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_error| "is not UTF-8")?;
    if text.len() > PATH_BYTES_MAX {
        return Err("is too long");
    }
    if text.starts_with('/') {
        return Err("is absolute; make the archive with relative paths");
    }
    if text.chars().any(|c| c.is_control() || c == '\\') {
        return Err("has a control character or a backslash");
    }
    let mut path = PathBuf::new();
    let mut depth = 0;
    for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err("leaves the archive");
        }
        depth += 1;
        path.push(part);
    }
    if depth > DEPTH_MAX { Err("is nested too deep") } else { Ok(path) }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).escape_debug().to_string()
}

#[cfg(test)]
mod tests;
