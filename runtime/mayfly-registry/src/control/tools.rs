//! What the workflows need from the crates below: compiled code, imported packages and copies of them. Tests bring their own.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use mayfly_host::{CompileError, ComponentInfo, Host};
use mayfly_inference::{Copies, ImportError, ImportPolicy, Imported};
use mayfly_types::Digest;

/// The heavy work of the workflows.
#[async_trait]
pub trait Tools: Send + Sync + std::fmt::Debug {
    /// Whether compiled code is stored.
    fn has_code(&self, digest: Digest) -> bool;
    /// Checks the component in the file `wasm`, compiles it and stores the code under `digest`.
    ///
    /// # Errors
    /// [`CompileError`]; nothing is stored.
    async fn compile(&self, wasm: &Path, digest: Digest) -> Result<ComponentInfo, CompileError>;
    /// Components whose compiled code is stored on this node; code that fits another engine is removed first.
    ///
    /// # Errors
    /// What the file system said.
    async fn stored_code(&self) -> std::io::Result<Vec<Digest>>;
    /// Removes stored code, if there is any. What is mapped stays mapped.
    ///
    /// # Errors
    /// What the file system said.
    async fn remove_code(&self, digest: Digest) -> std::io::Result<()>;
    /// Models that have a prepacked copy on this node; copies for another ONNX Runtime or CPU are removed first.
    ///
    /// # Errors
    /// What the file system said.
    async fn stored_copies(&self) -> std::io::Result<Vec<Digest>>;
    /// Removes the prepacked copy of a model, if there is one. What is mapped stays mapped.
    ///
    /// # Errors
    /// What the file system said.
    async fn remove_copy(&self, digest: Digest) -> std::io::Result<()>;
    /// Checks the model at `source` and stores it as `dest/<digest in hexadecimal digits>`. Blocking.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is left in `dest`.
    fn import(&self, source: &Path, dest: &Path) -> Result<Imported, ImportError>;
}

/// The real ones.
#[derive(Debug)]
pub(super) struct HostTools {
    pub(super) host: Host,
    pub(super) policy: ImportPolicy,
    pub(super) child: PathBuf,
}

impl HostTools {
    /// Works on the folder of copies off the async threads; without one there is nothing in it.
    async fn with_copies<T: Default + Send + 'static>(
        &self,
        work: impl FnOnce(&Copies) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let Some(copies) = self.policy.copies.clone() else { return Ok(T::default()) };
        let done = tokio::task::spawn_blocking(move || work(&copies)).await;
        done.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }
}

#[async_trait]
impl Tools for HostTools {
    fn has_code(&self, digest: Digest) -> bool {
        self.host.has_code(digest)
    }

    async fn compile(&self, wasm: &Path, digest: Digest) -> Result<ComponentInfo, CompileError> {
        self.host.compile(wasm, digest).await
    }

    async fn stored_code(&self) -> std::io::Result<Vec<Digest>> {
        self.host.stored_code().await
    }

    async fn remove_code(&self, digest: Digest) -> std::io::Result<()> {
        self.host.remove_code(digest).await
    }

    async fn stored_copies(&self) -> std::io::Result<Vec<Digest>> {
        self.with_copies(|copies| copies.stored()).await
    }

    async fn remove_copy(&self, digest: Digest) -> std::io::Result<()> {
        self.with_copies(move |copies| copies.remove(digest)).await
    }

    fn import(&self, source: &Path, dest: &Path) -> Result<Imported, ImportError> {
        mayfly_inference::import(source, dest, &self.policy, &self.child)
    }
}
