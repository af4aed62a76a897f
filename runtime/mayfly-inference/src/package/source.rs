//! The folder an import reads from: plain files only, reached without following any link.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::operators::shown;
use crate::ImportError;

const ENTRIES_MAX: usize = 10_000;

/// Where a model comes from.
#[derive(Debug)]
pub(super) struct Source {
    root: OwnedFd,
    /// The `.onnx` file, relative to the root.
    pub(super) graph: PathBuf,
    /// Files beside a plain `.onnx` belong to it only if it names them; those of a folder belong to the model.
    pub(super) is_folder: bool,
    /// Names at the top of the folder, sorted.
    names: Vec<String>,
}

impl Source {
    /// Opens `path`, an `.onnx` file or a folder with one.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => refused("there is no file or folder of that name"),
            _ => ImportError::Io(error),
        })?;
        let is_folder = metadata.is_dir();
        let (folder, file) = if is_folder {
            (path, None)
        } else {
            let name = path.file_name().ok_or_else(|| refused("the model is not a file"))?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            (folder, Some(PathBuf::from(name)))
        };
        // What the operator names may be reached through links; nothing below it may.
        let root = rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
            .map_err(std::io::Error::from)?;
        let names = if is_folder { list(folder)? } else { Vec::new() };
        let graph = match file {
            Some(file) => file,
            None => choose(folder, &names)?,
        };
        match graph.extension().and_then(|extension| extension.to_str()) {
            Some("onnx") => Ok(Self { root, graph, is_folder, names }),
            Some("ort") => Err(refused("files of the `.ort` format cannot be checked; import the original `.onnx`")),
            _ => Err(refused("a model is an `.onnx` file, or a folder with `model.onnx` or `onnx/model.onnx`")),
        }
    }

    /// Opens a plain file below the root; none if there is nothing of that name.
    pub(super) fn file(&self, path: &Path) -> Result<Option<File>, ImportError> {
        let name = shown(&path.to_string_lossy());
        let parts: Vec<_> = path.components().collect();
        let mut folder: Option<OwnedFd> = None;
        for (at, part) in parts.iter().enumerate() {
            let Component::Normal(part) = part else {
                return Err(ImportError::Refused(format!("`{name}` leaves the package")));
            };
            let base = folder.as_ref().unwrap_or(&self.root);
            // NONBLOCK: opening a pipe must not wait for its other end.
            let mut flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            if at + 1 < parts.len() {
                flags |= OFlags::DIRECTORY;
            }
            match openat(base, *part, flags, Mode::empty()) {
                Ok(next) => folder = Some(next),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => return Err(not_plain(&name)),
                Err(other) => return Err(std::io::Error::from(other).into()),
            }
        }
        let file = File::from(folder.ok_or_else(|| refused("an empty path names no file"))?);
        if file.metadata()?.is_file() { Ok(Some(file)) } else { Err(not_plain(&name)) }
    }

    /// The files of a folder that describe the model; weights are found through the graph.
    pub(super) fn side_files(&self) -> Vec<PathBuf> {
        if !self.is_folder {
            return Vec::new();
        }
        let kept = |name: &&String| {
            let extension = name.rsplit_once('.').map(|(_, extension)| extension);
            // `package.json` is the name of our own description.
            !name.starts_with('.')
                && *name != "package.json"
                && (matches!(extension, Some("json" | "txt" | "jinja" | "model" | "toml"))
                    || name.starts_with("LICENSE"))
        };
        let mut files: Vec<_> = self.names.iter().filter(kept).map(PathBuf::from).collect();
        // The modules of a sentence-transformers model: `1_Pooling`, `2_Dense`, `2_Normalize`.
        let module = |name: &&String| {
            name.split_once('_').is_some_and(|(number, _)| number.len() < 3 && number.parse::<u8>().is_ok())
        };
        files.extend(self.names.iter().filter(module).map(|name| Path::new(name).join("config.json")));
        if let Some(beside) = self.graph.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            files.push(beside.join("config.json"));
        }
        files
    }

    /// Where a `model.toml` may be, best first.
    pub(super) fn overrides(&self) -> Vec<PathBuf> {
        if self.is_folder {
            vec!["model.toml".into()]
        } else {
            vec![self.graph.with_extension("toml"), "model.toml".into()]
        }
    }
}

fn refused(text: &str) -> ImportError {
    ImportError::Refused(text.to_owned())
}

fn not_plain(name: &str) -> ImportError {
    ImportError::Refused(format!(
        "`{name}` is a link or a special file, or lies behind one; import a copy with plain files (`cp -rL` makes one)"
    ))
}

fn list(folder: &Path) -> Result<Vec<String>, ImportError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        if names.len() == ENTRIES_MAX {
            return Err(ImportError::Refused(format!("the folder has more than {ENTRIES_MAX} entries")));
        }
        // A name that is not text cannot be one we keep.
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

fn choose(folder: &Path, names: &[String]) -> Result<PathBuf, ImportError> {
    let has = |path: &str| std::fs::symlink_metadata(folder.join(path)).is_ok();
    if let Some(usual) = ["model.onnx", "onnx/model.onnx"].into_iter().find(|path| has(path)) {
        return Ok(usual.into());
    }
    let graphs: Vec<_> = names.iter().filter(|name| name.ends_with(".onnx")).collect();
    match graphs[..] {
        [only] => Ok(only.into()),
        [] if names.iter().any(|name| name.ends_with(".ort")) => {
            Err(refused("files of the `.ort` format cannot be checked; import the original `.onnx`"))
        }
        [] => Err(refused("the folder has no `model.onnx` and no `onnx/model.onnx`; export the model to ONNX first")),
        _ => Err(ImportError::Refused(format!(
            "the folder has {} `.onnx` files and none is `model.onnx`; name the one to import",
            graphs.len()
        ))),
    }
}
