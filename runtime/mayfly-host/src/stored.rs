//! Compiled code at rest: one file per component and engine, beside a keyed checksum.
//!
//! Mapped code is executed as it is, so it must be what this host wrote: the key never leaves the node, and a file whose
//! checksum does not fit is not mapped. Folder and key belong to the host's user alone.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_types::Digest;
use rand::RngCore;

use crate::CodeError;

const KEY_FILE: &str = "checksum.key";
const KEY_BYTES: usize = 32;
const SCRATCH_PREFIX: &str = ".compile-";
/// Older scratch files belong to nobody: no child runs that long.
const SCRATCH_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The code folder.
pub(crate) struct Stored {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
    /// Names the engine the code was compiled for.
    engine: String,
}

impl Stored {
    /// Opens the folder, making it and its key where they are missing.
    pub(crate) fn open(folder: &Path, engine: String) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let key = match read_key(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(folder)?,
            read => read?,
        };
        sweep(folder)?;
        // The compiling child works in another directory.
        Ok(Self { folder: std::path::absolute(folder)?, key, engine })
    }

    /// The engine's compatibility.
    pub(crate) fn engine(&self) -> &str {
        &self.engine
    }

    /// Where compiling may write: on the same file system, gone when dropped.
    pub(crate) fn scratch(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new().prefix(SCRATCH_PREFIX).tempfile_in(&self.folder)
    }

    /// Whether there is code and its checksum.
    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.code_path(digest).exists() && self.sum_path(digest).exists()
    }

    /// Puts what was written to `scratch` in its place; gives back its size.
    pub(crate) fn keep(&self, digest: Digest, scratch: tempfile::NamedTempFile) -> io::Result<u64> {
        // By its path: the child may have replaced the file it was given.
        let file = File::open(scratch.path())?;
        let sum = self.sum(digest, scratch.path())?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        let mut sum_file = self.scratch()?;
        sum_file.write_all(sum.to_hex().as_bytes())?;
        sum_file.as_file().sync_all()?;
        // A crash between the two renames leaves a pair that does not fit, which is compiled again.
        scratch.persist(self.code_path(digest))?;
        sum_file.persist(self.sum_path(digest))?;
        File::open(&self.folder)?.sync_all()?;
        Ok(bytes)
    }

    /// Removes what belongs to other engines; gives the components that have code for this one.
    pub(crate) fn sweep(&self) -> io::Result<Vec<Digest>> {
        let mut digests = Vec::new();
        let mut removed = 0_u32;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            // Only names of ours: the key stays, and so does what somebody else has put here.
            let Some((digest, engine, is_code)) = name.to_str().and_then(parse) else { continue };
            if engine != self.engine {
                gone(fs::remove_file(entry.path()))?;
                removed = removed.saturating_add(1);
            } else if is_code {
                digests.push(digest);
            }
        }
        if removed > 0 {
            tracing::info!(files = removed, "removed compiled code of other engines");
        }
        Ok(digests)
    }

    /// Removes the code of a component and its checksum, if they are there.
    pub(crate) fn remove(&self, digest: Digest) -> io::Result<()> {
        gone(fs::remove_file(self.code_path(digest)))?;
        gone(fs::remove_file(self.sum_path(digest)))
    }

    /// The path of the code, once its checksum was found to fit.
    pub(crate) fn verified(&self, digest: Digest) -> Result<PathBuf, CodeError> {
        let trouble = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => CodeError::Missing,
            _ => CodeError::Host { detail: format!("reading compiled code: {error}") },
        };
        let path = self.code_path(digest);
        let mut wanted = String::new();
        let sum_file = File::open(self.sum_path(digest)).map_err(trouble)?;
        let read = sum_file.take(65).read_to_string(&mut wanted);
        let sum = self.sum(digest, &path).map_err(trouble)?;
        // `blake3::Hash` compares in constant time.
        match (read, blake3::Hash::from_hex(wanted.trim_end())) {
            (Ok(_), Ok(wanted)) if wanted == sum => Ok(path),
            _ => Err(CodeError::Damaged),
        }
    }

    /// Over the name too: one component's code must not pass for another's. Mapped: a cold call waits for this, and
    /// reading would copy it all.
    fn sum(&self, digest: Digest, code: &Path) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(self.name(digest).as_bytes()).update_mmap(code)?;
        Ok(hasher.finalize())
    }

    fn name(&self, digest: Digest) -> String {
        format!("{}-{}", digest.hex(), self.engine)
    }

    fn code_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{}.cwasm", self.name(digest)))
    }

    fn sum_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{}.sum", self.name(digest)))
    }
}

/// What a file of ours holds: the component, the engine, and whether it is code (or its checksum).
fn parse(name: &str) -> Option<(Digest, &str, bool)> {
    let (stem, extension) = name.rsplit_once('.')?;
    let (digest, engine) = stem.split_once('-')?;
    let is_code = match extension {
        "cwasm" => true,
        "sum" => false,
        _ => return None,
    };
    Some((format!("sha256:{digest}").parse().ok()?, engine, is_code))
}

/// Nothing to remove is as good as removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes what a killed host left behind.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let scratch = entry.file_name().to_string_lossy().starts_with(SCRATCH_PREFIX);
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        if scratch && age.is_some_and(|age| age > SCRATCH_AGE_MAX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read_key(folder: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let bytes = fs::read(folder.join(KEY_FILE))?;
    bytes
        .try_into()
        .map_err(|_| io::Error::other(format!("{KEY_FILE} is damaged; remove it to compile everything again")))
}

fn make_key(folder: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    rand::rng().fill_bytes(&mut key);
    let mut scratch = tempfile::Builder::new().prefix(".key-").tempfile_in(folder)?;
    scratch.write_all(&key)?;
    scratch.as_file().sync_all()?;
    // Another server may be starting on the same folder: the first key stays.
    match scratch.persist_noclobber(folder.join(KEY_FILE)) {
        Ok(_) => Ok(key),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => read_key(folder),
        Err(error) => Err(error.error),
    }
}

/// Makes sure a scratch file is private (the default of `tempfile`, held by a test).
#[cfg(test)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).expect("the file is there").permissions().mode() & 0o777
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]
    use std::fs::OpenOptions;

    use super::*;

    fn stored(folder: &Path) -> Stored {
        Stored::open(folder, "engine".to_owned()).unwrap()
    }

    fn put(stored: &Stored, digest: Digest, bytes: &[u8]) {
        let mut scratch = stored.scratch().unwrap();
        scratch.write_all(bytes).unwrap();
        assert_eq!(stored.keep(digest, scratch).unwrap(), bytes.len() as u64);
    }

    #[test]
    fn kept_and_verified() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"component");
        let code = stored(&folder.path().join("code"));
        assert!(matches!(code.verified(digest), Err(CodeError::Missing)));
        put(&code, digest, b"machine code");
        assert!(code.has(digest));
        let path = code.verified(digest).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"machine code");
    }

    #[test]
    fn the_key_outlives_the_process_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("code");
        let digest = Digest::of(b"component");
        put(&stored(&place), digest, b"machine code");
        assert!(stored(&place).verified(digest).is_ok());
        assert_eq!(mode(&place.join(KEY_FILE)), 0o600);
        assert_eq!(mode(&place), 0o700);
    }

    #[test]
    fn damage_and_exchange_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let code = stored(folder.path());
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        put(&code, one, b"machine code");
        put(&code, two, b"other code");
        // One component's pair under another's name.
        fs::copy(code.code_path(two), code.code_path(one)).unwrap();
        fs::copy(code.sum_path(two), code.sum_path(one)).unwrap();
        assert!(matches!(code.verified(one), Err(CodeError::Damaged)));
        OpenOptions::new().append(true).open(code.code_path(two)).unwrap().write_all(b"!").unwrap();
        assert!(matches!(code.verified(two), Err(CodeError::Damaged)));
        fs::write(code.sum_path(two), [0xff; 3]).unwrap();
        assert!(matches!(code.verified(two), Err(CodeError::Damaged)));
        // A checksum without the key.
        fs::write(code.sum_path(two), blake3::hash(b"other code!").to_hex().as_str()).unwrap();
        assert!(matches!(code.verified(two), Err(CodeError::Damaged)));
    }

    #[test]
    fn code_of_other_engines_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let old = Stored::open(folder.path(), "older".to_owned()).unwrap();
        put(&old, one, b"old code");
        put(&old, two, b"old code");
        let new = stored(folder.path());
        put(&new, one, b"new code");
        let foreign = ["notes.txt", "x-older.cwasm", "README", ".compile-running"];
        for name in foreign {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        assert_eq!(new.sweep().unwrap(), [one]);
        assert!(!old.has(one) && !old.has(two) && new.verified(one).is_ok());
        assert!(foreign.iter().all(|name| folder.path().join(name).exists()));
        new.remove(one).unwrap();
        new.remove(two).unwrap();
        assert!(matches!(new.verified(one), Err(CodeError::Missing)));
        assert_eq!(new.sweep().unwrap(), []);
    }

    #[test]
    fn old_scratch_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = [".compile-old", ".compile-new"].map(|name| folder.path().join(name));
        fs::write(&old, b"x").unwrap();
        fs::write(&new, b"x").unwrap();
        let time = std::time::SystemTime::now() - SCRATCH_AGE_MAX * 2;
        File::options().write(true).open(&old).unwrap().set_modified(time).unwrap();
        stored(folder.path());
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn a_damaged_key_is_said() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(KEY_FILE), b"short").unwrap();
        assert!(Stored::open(folder.path(), "engine".to_owned()).is_err());
    }
}
