//! A stored package, opened.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use mayfly_types::Digest;

use super::batching::RunBatching;
use super::describe::{DESCRIPTION, Description, FORMAT};
use super::info::ModelInfo;
use crate::chat::Prompter;
use crate::generation::Vocabulary;
use crate::residency::Weights;
use crate::session::{CopySource, JoinRules, Joint};
use crate::tokenizer::Loaded;
use crate::{PackageError, Tensor};

const DESCRIPTION_BYTES_MAX: u64 = 64 << 20;

/// A stored package, opened: its description, and its tokenizer once somebody asks for it.
#[derive(Debug)]
pub struct Package {
    digest: Digest,
    folder: Arc<Path>,
    weight_bytes: u64,
    description: Description,
    batching: RunBatching,
    join: Option<Arc<JoinRules>>,
    pub(crate) tokenizer: OnceLock<Loaded>,
    /// What chats are made with, or why they cannot be.
    pub(crate) prompter: OnceLock<Result<Prompter, String>>,
    pub(crate) vocabulary: Vocabulary,
}

impl Package {
    /// Reads the description of the package in `folder` (made by [`crate::import`]). Reads no weights, but looks that
    /// every file is there in its size.
    ///
    /// # Errors
    /// [`PackageError`].
    pub fn open(folder: &Path) -> Result<Self, PackageError> {
        let mut text = Vec::new();
        File::open(folder.join(DESCRIPTION))?.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut text)?;
        let digest = Digest::of(&text);
        // A folder that carries a digest as its name must keep what the name says.
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.len() == 64 && name != digest.hex() {
            return Err(PackageError::Damaged("the description does not match the digest".to_owned()));
        }
        let mut description: Description = serde_json::from_slice(&text).map_err(|error| {
            PackageError::Damaged(format!("the description cannot be read (line {})", error.line()))
        })?;
        if description.format != FORMAT {
            return Err(PackageError::Damaged(format!("format {} is not known here", description.format)));
        }
        for file in &description.files {
            let metadata = fs::symlink_metadata(folder.join(&file.path))?;
            if !metadata.is_file() || metadata.len() != file.bytes {
                return Err(PackageError::Damaged("a file has another size than the description says".to_owned()));
            }
        }
        let weight_bytes = description.weight_bytes();
        let batching = RunBatching::read(folder).checked(&description);
        let join = batching.rules(&description.info);
        batching.tell(&mut description.info);
        Ok(Self {
            digest,
            folder: folder.into(),
            weight_bytes,
            description,
            batching,
            join,
            tokenizer: OnceLock::new(),
            prompter: OnceLock::new(),
            vocabulary: Vocabulary::default(),
        })
    }

    /// The package's identity.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it is.
    pub fn info(&self) -> &ModelInfo {
        &self.description.info
    }

    /// Whether runs of different callers share runs of the graph.
    pub fn batching(&self) -> &RunBatching {
        &self.batching
    }

    /// How a run with these inputs can be joined with others, if it can.
    pub(crate) fn joint(&self, inputs: &[(String, Tensor)]) -> Option<Joint> {
        super::batching::joint(self.info(), self.join.as_ref()?, inputs)
    }

    /// Whether how much there is to do in a run follows from the sizes of its inputs.
    pub(crate) fn is_steady(&self) -> bool {
        self.description.steady
    }

    /// Everything that was resolved at import.
    pub(crate) fn description(&self) -> &Description {
        &self.description
    }

    /// The `.onnx` file to load.
    pub(crate) fn graph_path(&self) -> PathBuf {
        self.folder.join(&self.description.graph)
    }

    /// What a prepacked copy is made of.
    pub(crate) fn copy_source(&self) -> CopySource {
        CopySource { folder: Arc::clone(&self.folder), weight_bytes: self.weight_bytes }
    }

    /// Sizes of what a session is made of.
    pub(crate) fn weights(&self) -> Weights {
        let graph = self.description.files.iter().find(|file| file.path == self.description.graph);
        let graph = graph.map_or(0, |file| file.bytes);
        Weights { graph, beside: self.weight_bytes.saturating_sub(graph) }
    }

    /// Every file of the package, its description first: where it is, and its name within the package.
    pub(crate) fn files(&self) -> impl Iterator<Item = (PathBuf, &str)> {
        let names = self.description.files.iter().map(|file| file.path.as_str());
        std::iter::once(DESCRIPTION).chain(names).map(|name| (self.folder.join(name), name))
    }

    /// Where a file of the package is.
    pub(crate) fn file_path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
