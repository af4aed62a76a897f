//! Which files of this machine make a model package. What the server would refuse is refused before it is sent.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

/// The package cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file cannot be read.
    #[error("{path} could not be read")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a file, a folder, or a link to one.
    #[error("{0} is neither a file nor a folder")]
    NotAFile(PathBuf),
    /// A folder without files.
    #[error("{0} has no files in it")]
    Empty(PathBuf),
    /// Too many folders within folders: a link to itself, most likely.
    #[error("{0} has more than 16 folders within folders")]
    TooDeep(PathBuf),
}

/// Files to send.
#[derive(Debug)]
pub(crate) struct Package {
    files: Vec<PackageFile>,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
struct PackageFile {
    /// Inside the package, with `/`.
    name: String,
    path: PathBuf,
}

impl Package {
    /// Looks at `path`, off the async threads.
    pub(crate) async fn read(path: PathBuf) -> Result<Self, PackageError> {
        let place = path.clone();
        let read = tokio::task::spawn_blocking(move || Self::look(&path)).await;
        read.map_err(|error| PackageError::Io { path: place, source: io::Error::other(error) })?
    }

    fn look(path: &Path) -> Result<Self, PackageError> {
        let mut package = Self { files: Vec::new(), bytes: 0 };
        if stat(path)?.is_dir() {
            package.folder(path, "", 0)?;
        } else {
            package.file_and_its_data(path)?;
        }
        package.files.sort_by(|a, b| a.name.cmp(&b.name));
        if package.files.is_empty() { Err(PackageError::Empty(path.to_owned())) } else { Ok(package) }
    }

    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), PackageError> {
        if depth > 16 {
            return Err(PackageError::TooDeep(folder.to_owned()));
        }
        for entry in fs::read_dir(folder).map_err(|source| io_error(folder, source))? {
            let entry = entry.map_err(|source| io_error(folder, source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // `.git`, `.cache`, `.DS_Store`: no part of a model.
            if name.starts_with('.') {
                continue;
            }
            let (path, name) = (entry.path(), format!("{prefix}{name}"));
            // Follows links: model folders of download caches are made of them.
            let stat = stat(&path)?;
            if stat.is_dir() {
                self.folder(&path, &format!("{name}/"), depth + 1)?;
            } else {
                self.file(name, path, &stat)?;
            }
        }
        Ok(())
    }

    /// `model.onnx`, the files beside it that it says its tensors are in, and `model.toml`.
    fn file_and_its_data(&mut self, path: &Path) -> Result<(), PackageError> {
        let text =
            |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
        let name = text(path.file_name());
        self.file(name.clone(), path.to_owned(), &stat(path)?)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut beside = external_locations(path).map_err(|source| io_error(path, source))?;
        beside.insert("model.toml".to_owned());
        for name in beside {
            // What lies elsewhere, or is not there, the server refuses by name.
            let plain = !name.contains(['/', '\\']) && name != "..";
            let place = folder.join(&name);
            if plain && place.is_file() {
                let stat = stat(&place)?;
                self.file(name, place, &stat)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, name: String, path: PathBuf, stat: &fs::Metadata) -> Result<(), PackageError> {
        if !stat.is_file() {
            return Err(PackageError::NotAFile(path));
        }
        self.bytes = self.bytes.saturating_add(stat.len());
        self.files.push(PackageFile { name, path });
        Ok(())
    }

    /// Writes the package as a tar archive: names and bytes only, no owners and no times.
    pub(crate) fn write(&self, writer: impl Write) -> Result<(), PackageError> {
        let mut archive = tar::Builder::new(writer);
        for PackageFile { name, path } in &self.files {
            let file = fs::File::open(path).map_err(|source| io_error(path, source))?;
            let length = file.metadata().map_err(|source| io_error(path, source))?.len();
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(length);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, name, io::Read::take(file, length))
                .map_err(|source| io_error(path, source))?;
        }
        archive
            .into_inner()
            .and_then(|mut writer| writer.flush())
            .map_err(|source| io_error(Path::new("the archive"), source))
    }
}

/// How ONNX writes where a tensor's data is: a key and a value, both length-prefixed strings of a protobuf message.
const LOCATION: &[u8] = b"\x0a\x08location\x12";
/// Longer names than any file system has.
const LOCATION_BYTES_MAX: usize = 1024;

/// The files that the model in `path` says its tensors are in. Reads it piece by piece: weights may be inside.
fn external_locations(path: &Path) -> io::Result<BTreeSet<String>> {
    let mut file = fs::File::open(path)?;
    let mut found = BTreeSet::new();
    let mut window = Vec::new();
    loop {
        let kept = window.len();
        let read = io::Read::take(&mut file, 1 << 20).read_to_end(&mut window)?;
        for at in memchr::memmem::find_iter(&window, LOCATION) {
            found.extend(location(&window[at + LOCATION.len()..]));
        }
        if read == 0 {
            return Ok(found);
        }
        // A location may begin at the end of this piece.
        let overlap = (LOCATION.len() + LOCATION_BYTES_MAX + 4).min(kept + read);
        window.drain(..kept + read - overlap);
    }
}

/// A length (at most two bytes) and as many bytes of text.
fn location(bytes: &[u8]) -> Option<String> {
    let (&first, rest) = bytes.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (&second, rest) = rest.split_first()?;
        (usize::from(first & 0x7f) | usize::from(second) << 7, rest)
    };
    let text = rest.get(..length.min(LOCATION_BYTES_MAX))?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

fn stat(path: &Path) -> Result<fs::Metadata, PackageError> {
    fs::metadata(path).map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> PackageError {
    PackageError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(package: &Package) -> Vec<&str> {
        package.files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn a_folder_and_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("onnx")).unwrap();
        fs::write(folder.path().join("onnx/model.onnx"), "abc").unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        fs::write(folder.path().join(".hidden"), "x").unwrap();
        let package = Package::look(folder.path()).unwrap();
        assert_eq!(names(&package), ["config.json", "onnx/model.onnx"]);
        assert_eq!(package.bytes, 5);
        let mut archive = Vec::new();
        package.write(&mut archive).unwrap();
        let mut reader = tar::Archive::new(archive.as_slice());
        let read: Vec<String> =
            reader.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(read, ["config.json", "onnx/model.onnx"]);
    }

    #[test]
    fn a_file_and_its_data() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["weights.bin", "more.data", "model.toml", "b.onnx", "b.onnx.data", "a.txt"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        // Far into the file, and one right across the border of two pieces.
        let mut model = vec![0; (1 << 20) - 20];
        for name in ["weights.bin", "more.data", "absent.bin", "../outside"] {
            model.extend_from_slice(LOCATION);
            model.push(u8::try_from(name.len()).unwrap());
            model.extend_from_slice(name.as_bytes());
        }
        fs::write(folder.path().join("a.onnx"), model).unwrap();
        let package = Package::look(&folder.path().join("a.onnx")).unwrap();
        assert_eq!(names(&package), ["a.onnx", "model.toml", "more.data", "weights.bin"]);
    }

    #[test]
    fn what_cannot_be_sent() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Package::look(folder.path()), Err(PackageError::Empty(_))));
        assert!(matches!(Package::look(&folder.path().join("none")), Err(PackageError::Io { .. })));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
            assert!(matches!(Package::look(folder.path()), Err(PackageError::TooDeep(_))));
        }
    }
}
