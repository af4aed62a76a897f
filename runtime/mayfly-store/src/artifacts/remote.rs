//! Artifacts in an object store: put there when they are stored, fetched and checked when a node lacks them.
//!
//! A file is one object. A folder is its files plus, written last, a list of them with their digests: without the
//! list there is no folder, so half an upload is never seen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use futures::{StreamExt as _, TryStreamExt as _};
use mayfly_registry::ArtifactError;
use mayfly_types::Digest;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;

use super::staged::Staged;
use super::{FileArtifacts, Shape, blocking};
use crate::folder;

/// One part of an upload.
const PART_BYTES: usize = 8 << 20;
/// Parts of one upload on their way at once.
const PARTS_OPEN_MAX: usize = 4;

/// The files of a folder: path below it, digest and length.
#[derive(Debug, Serialize, Deserialize)]
struct List(BTreeMap<String, (Digest, u64)>);

fn failed(what: &str, error: impl std::fmt::Display) -> ArtifactError {
    ArtifactError::Failed { detail: format!("{what}: {error}"), unwritable: false }
}

fn file_key(digest: Digest) -> Key {
    Key::from(FileArtifacts::key(Shape::File, digest))
}

fn list_key(digest: Digest) -> Key {
    Key::from(format!("{}.json", FileArtifacts::key(Shape::Folder, digest)))
}

fn inner_key(digest: Digest, path: &str) -> Result<Key, ArtifactError> {
    Key::parse(format!("{}/{path}", FileArtifacts::key(Shape::Folder, digest)))
        .map_err(|error| failed("a file's name in the object store", error))
}

pub(super) async fn upload_file(
    store: &Arc<dyn ObjectStore>,
    digest: Digest,
    path: &Path,
) -> Result<(), ArtifactError> {
    if exists(store, &file_key(digest)).await? {
        return Ok(());
    }
    upload(store, &file_key(digest), path).await.map(|_digest| ())
}

pub(super) async fn upload_folder(
    store: &Arc<dyn ObjectStore>,
    digest: Digest,
    path: &Path,
) -> Result<(), ArtifactError> {
    if exists(store, &list_key(digest)).await? {
        return Ok(());
    }
    let root = path.to_owned();
    let files = blocking("reading a folder", move || folder::files_below(&root)).await?;
    let mut list = BTreeMap::new();
    for file in files {
        let name = file.to_str().ok_or_else(|| failed("storing a folder", "a file name is not UTF-8"))?;
        let sum = upload(store, &inner_key(digest, name)?, &path.join(&file)).await?;
        list.insert(name.to_owned(), sum);
    }
    let text = serde_json::to_vec(&List(list)).map_err(|error| failed("storing a folder", error))?;
    store.put(&list_key(digest), text.into()).await.map_err(|error| failed("storing a folder", error))?;
    Ok(())
}

async fn exists(store: &Arc<dyn ObjectStore>, key: &Key) -> Result<bool, ArtifactError> {
    match store.head(key).await {
        Ok(_meta) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(failed("asking the object store", error)),
    }
}

/// Streams a file up; visible only once it is complete.
async fn upload(store: &Arc<dyn ObjectStore>, key: &Key, path: &Path) -> Result<(Digest, u64), ArtifactError> {
    let what = "uploading to the object store";
    let mut file = tokio::fs::File::open(path).await.map_err(|error| failed(what, error))?;
    let upload = store.put_multipart(key).await.map_err(|error| failed(what, error))?;
    let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
    let mut digester = mayfly_types::Digester::new();
    let mut length = 0;
    let mut piece = BytesMut::with_capacity(PART_BYTES);
    loop {
        let read = async {
            writer.wait_for_capacity(PARTS_OPEN_MAX).await.map_err(|error| failed(what, error))?;
            piece.reserve(PART_BYTES);
            file.read_buf(&mut piece).await.map_err(|error| failed(what, error))
        };
        match read.await {
            Ok(0) => break,
            Ok(count) => length += count as u64,
            Err(error) => {
                let _ = writer.abort().await;
                return Err(error);
            }
        }
        digester.update(&piece);
        writer.put(piece.split().freeze());
    }
    writer.finish().await.map_err(|error| failed(what, error))?;
    Ok((digester.finish(), length))
}

/// Fetches an artifact into `staging`, checks it, and moves it to `path`.
pub(super) async fn fetch(
    store: &Arc<dyn ObjectStore>,
    shape: Shape,
    digest: Digest,
    staging: PathBuf,
    path: PathBuf,
) -> Result<(), ArtifactError> {
    match shape {
        Shape::File => {
            let staged = fetch_one(store, file_key(digest), staging, digest, digest, u64::MAX).await?;
            blocking("storing a fetched artifact", move || staged.settle(&path)).await
        }
        Shape::Folder => {
            let done = fetch_folder(store, digest, &staging).await;
            if done.is_err() {
                let _ = tokio::fs::remove_dir_all(&staging).await;
            }
            done?;
            blocking("storing a fetched folder", move || {
                folder::seal(&staging)?;
                folder::settle(&staging, &path).map(|_new| ())
            })
            .await
        }
    }
}

async fn fetch_folder(store: &Arc<dyn ObjectStore>, digest: Digest, staging: &Path) -> Result<(), ArtifactError> {
    let what = "reading from the object store";
    let text = match store.get(&list_key(digest)).await {
        Ok(answer) => answer.bytes().await.map_err(|error| failed(what, error))?,
        Err(object_store::Error::NotFound { .. }) => return Err(ArtifactError::Missing(digest)),
        Err(error) => return Err(failed(what, error)),
    };
    let List(files) = serde_json::from_slice(&text).map_err(|error| failed(what, error))?;
    let root = staging.to_owned();
    blocking("making a folder", move || folder::private_folder(&root)).await?;
    for (name, (sum, length)) in files {
        let relative = PathBuf::from(&name);
        if !relative.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            return Err(failed(what, "a listed path leaves its folder"));
        }
        let place = staging.join(relative);
        let parent = place.parent().unwrap_or(staging).to_owned();
        blocking("making a folder", move || folder::private_folder(&parent)).await?;
        fetch_one(store, inner_key(digest, &name)?, place, sum, digest, length).await?.keep();
    }
    Ok(())
}

/// Fetches one object, whose content must have the digest `sum`; `whole` is the artifact it belongs to.
async fn fetch_one(
    store: &Arc<dyn ObjectStore>,
    key: Key,
    place: PathBuf,
    sum: Digest,
    whole: Digest,
    limit: u64,
) -> Result<Staged, ArtifactError> {
    let what = "reading from the object store";
    let answer = match store.get(&key).await {
        Ok(answer) => answer,
        Err(object_store::Error::NotFound { .. }) => return Err(ArtifactError::Missing(whole)),
        Err(error) => return Err(failed(what, error)),
    };
    let bytes = answer.into_stream().map_err(move |error| failed(what, error)).boxed();
    let staged = Staged::write(place, bytes, limit).await?;
    if staged.digest == sum { Ok(staged) } else { Err(failed(what, "the content does not match its digest")) }
}

pub(super) async fn remove(store: &Arc<dyn ObjectStore>, digest: Digest) -> Result<(), ArtifactError> {
    let what = "removing from the object store";
    // The list first: without it there is no folder.
    let mut keys = vec![list_key(digest), file_key(digest)];
    let inner = Key::from(FileArtifacts::key(Shape::Folder, digest));
    let mut found = store.list(Some(&inner));
    while let Some(object) = found.try_next().await.map_err(|error| failed(what, error))? {
        keys.push(object.location);
    }
    for key in keys {
        match store.delete(&key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(what, error)),
        }
    }
    Ok(())
}
