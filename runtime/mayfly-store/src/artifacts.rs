//! [`Artifacts`] as read-only files named by their digest, in a folder of this node.
//!
//! The folder alone is the embedded store: a file's own path is what [`Artifacts::file`] gives, nothing is copied.
//! With an object store beside it (S3-compatible, through `object_store`) the folder is this node's cache of it:
//! what is stored goes there too, and what is not here yet is fetched, checked against its digest, and kept.
//! Uploads are written to the staging folder first and get their name when they are complete and durable.

mod remote;
mod staged;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mayfly_registry::{ArtifactError, Artifacts};
use mayfly_types::Digest;
use object_store::ObjectStore;

use crate::error::artifact_error;
use crate::folder;
use staged::Staged;

/// Artifacts in a folder, with or without an object store behind it. Clones share it.
#[derive(Debug, Clone)]
pub struct FileArtifacts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    staging: PathBuf,
    remote: Option<Arc<dyn ObjectStore>>,
    next: AtomicU64,
}

/// A component is a file, a model package a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    File,
    Folder,
}

impl FileArtifacts {
    /// Uses `root`, made if it is not there, and `staging` on the same file system, which is emptied.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(root: &Path, staging: &Path, remote: Option<Arc<dyn ObjectStore>>) -> std::io::Result<Self> {
        folder::private_folder(root)?;
        folder::private_folder(staging)?;
        folder::empty_folder(staging)?;
        let inner = Inner { root: root.to_owned(), staging: staging.to_owned(), remote, next: AtomicU64::new(0) };
        Ok(Self(Arc::new(inner)))
    }

    /// Where an artifact lies below the root, and its key in an object store.
    fn key(shape: Shape, digest: Digest) -> String {
        let hex = digest.hex();
        let kind = if shape == Shape::File { "files" } else { "folders" };
        format!("{kind}/{}/{hex}", &hex[..2])
    }

    fn path(&self, shape: Shape, digest: Digest) -> PathBuf {
        self.0.root.join(Self::key(shape, digest))
    }

    /// A new name in the staging folder.
    fn fresh(&self) -> PathBuf {
        self.0.staging.join(format!("put-{}", self.0.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// The path of an artifact that is on this node after this call.
    async fn here(&self, shape: Shape, digest: Digest) -> Result<PathBuf, ArtifactError> {
        let path = self.path(shape, digest);
        let there = blocking("looking for an artifact", {
            let path = path.clone();
            move || path.try_exists()
        });
        if there.await? {
            return Ok(path);
        }
        match &self.0.remote {
            None => Err(ArtifactError::Missing(digest)),
            Some(store) => {
                remote::fetch(store, shape, digest, self.fresh(), path.clone()).await?;
                Ok(path)
            }
        }
    }
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ArtifactError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| artifact_error(what, &error)),
        Err(error) => Err(ArtifactError::Failed { detail: format!("{what}: {error}"), unwritable: false }),
    }
}

#[async_trait]
impl Artifacts for FileArtifacts {
    async fn put(
        &self,
        bytes: BoxStream<'static, Result<Bytes, ArtifactError>>,
        limit: u64,
    ) -> Result<(Digest, u64), ArtifactError> {
        let staged = Staged::write(self.fresh(), bytes, limit).await?;
        let (digest, length) = (staged.digest, staged.length);
        if let Some(store) = &self.0.remote {
            remote::upload_file(store, digest, staged.path()).await?;
        }
        let path = self.path(Shape::File, digest);
        blocking("storing an upload", move || staged.settle(&path)).await?;
        Ok((digest, length))
    }

    async fn file(&self, digest: Digest) -> Result<PathBuf, ArtifactError> {
        self.here(Shape::File, digest).await
    }

    async fn adopt_folder(&self, digest: Digest, folder: PathBuf) -> Result<(), ArtifactError> {
        if !folder.starts_with(&self.0.staging) {
            let detail = "the folder is not below the staging folder".to_owned();
            return Err(ArtifactError::Failed { detail, unwritable: false });
        }
        let sealed = folder.clone();
        blocking("sealing a folder", move || folder::seal(&sealed)).await?;
        if let Some(store) = &self.0.remote {
            remote::upload_folder(store, digest, &folder).await?;
        }
        let path = self.path(Shape::Folder, digest);
        blocking("storing a folder", move || folder::settle(&folder, &path)).await.map(|_new| ())
    }

    async fn folder(&self, digest: Digest) -> Result<PathBuf, ArtifactError> {
        self.here(Shape::Folder, digest).await
    }

    async fn remove(&self, digest: Digest) -> Result<(), ArtifactError> {
        if let Some(store) = &self.0.remote {
            remote::remove(store, digest).await?;
        }
        let (file, folder) = (self.path(Shape::File, digest), self.path(Shape::Folder, digest));
        let going = self.fresh();
        blocking("removing an artifact", move || {
            if file.try_exists()? {
                std::fs::remove_file(&file)?;
            }
            if folder.try_exists()? {
                // First out of sight in one step: half a package must not be found by its name.
                std::fs::rename(&folder, &going)?;
                std::fs::remove_dir_all(&going)?;
            }
            Ok(())
        })
        .await
    }

    fn staging(&self) -> PathBuf {
        self.0.staging.clone()
    }
}
