//! The one folder that a worker can read: its tenant's packages and their prepacked copies, as links to the files the
//! server keeps.
//!
//! Links to the same files (hard links): nothing is copied, all processes share the pages, and what a worker may open is
//! decided by which folder a file is in. Packages come into a room while its worker runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mayfly_types::Digest;
use tempfile::TempDir;

use crate::{Copies, Package};

/// A folder of one process. Gone when dropped.
#[derive(Debug)]
pub(super) struct Room {
    folder: TempDir,
    /// What packages may come with.
    copies: Option<Copies>,
}

impl Room {
    /// An empty one below `folder`, its name beginning with `name`. Packages come with their copies among `copies`.
    pub(super) fn new(folder: &Path, name: &str, copies: Option<Copies>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        // What the worker is told must be what the kernel finds.
        let folder = tempfile::Builder::new().prefix(name).tempdir_in(folder.canonicalize()?)?;
        Ok(Self { folder, copies })
    }

    /// Removes what processes of an earlier start left below `folder`.
    pub(super) fn sweep(folder: &Path) -> io::Result<()> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Lets the worker see `package`. Nothing if it does already. Blocking.
    pub(super) fn bring(&self, package: &Package) -> io::Result<()> {
        let to = place(self.path(), package.digest());
        if to.exists() {
            return Ok(());
        }
        // Whole or not at all, under its name.
        let making = self.path().join(format!("making-{}", package.digest().hex()));
        match fs::remove_dir_all(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(&making)?;
        for (from, name) in package.files() {
            let target = making.join(name);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::hard_link(from, target)?;
        }
        if let Some(copies) = &self.copies
            && let Err(error) = copies.bring(package.digest(), self.path())
        {
            // The package gives the same, and takes longer and more memory to load.
            tracing::warn!(model = %package.digest(), %error, "a worker goes without a prepacked copy");
        }
        fs::rename(making, to)
    }
}

/// Where a package is in a room.
pub(super) fn place(room: &Path, package: Digest) -> PathBuf {
    room.join(package.hex())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_room_has_links_to_a_packages_files_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (stored, _kept) = crate::package::tests::stored(&crate::package::tests::fixture("embedder"));
        let rooms = folder.path().join("rooms");
        let room = Room::new(&rooms, "t", None).unwrap();
        assert_ne!(Room::new(&rooms, "t", None).unwrap().path(), room.path());
        room.bring(&stored).unwrap();
        room.bring(&stored).unwrap();
        let there = Package::open(&place(room.path(), stored.digest())).unwrap();
        assert_eq!(there.digest(), stored.digest());
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&there.graph_path()), inode(&stored.graph_path()), "nothing is copied");
        let graph = stored.graph_path();
        drop(room);
        assert_eq!(fs::read_dir(&rooms).unwrap().count(), 0);
        assert!(graph.exists());
        Room::sweep(&rooms).unwrap();
        Room::sweep(&rooms).unwrap();
        assert!(!rooms.exists());
    }
}
