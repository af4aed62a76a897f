//! The seam files are kept behind: components and model packages by digest. `object_store` implements it.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mayfly_types::Digest;

/// An artifact could not be stored or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArtifactError {
    /// Longer than the limit; nothing was stored.
    #[error("longer than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The sender broke off; nothing was stored.
    #[error("the upload ended early")]
    Incomplete,
    /// There is none of that digest.
    #[error("there is no artifact {0}")]
    Missing(Digest),
    /// No room, no permission, or another trouble of the store.
    #[error("the artifact store could not be used")]
    Failed {
        /// For the log.
        detail: String,
        /// Whether the disk is full or read-only.
        unwritable: bool,
    },
}

/// Stored files and folders, by digest.
#[async_trait]
pub trait Artifacts: Send + Sync + std::fmt::Debug {
    /// Streams one file in, at most `limit` bytes, and stores it under its digest. The same bytes twice are stored
    /// once. A process killed in the middle leaves nothing but a temporary file that the next start removes.
    ///
    /// # Errors
    /// [`ArtifactError`].
    async fn put(
        &self,
        bytes: BoxStream<'static, Result<Bytes, ArtifactError>>,
        limit: u64,
    ) -> Result<(Digest, u64), ArtifactError>;

    /// The file on this node, fetched first if the store is elsewhere.
    ///
    /// # Errors
    /// [`ArtifactError`].
    async fn file(&self, digest: Digest) -> Result<PathBuf, ArtifactError>;

    /// Takes over a folder that was made under [`Artifacts::staging`] (a model package).
    ///
    /// # Errors
    /// [`ArtifactError`].
    async fn adopt_folder(&self, digest: Digest, folder: PathBuf) -> Result<(), ArtifactError>;

    /// The folder on this node, fetched first if the store is elsewhere.
    ///
    /// # Errors
    /// [`ArtifactError`].
    async fn folder(&self, digest: Digest) -> Result<PathBuf, ArtifactError>;

    /// Removes a file or a folder nobody refers to any more.
    ///
    /// # Errors
    /// [`ArtifactError`].
    async fn remove(&self, digest: Digest) -> Result<(), ArtifactError>;

    /// A place on this node, on the same file system, for work in progress; emptied at start.
    fn staging(&self) -> PathBuf;
}
