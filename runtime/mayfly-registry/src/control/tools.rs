//! What the workflows need from the crates below: compiled code, imported packages and copies of them. Tests bring their own.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use mayfly_host::{CompileError, ComponentInfo, Host};
use mayfly_inference::{Copies, ImportError, ImportPolicy, Imported};
use mayfly_types::{DeploymentId, Digest};

/// What a node makes of an artifact for itself, kept under the artifact's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Derived {
    /// Compiled code of a component.
    Code,
    /// The prepacked copy of a model.
    Copy,
}

impl Derived {
    pub(super) const ALL: [Self; 2] = [Self::Code, Self::Copy];

    /// For the log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Code => "compiled code",
            Self::Copy => "prepacked copies of models",
        }
    }
}

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
    /// Artifacts of which this node keeps something derived; what fits another engine, another ONNX Runtime or CPU is
    /// removed first.
    ///
    /// # Errors
    /// What the file system said.
    async fn stored(&self, derived: Derived) -> std::io::Result<Vec<Digest>>;
    /// Removes what was derived of an artifact, if there is any. What is mapped stays mapped.
    ///
    /// # Errors
    /// What the file system said.
    async fn remove(&self, derived: Derived, digest: Digest) -> std::io::Result<()>;
    /// The deployment has changed or is gone: what this node keeps of it between calls must go.
    fn changed(&self, deployment: DeploymentId);
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

    async fn stored(&self, derived: Derived) -> std::io::Result<Vec<Digest>> {
        match derived {
            Derived::Code => self.host.stored_code().await,
            Derived::Copy => self.with_copies(|copies| copies.stored()).await,
        }
    }

    async fn remove(&self, derived: Derived, digest: Digest) -> std::io::Result<()> {
        match derived {
            Derived::Code => self.host.remove_code(digest).await,
            Derived::Copy => self.with_copies(move |copies| copies.remove(digest)).await,
        }
    }

    fn changed(&self, deployment: DeploymentId) {
        self.host.forget_instances(deployment);
    }

    fn import(&self, source: &Path, dest: &Path) -> Result<Imported, ImportError> {
        mayfly_inference::import(source, dest, &self.policy, &self.child)
    }
}
