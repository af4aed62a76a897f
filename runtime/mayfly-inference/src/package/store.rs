//! The package being made: a temporary folder in the store, filled file by file, that becomes the package by a rename.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_types::{Digest, Digester};
use serde::Serialize;
use tempfile::TempDir;

use super::batching::FINDING;
use super::describe::{DESCRIPTION, Description, FileRecord};
use super::import::ImportPolicy;
use super::open::Package;
use super::operators::shown;
use crate::ImportError;

const CHUNK: usize = 1 << 20;
const PREFIX: &str = ".import-";
/// An import that was killed leaves its folder; nobody's import takes this long.
const STALE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub(super) struct Staged {
    folder: TempDir,
    files: BTreeMap<String, FileRecord>,
    bytes: u64,
    bytes_max: u64,
    files_max: usize,
}

impl Staged {
    pub(super) fn new(dest: &Path, policy: &ImportPolicy) -> Result<Self, ImportError> {
        fs::create_dir_all(dest)?;
        sweep(dest);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(dest)?;
        Ok(Self {
            folder,
            files: BTreeMap::new(),
            bytes: 0,
            bytes_max: policy.package_bytes_max,
            files_max: policy.files_max,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies `from` to `path` inside the package, at most `limit` bytes, digesting on the way.
    pub(super) fn add(&mut self, path: &Path, mut from: File, limit: u64) -> Result<(), ImportError> {
        let name =
            path.to_str().ok_or_else(|| ImportError::Refused("a file's name is not UTF-8".to_owned()))?.to_owned();
        if [DESCRIPTION, FINDING].contains(&name.as_str()) {
            return Err(ImportError::Refused(format!("`{name}` is reserved for the host's own description")));
        }
        if self.files.contains_key(&name) {
            return Ok(());
        }
        if self.files.len() == self.files_max {
            return Err(ImportError::Refused(format!("the package has more than {} files", self.files_max)));
        }
        // Before the copy, so that an honest size is refused at once; the copy itself counts what really comes.
        let room = self.bytes_max - self.bytes;
        self.check_size(&name, from.metadata()?.len(), limit, room)?;
        let mut to = self.create(path)?;
        let (mut digester, mut bytes, mut chunk) = (Digester::new(), 0_u64, vec![0; CHUNK]);
        loop {
            let read = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            bytes += read as u64;
            self.check_size(&name, bytes, limit, room)?;
            digester.update(&chunk[..read]);
            to.write_all(&chunk[..read])?;
        }
        seal(&to)?;
        self.bytes += bytes;
        self.files.insert(name.clone(), FileRecord { path: name, sha256: digester.finish(), bytes });
        Ok(())
    }

    /// Adds a file of our own making, digesting on the way.
    pub(super) fn write<T>(
        &mut self,
        path: &str,
        fill: impl FnOnce(&mut Digesting) -> io::Result<T>,
    ) -> Result<T, ImportError> {
        let room = self.bytes_max - self.bytes;
        let to = self.create(Path::new(path))?;
        let mut to = Digesting { to: BufWriter::with_capacity(CHUNK, to), digester: Digester::new(), bytes: 0, room };
        let filled = fill(&mut to);
        self.check_size(path, to.bytes, u64::MAX, room)?;
        let filled = filled?;
        let Digesting { to, digester, bytes, .. } = to;
        seal(&to.into_inner().map_err(io::IntoInnerError::into_error)?)?;
        self.bytes += bytes;
        self.files.insert(path.to_owned(), FileRecord { path: path.to_owned(), sha256: digester.finish(), bytes });
        Ok(filled)
    }

    /// Takes a file out again. What is mapped of it stays mapped.
    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let Some(file) = path.to_str().and_then(|path| self.files.remove(path)) else { return Ok(()) };
        self.bytes -= file.bytes;
        fs::remove_file(self.path().join(path))
    }

    /// The size of a file that was added.
    pub(super) fn size_of(&self, path: &Path) -> Option<u64> {
        self.files.get(path.to_str()?).map(|file| file.bytes)
    }

    /// Opens a file that was added.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        File::open(self.path().join(path))
    }

    /// The whole of a file that was added, none if it was not.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> io::Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        if self.size_of(path).is_none() {
            return Ok(None);
        }
        fs::read(self.path().join(path)).map(Some)
    }

    pub(super) fn files(&self) -> Vec<FileRecord> {
        self.files.values().cloned().collect()
    }

    /// Writes the description; its digest is the package's identity.
    pub(super) fn describe(&self, description: &Description) -> Result<Digest, ImportError> {
        let text = serde_json::to_vec_pretty(description).map_err(io::Error::from)?;
        let mut file = self.create(Path::new(DESCRIPTION))?;
        file.write_all(&text)?;
        seal(&file)?;
        Ok(Digest::of(&text))
    }

    /// Writes a finding beside the files, which is no part of the package's identity.
    pub(super) fn note(&self, name: &str, finding: &impl Serialize) -> Result<(), ImportError> {
        let text = serde_json::to_vec(finding).map_err(io::Error::from)?;
        let mut file = self.create(Path::new(name))?;
        file.write_all(&text)?;
        Ok(seal(&file)?)
    }

    /// Makes the folder the package `digest` of `dest`. What is there already is the same and stays.
    pub(super) fn commit(self, dest: &Path, digest: Digest) -> Result<(), ImportError> {
        let place = dest.join(digest.hex());
        let mut folders: Vec<PathBuf> = self
            .files
            .keys()
            .filter_map(|file| Path::new(file).parent().map(|folder| self.path().join(folder)))
            .collect();
        folders.push(self.path().to_owned());
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            File::open(folder)?.sync_all()?;
        }
        match fs::rename(self.path(), &place) {
            Ok(()) => {
                // The folder has another name now: nothing is left for the guard to remove.
                let _ = self.folder.keep();
                File::open(dest)?.sync_all()?;
                Ok(())
            }
            Err(error) => match Package::open(&place) {
                Ok(_) => Ok(()),
                Err(_) => Err(error.into()),
            },
        }
    }

    fn check_size(&self, name: &str, bytes: u64, limit: u64, room: u64) -> Result<(), ImportError> {
        if bytes > limit {
            return Err(ImportError::Refused(format!("`{}` is larger than {limit} bytes", shown(name))));
        }
        if bytes > room {
            return Err(ImportError::Refused(format!("the package is larger than {} bytes", self.bytes_max)));
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let place = self.path().join(path);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        OpenOptions::new().write(true).create_new(true).open(place)
    }
}

/// A file of ours while it is written.
#[derive(Debug)]
pub(super) struct Digesting {
    to: BufWriter<File>,
    digester: Digester,
    bytes: u64,
    /// The package may take so much more; what goes beyond is an error.
    room: u64,
}

impl io::Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > self.room {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.digester.update(bytes);
        self.to.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Read-only from here on, and on the disk.
fn seal(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o444))?;
    file.sync_all()
}

fn sweep(dest: &Path) {
    let Ok(entries) = fs::read_dir(dest) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
        if ours && age.is_some_and(|age| age > STALE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
