//! Prepacked copies: for each model and this node, the optimised graph with its weights packed for this CPU in a file
//! that sessions map. A session on a copy runs faster, loads faster, and shares its weights through the page cache.
//!
//! A copy is a by-product of an import, or made in the background when a model was loaded without one; the work happens
//! in a child process (`package/probe.rs`). A worker finds those that the server has brought into its room. Which session
//! runs on which file is decided in [`crate::session`] and [`crate::residency`]; nothing here fails a load or an import.

mod cpu;
mod folder;
mod maker;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mayfly_types::Digest;

use self::folder::Folder;
use self::maker::Queue;
use crate::package::ChildLimits;
use crate::{Config, RuntimeInfo};

pub(crate) use self::folder::{Draft, GRAPH, WEIGHTS};
pub(crate) use self::maker::Order;

/// Below this a copy saves nothing that anybody would notice.
const WEIGHT_BYTES_MIN: u64 = 1 << 20;
/// Weights smaller than this stay inside the copy's graph.
pub(crate) const EXTERNAL_BYTES_MIN: u64 = 1024;
/// What else shapes a copy, beside library and CPU. Change it with the way copies are made.
const SHAPED_BY: &str = "copy 1, CPU provider, all optimisations, device-allocated initializers, external from 1024";

/// Where prepacked copies are kept, and what making one may take.
#[derive(Debug, Clone)]
pub struct CopySettings {
    /// On this node, never shared, and only for this; made if it is not there.
    pub folder: PathBuf,
    /// The binary that is its own limited child (`__probe-model`).
    pub child: PathBuf,
    /// Time for making one.
    pub timeout: Duration,
    /// Memory for making one.
    pub bytes_max: u64,
}

/// The prepacked copies of this node. Clones share them.
#[derive(Debug, Clone)]
pub struct Copies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: Folder,
    /// None where copies are somebody else's: used as they are found, and never made or removed.
    making: Option<Making>,
    /// False: none is used or made, and those there are can still be removed.
    enabled: bool,
    /// Packages whose copy was made, tried or found damaged: not tried again before the next start.
    tried: Mutex<HashSet<Digest>>,
    queue: Queue,
}

/// What makes copies.
#[derive(Debug)]
struct Making {
    settings: CopySettings,
    ort_dylib: PathBuf,
}

impl Making {
    /// What the child may take.
    fn limits(&self) -> ChildLimits<'_> {
        let Self { settings, ort_dylib } = self;
        ChildLimits { timeout: settings.timeout, bytes_max: settings.bytes_max, ort_dylib: Some(ort_dylib) }
    }
}

impl Copies {
    /// Opens the folder; what earlier starts left half-made goes.
    pub(crate) fn open(settings: CopySettings, config: &Config, library: &RuntimeInfo) -> io::Result<Self> {
        let cpu = cpu::fingerprint();
        if cpu.is_none() && config.prepack {
            tracing::info!("no prepacked copies of models: the system does not tell what CPU this is");
        }
        let enabled = config.prepack && cpu.is_some();
        let shaped_by = format!("{SHAPED_BY}\n{}\n{}", library.providers.join(","), cpu.unwrap_or_default());
        let folder = Folder::open(&settings.folder, &library.version, &shaped_by)?;
        let making = Some(Making { settings, ort_dylib: library.dylib.clone() });
        Ok(Self(Arc::new(Inner { folder, making, enabled, tried: Mutex::default(), queue: Queue::default() })))
    }

    /// Those that were brought into `room`, for the worker whose room it is.
    pub(crate) fn in_room(room: &Path) -> Self {
        let (folder, tried, queue) = (Folder::in_room(room), Mutex::default(), Queue::default());
        Self(Arc::new(Inner { folder, making: None, enabled: true, tried, queue }))
    }

    /// Brings the copy of package `digest` into `room`, as links, if there is one. Blocking.
    ///
    /// # Errors
    /// What the file system said. There is none in the room then.
    pub(crate) fn bring(&self, digest: Digest, room: &Path) -> io::Result<()> {
        match self.find(digest) {
            Some(_) => self.0.folder.link(digest, &Folder::in_room(room)),
            None => Ok(()),
        }
    }

    fn tried(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.0.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether copies of weights of this size are made here.
    fn makes(&self, weight_bytes: u64) -> bool {
        self.0.enabled && self.0.making.is_some() && weight_bytes >= WEIGHT_BYTES_MIN
    }

    /// Whether a copy of package `digest` would be used: a damaged one that cannot be removed is not looked at again.
    fn uses(&self, digest: Digest) -> bool {
        self.0.enabled && (self.0.making.is_some() || !self.tried().contains(&digest))
    }

    /// The graph of the copy of package `digest`, if there is one that fits its manifest; one that does not is removed.
    pub(crate) fn find(&self, digest: Digest) -> Option<PathBuf> {
        if !self.uses(digest) {
            return None;
        }
        match self.0.folder.find(digest) {
            Ok(found) => found,
            Err(why) => {
                self.discard(digest, &why.to_string());
                None
            }
        }
    }

    /// Bytes of the graph and of the weights of package `digest`'s copy, if there is one to use.
    pub(crate) fn sizes(&self, digest: Digest) -> Option<(u64, u64)> {
        self.uses(digest).then(|| self.0.folder.sizes(digest))?
    }

    /// Whether a copy of package `digest` will be made once it is loaded: there is none, and none was tried.
    pub(crate) fn will_make(&self, digest: Digest, weight_bytes: u64) -> bool {
        self.makes(weight_bytes) && !self.tried().contains(&digest) && !self.0.folder.has(digest)
    }

    /// Whether there is a copy of package `digest`. Whether it can be used shows when it is loaded.
    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.uses(digest) && self.0.folder.has(digest)
    }

    /// Removes a copy that cannot be used. Another one is made after the next start at the earliest.
    pub(crate) fn discard(&self, digest: Digest, why: &str) {
        tracing::warn!(model = %digest, why, "a prepacked copy cannot be used; the package itself is loaded");
        self.tried().insert(digest);
        if self.0.making.is_none() {
            return;
        }
        if let Err(error) = self.0.folder.remove(digest) {
            tracing::warn!(model = %digest, ?error, "the prepacked copy could not be removed");
        }
    }

    /// A copy to be made of package `digest`, unless there is one, one was tried, or it is not worth it.
    pub(crate) fn begin(&self, digest: Digest, weight_bytes: u64) -> Option<Draft> {
        if !self.makes(weight_bytes) || self.0.folder.has(digest) {
            return None;
        }
        if !self.tried().insert(digest) {
            return None;
        }
        let draft = self.0.folder.draft(digest, weight_bytes);
        draft.map_err(|why| tracing::info!(model = %digest, %why, "no prepacked copy is made")).ok()
    }

    /// The packages that have a copy for this library and CPU; copies for others are removed first. Blocking.
    ///
    /// # Errors
    /// What the file system said.
    pub fn stored(&self) -> io::Result<Vec<Digest>> {
        self.0.folder.sweep()
    }

    /// Removes the copy of a package, if there is one. What is mapped stays mapped. Blocking.
    ///
    /// # Errors
    /// What the file system said.
    pub fn remove(&self, digest: Digest) -> io::Result<()> {
        // An import of the same package later is a new attempt.
        self.tried().remove(&digest);
        self.0.folder.remove(digest)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn copies(folder: &Path) -> Copies {
        let (folder, timeout) = (folder.to_owned(), Duration::from_secs(1));
        let settings = CopySettings { folder, child: "/nowhere".into(), timeout, bytes_max: 1 << 20 };
        let library = RuntimeInfo { version: "1".to_owned(), dylib: "/nowhere".into(), providers: Vec::new() };
        Copies::open(settings, &Config::default(), &library).unwrap()
    }

    #[test]
    fn a_room_has_links_to_copies_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (copies, room) = (copies(folder.path()), tempfile::tempdir().unwrap());
        let (there, other) = (Digest::of(b"there"), Digest::of(b"other"));
        let draft = copies.begin(there, WEIGHT_BYTES_MIN).unwrap();
        fs::write(draft.folder().join(GRAPH), b"graph").unwrap();
        fs::write(draft.folder().join(WEIGHTS), b"weights").unwrap();
        draft.keep().unwrap();

        for digest in [there, other, there] {
            copies.bring(digest, room.path()).unwrap();
        }
        let brought = Copies::in_room(room.path());
        let inode = |graph: PathBuf| fs::metadata(graph.with_file_name(WEIGHTS)).unwrap().ino();
        let (graph, ours) = (brought.find(there).unwrap(), copies.find(there).unwrap());
        assert_eq!(inode(graph.clone()), inode(ours), "nothing is copied");
        assert_eq!(brought.sizes(there), Some((5, 7)));
        assert_eq!((brought.find(other), brought.sizes(other)), (None, None));
        assert!(!brought.will_make(other, u64::MAX) && brought.begin(other, u64::MAX).is_none());

        // One that cannot be used is left alone, and not tried again.
        brought.discard(there, "it does not load");
        assert!(graph.exists() && copies.has(there));
        assert_eq!((brought.find(there), brought.has(there)), (None, false));
    }
}
