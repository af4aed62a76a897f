//! A folder of copies: one folder for each, complete from the moment it has its name, never changed afterwards.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use mayfly_types::Digest;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// The optimised graph.
pub(crate) const GRAPH: &str = "model.onnx";
/// Its weights, packed; the graph names this file.
pub(crate) const WEIGHTS: &str = "weights.bin";
const MANIFEST: &str = "copy.json";
const MANIFEST_BYTES_MAX: u64 = 4096;
const DRAFT_PREFIX: &str = ".making-";
/// The second part of names in a worker's room, where there are no copies for others.
const IN_ROOM: &str = "copy";
const FORMAT: u32 = 1;
/// A graph without its weights is small; a child that writes a huge one is not to be believed.
const GRAPH_BYTES_MAX: u64 = 256 << 20;

/// What a copy's files must be like.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    graph_bytes: u64,
    graph_sha256: Digest,
    weights_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Folder {
    place: PathBuf,
    /// Library, CPU and options: the second part of every name.
    kind: String,
}

impl Folder {
    pub(super) fn open(place: &Path, version: &str, shaped_by: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(place)?;
        fs::set_permissions(place, Permissions::from_mode(0o700))?;
        // The child works in another directory.
        let place = place.canonicalize()?;
        for entry in fs::read_dir(&place)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(DRAFT_PREFIX) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let version: String =
            version.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
        let fingerprint = Digest::of(shaped_by.as_bytes()).hex();
        Ok(Self { place, kind: format!("{version}-{}", &fingerprint[..16]) })
    }

    /// The copies that were brought into a worker's room.
    pub(super) fn in_room(room: &Path) -> Self {
        Self { place: room.to_owned(), kind: IN_ROOM.to_owned() }
    }

    /// Gives `to` what this has of a copy: links to the same files.
    pub(super) fn link(&self, digest: Digest, to: &Self) -> io::Result<()> {
        let (from, to) = (self.path(digest), to.path(digest));
        if to.exists() {
            return Ok(());
        }
        let making = to.with_extension("making");
        gone(fs::remove_dir_all(&making))?;
        fs::create_dir(&making)?;
        for name in [GRAPH, WEIGHTS, MANIFEST] {
            fs::hard_link(from.join(name), making.join(name))?;
        }
        fs::rename(making, to)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.place.join(format!("{}-{}", digest.hex(), self.kind))
    }

    pub(super) fn has(&self, digest: Digest) -> bool {
        self.path(digest).exists()
    }

    /// Bytes of graph and weights, if there is a copy.
    pub(super) fn sizes(&self, digest: Digest) -> Option<(u64, u64)> {
        let folder = self.path(digest);
        Some((size_of(&folder.join(GRAPH)).ok()?, size_of(&folder.join(WEIGHTS)).ok()?))
    }

    /// The graph of a copy whose files are as its manifest says; an error says what is wrong with it.
    pub(super) fn find(&self, digest: Digest) -> io::Result<Option<PathBuf>> {
        let folder = self.path(digest);
        if !folder.exists() {
            return Ok(None);
        }
        let mut text = Vec::new();
        File::open(folder.join(MANIFEST))?.take(MANIFEST_BYTES_MAX).read_to_end(&mut text)?;
        let wanted: Manifest = serde_json::from_slice(&text)?;
        if Manifest::of(&folder)? != wanted {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its files do not fit its manifest"));
        }
        Ok(Some(folder.join(GRAPH)))
    }

    /// A folder to make a copy in, if there is room on the disk.
    pub(super) fn draft(&self, digest: Digest, weight_bytes: u64) -> io::Result<Draft> {
        let disk = rustix::fs::statvfs(&self.place)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let wanted = weight_bytes.saturating_mul(2);
        if free < wanted {
            let text = format!("the disk has {free} bytes free, and it could take {wanted}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        let folder = tempfile::Builder::new().prefix(DRAFT_PREFIX).tempdir_in(&self.place)?;
        Ok(Draft { folder, place: self.place.clone(), path: self.path(digest), weight_bytes })
    }

    /// Removes copies for other libraries, CPUs and options; gives the packages of the others.
    pub(super) fn sweep(&self) -> io::Result<Vec<Digest>> {
        let (mut digests, mut removed) = (Vec::new(), 0_u32);
        for entry in fs::read_dir(&self.place)? {
            let entry = entry?;
            let name = entry.file_name();
            // Only names of ours: what somebody else has put here stays.
            let Some((digest, kind)) = name.to_str().and_then(parse) else { continue };
            if kind == self.kind {
                digests.push(digest);
            } else {
                gone(fs::remove_dir_all(entry.path()))?;
                removed = removed.saturating_add(1);
            }
        }
        if removed > 0 {
            tracing::info!(
                copies = removed,
                "removed prepacked copies for other versions of ONNX Runtime or other CPUs"
            );
        }
        Ok(digests)
    }

    pub(super) fn remove(&self, digest: Digest) -> io::Result<()> {
        gone(fs::remove_dir_all(self.path(digest)))
    }
}

impl Manifest {
    /// What is there.
    fn of(folder: &Path) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let graph = size_of(&folder.join(GRAPH))?;
        if graph > GRAPH_BYTES_MAX {
            return Err(wrong("its graph is too large"));
        }
        let bytes = fs::read(folder.join(GRAPH))?;
        Ok(Self {
            format: FORMAT,
            graph_bytes: graph,
            graph_sha256: Digest::of(&bytes),
            weights_bytes: size_of(&folder.join(WEIGHTS))?,
        })
    }
}

/// The size of a plain file.
fn size_of(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "one of its files is not a plain file"));
    }
    Ok(metadata.len())
}

fn parse(name: &str) -> Option<(Digest, &str)> {
    let (digest, kind) = name.split_once('-')?;
    Some((format!("sha256:{digest}").parse().ok()?, kind))
}

/// Nothing to remove is as good as removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A copy being made: a folder for the child to write to, gone when dropped.
#[derive(Debug)]
pub(crate) struct Draft {
    folder: TempDir,
    place: PathBuf,
    path: PathBuf,
    weight_bytes: u64,
}

impl Draft {
    /// Where the child writes.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The most bytes one file of it may have: folding constants can make more of a model than it was.
    pub(crate) fn file_bytes_max(&self) -> u64 {
        self.weight_bytes.saturating_mul(4)
    }

    /// Gives what the child has made its name.
    pub(crate) fn keep(self) -> io::Result<()> {
        let folder = self.folder.path();
        // By their names: the child may have put other things here.
        let manifest = Manifest::of(folder)?;
        for name in [GRAPH, WEIGHTS] {
            seal(&File::open(folder.join(name))?)?;
        }
        let mut file = File::create_new(folder.join(MANIFEST))?;
        file.write_all(&serde_json::to_vec(&manifest)?)?;
        seal(&file)?;
        File::open(folder)?.sync_all()?;
        fs::rename(folder, &self.path)?;
        // The folder has another name now: nothing is left for the guard to remove.
        let _ = self.folder.keep();
        File::open(&self.place)?.sync_all()
    }
}

/// Read-only from here on, and on the disk.
fn seal(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o400))?;
    file.sync_all()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn made(folder: &Folder, digest: Digest) {
        let draft = folder.draft(digest, 1).unwrap();
        fs::write(draft.folder().join(GRAPH), b"graph").unwrap();
        fs::write(draft.folder().join(WEIGHTS), b"weights").unwrap();
        draft.keep().unwrap();
    }

    #[test]
    fn a_copy_is_there_whole_or_not_at_all() {
        let place = TempDir::new().unwrap();
        let folder = Folder::open(&place.path().join("models"), "1.31.1", "cpu").unwrap();
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        assert_eq!(folder.find(one).unwrap(), None);
        let draft = folder.draft(one, 1).unwrap();
        fs::write(draft.folder().join(GRAPH), b"graph").unwrap();
        assert!(draft.keep().is_err(), "it has no weights");
        assert!(!folder.has(one));
        made(&folder, one);
        assert!(folder.find(one).unwrap().unwrap().ends_with(GRAPH));
        // A link is not a copy, wherever it leads.
        let draft = folder.draft(two, 1).unwrap();
        fs::write(draft.folder().join(GRAPH), b"graph").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", draft.folder().join(WEIGHTS)).unwrap();
        assert!(draft.keep().is_err());
        assert_eq!(fs::read_dir(place.path().join("models")).unwrap().count(), 1, "drafts are gone");
    }

    #[test]
    fn what_does_not_fit_its_manifest_is_not_found() {
        let place = TempDir::new().unwrap();
        let folder = Folder::open(place.path(), "1.31.1", "cpu").unwrap();
        for (file, with) in [(GRAPH, &b"grapf"[..]), (GRAPH, b"longer graph"), (WEIGHTS, b"short"), (MANIFEST, b"{")] {
            let digest = Digest::of(with);
            made(&folder, digest);
            let path = folder.path(digest).join(file);
            fs::remove_file(&path).unwrap();
            assert!(folder.find(digest).is_err(), "{file} is missing");
            fs::write(&path, with).unwrap();
            assert!(folder.find(digest).is_err(), "{file} is another");
        }
    }

    #[test]
    fn a_sweep_takes_other_versions_and_leaves_strangers() {
        let place = TempDir::new().unwrap();
        let digest = Digest::of(b"one");
        for (version, cpu) in [("1.31.0", "cpu"), ("1.31.1", "other cpu"), ("1.31.1", "cpu")] {
            let folder = Folder::open(place.path(), version, cpu).unwrap();
            assert!(!folder.has(digest), "another version's or CPU's copy is not ours");
            made(&folder, digest);
        }
        fs::create_dir(place.path().join("notes")).unwrap();
        let left = place.path().join(format!("{DRAFT_PREFIX}abc"));
        fs::create_dir(&left).unwrap();
        let folder = Folder::open(place.path(), "1.31.1", "cpu").unwrap();
        assert!(!left.exists(), "a killed server's draft");
        assert_eq!(folder.sweep().unwrap(), [digest]);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "the copy and the notes");
        folder.remove(digest).unwrap();
        folder.remove(digest).unwrap();
        assert!(!folder.has(digest));
    }

    #[test]
    fn a_full_disk_gets_no_copy() {
        let place = TempDir::new().unwrap();
        let folder = Folder::open(place.path(), "1.31.1", "cpu").unwrap();
        let error = folder.draft(Digest::of(b"huge"), u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
