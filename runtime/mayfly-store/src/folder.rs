//! The data folder: its lock, its modes, and moves that are complete or have not happened.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::StoreError;

/// Held by the server that works on the folder; let go when dropped, or when the process dies.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { what: "its lock file", source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let read = (&mut file).take(20).read_to_string(&mut text);
                return Err(StoreError::InUse { pid: read.ok().and_then(|_bytes| text.trim().parse().ok()) });
            }
            Err(error) => return Err(io(error.into())),
        }
        // Only for the message of the next one; the lock itself is the kernel's.
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(io)?;
        Ok(Self { _file: file })
    }
}

/// Makes a folder only we can enter; one that is there is closed to others.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Makes a file only we can read, if it is not there.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Removes all that is in a folder, of whatever kind.
pub(crate) fn empty_folder(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Gives a finished file or folder its name, durably. False if the name is taken: then `from` is removed instead.
pub(crate) fn settle(from: &Path, to: &Path) -> io::Result<bool> {
    let parent = to.parent().ok_or(io::ErrorKind::InvalidInput)?;
    private_folder(parent)?;
    let folder = fs::symlink_metadata(from)?.is_dir();
    let taken = match fs::symlink_metadata(to) {
        Ok(_there) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::rename(from, to) {
            Ok(()) => false,
            // Somebody else was faster: names are digests, so theirs is the same.
            Err(_) if to.exists() => true,
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    if taken {
        if folder {
            fs::remove_dir_all(from)?
        } else {
            fs::remove_file(from)?
        }
        return Ok(false);
    }
    sync_folder(parent)?;
    if let Some(above) = parent.parent() {
        sync_folder(above)?;
    }
    Ok(true)
}

/// Every regular file below `folder`, as paths relative to it, sorted. Anything else but folders is an error.
pub(crate) fn files_below(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                found.push(path.strip_prefix(folder).expect("below it").to_owned());
            } else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the folder holds a link or a special file"));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Makes every file of a finished folder durable and read-only.
pub(crate) fn seal(folder: &Path) -> io::Result<()> {
    for path in files_below(folder)? {
        seal_file(&File::open(folder.join(&path))?)?;
        let parent = folder.join(&path);
        sync_folder(parent.parent().unwrap_or(folder))?;
    }
    sync_folder(folder)
}

/// Makes a finished file durable and read-only.
pub(crate) fn seal_file(file: &File) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(0o400))?;
    file.sync_all()
}
