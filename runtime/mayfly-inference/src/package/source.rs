//! The folder an import reads from: plain files only, reached without following any link.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::external::confined;
use super::operators::shown;
use crate::ImportError;

const ENTRIES_MAX: usize = 10_000;
const GENAI_BYTES_MAX: u64 = 1 << 20;

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
        let mut source = Self { root, graph: PathBuf::new(), is_folder, names };
        source.graph = match file {
            Some(file) => file,
            None => match source.named_by_genai()? {
                Some(graph) => graph,
                None => choose(folder, &source.names)?,
            },
        };
        match source.graph.extension().and_then(|extension| extension.to_str()) {
            Some("onnx") => Ok(source),
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

    /// The decoder that `genai_config.json` names, in a folder of ORT-GenAI.
    fn named_by_genai(&self) -> Result<Option<PathBuf>, ImportError> {
        const NAME: &str = "genai_config.json";
        let Some(file) = self.file(Path::new(NAME))? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(GENAI_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > GENAI_BYTES_MAX {
            return Err(ImportError::Refused(format!("`{NAME}` is larger than {GENAI_BYTES_MAX} bytes")));
        }
        let config: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| ImportError::Refused(format!("`{NAME}` is not JSON: {error}")))?;
        let Some(name) = config.pointer("/model/decoder/filename").and_then(serde_json::Value::as_str) else {
            return Ok(None);
        };
        let graph = confined(name).map_err(|_| {
            ImportError::Refused(format!("`{NAME}` names `{}`, no path inside the folder", shown(name)))
        })?;
        if self.file(&graph)?.is_none() {
            return Err(ImportError::Refused(format!("`{NAME}` names `{}`, which is missing", shown(name))));
        }
        Ok(Some(graph))
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
    refuse_merged(names)?;
    match graphs[..] {
        [only] => Ok(only.into()),
        [] if names.iter().any(|name| name.ends_with(".ort")) => {
            Err(refused("files of the `.ort` format cannot be checked; import the original `.onnx`"))
        }
        [] if names.iter().any(|name| name == "onnx") => in_onnx(&folder.join("onnx")),
        [] => Err(refused("the folder has no `model.onnx` and no `onnx/model.onnx`; export the model to ONNX first")),
        _ => Err(ImportError::Refused(format!(
            "the folder has {} `.onnx` files and none is `model.onnx`; name the one to import",
            graphs.len()
        ))),
    }
}

/// The only model in the folder `onnx` of a repository, if none there has the usual name.
fn in_onnx(folder: &Path) -> Result<PathBuf, ImportError> {
    if !std::fs::symlink_metadata(folder)?.is_dir() {
        return Err(not_plain("onnx"));
    }
    let mut names = list(folder)?;
    names.retain(|name| name.ends_with(".onnx"));
    refuse_merged(&names)?;
    match &names[..] {
        [only] => Ok(Path::new("onnx").join(only)),
        [] => Err(refused("the folder `onnx` has no `.onnx` file")),
        several => Err(ImportError::Refused(format!(
            "the folder `onnx` has {} `.onnx` files and none is `model.onnx`; keep the one to import",
            several.len()
        ))),
    }
}

/// One file with two decoders in it is not what anybody here can run; another export of the same model is.
fn refuse_merged(names: &[String]) -> Result<(), ImportError> {
    match names.iter().find(|name| name.starts_with("decoder_model_merged")) {
        None => Ok(()),
        Some(merged) => Err(ImportError::Refused(format!(
            "`{}` holds two decoders, between which `use_cache_branch` chooses; export the model with `--task \
             text-generation-with-past`, which gives one plain `model.onnx`",
            shown(merged)
        ))),
    }
}
