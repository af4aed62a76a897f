//! What the workflows need from the crates below: compiled code and imported packages. Tests bring their own.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use mayfly_host::{CompileError, ComponentInfo, Host};
use mayfly_inference::{ImportError, ImportPolicy, Imported};
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

    fn import(&self, source: &Path, dest: &Path) -> Result<Imported, ImportError> {
        mayfly_inference::import(source, dest, &self.policy, &self.child)
    }
}
