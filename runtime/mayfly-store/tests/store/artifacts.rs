//! Uploads: complete and durable, or not there.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use mayfly_registry::{ArtifactError, Artifacts};
use mayfly_store::FileArtifacts;
use mayfly_types::Digest;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::world::stream;

fn open(root: &Path, remote: Option<Arc<dyn ObjectStore>>) -> FileArtifacts {
    FileArtifacts::open(&root.join("artifacts"), &root.join("staging"), remote).unwrap()
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn package(artifacts: &FileArtifacts, text: &str) -> std::path::PathBuf {
    let folder = artifacts.staging().join(text);
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    std::fs::write(folder.join("package.json"), text).unwrap();
    std::fs::write(folder.join("sub/weights"), vec![7; 100_000]).unwrap();
    folder
}

#[tokio::test]
async fn the_same_bytes_are_stored_once() {
    let root = tempfile::tempdir().unwrap();
    let artifacts = open(root.path(), None);
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (digest, length) = artifacts.put(stream(&bytes), 4_000_000).await.unwrap();
    assert_eq!((digest, length), (Digest::of(&bytes), 4_000_000));
    assert_eq!(artifacts.put(stream(&bytes), 4_000_000).await.unwrap(), (digest, length));
    assert_eq!(std::fs::read(artifacts.file(digest).await.unwrap()).unwrap(), bytes);
    assert_eq!(count(&artifacts.staging()), 0);
    assert!(matches!(artifacts.file(Digest::of(b"no")).await, Err(ArtifactError::Missing(_))));
    assert!(matches!(artifacts.folder(digest).await, Err(ArtifactError::Missing(_))));
    artifacts.remove(digest).await.unwrap();
    artifacts.remove(digest).await.unwrap();
    assert!(matches!(artifacts.file(digest).await, Err(ArtifactError::Missing(_))));
}

#[tokio::test]
async fn uploads_that_end_badly_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let artifacts = open(root.path(), None);
    let bytes = vec![1; 600_000];
    assert!(matches!(artifacts.put(stream(&bytes), 599_999).await, Err(ArtifactError::TooLarge { limit: 599_999 })));
    let broken = stream(&bytes).chain(futures::stream::iter([Err(ArtifactError::Incomplete)])).boxed();
    assert!(matches!(artifacts.put(broken, 1 << 30).await, Err(ArtifactError::Incomplete)));
    // The caller leaves in the middle.
    let endless = stream(&bytes).chain(futures::stream::pending::<Result<Bytes, _>>()).boxed();
    let cut = tokio::time::timeout(std::time::Duration::from_millis(100), artifacts.put(endless, 1 << 30)).await;
    assert!(cut.is_err());
    assert_eq!(count(&artifacts.staging()), 0);
    assert!(matches!(artifacts.file(Digest::of(&bytes)).await, Err(ArtifactError::Missing(_))));
    // What a killed process left behind goes at the next start.
    std::fs::write(artifacts.staging().join("put-9"), b"half").unwrap();
    package(&artifacts, "half");
    let again = open(root.path(), None);
    assert_eq!(count(&again.staging()), 0);
}

#[tokio::test]
async fn folders_are_adopted_whole() {
    let root = tempfile::tempdir().unwrap();
    let artifacts = open(root.path(), None);
    let digest = Digest::of(b"one");
    artifacts.adopt_folder(digest, package(&artifacts, "one")).await.unwrap();
    artifacts.adopt_folder(digest, package(&artifacts, "one")).await.unwrap();
    let folder = artifacts.folder(digest).await.unwrap();
    assert_eq!(std::fs::read(folder.join("package.json")).unwrap(), b"one");
    assert!(std::fs::metadata(folder.join("sub/weights")).unwrap().permissions().readonly());
    assert_eq!(folder.file_name().unwrap().to_str().unwrap(), digest.hex());
    // A link could point anywhere.
    let linked = package(&artifacts, "two");
    std::os::unix::fs::symlink("/etc/passwd", linked.join("link")).unwrap();
    assert!(artifacts.adopt_folder(Digest::of(b"two"), linked).await.is_err());
    assert!(artifacts.adopt_folder(Digest::of(b"three"), root.path().join("elsewhere")).await.is_err());
    artifacts.remove(digest).await.unwrap();
    assert!(matches!(artifacts.folder(digest).await, Err(ArtifactError::Missing(_))));
}

#[tokio::test]
async fn another_node_fetches_from_the_object_store() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, there) = (open(one.path(), Some(store.clone())), open(two.path(), Some(store.clone())));
    let bytes = vec![3; 700_000];
    let (digest, _) = here.put(stream(&bytes), 1 << 30).await.unwrap();
    assert_eq!(std::fs::read(there.file(digest).await.unwrap()).unwrap(), bytes);
    let whole = Digest::of(b"one");
    here.adopt_folder(whole, package(&here, "one")).await.unwrap();
    let folder = there.folder(whole).await.unwrap();
    assert_eq!(std::fs::read(folder.join("sub/weights")).unwrap().len(), 100_000);
    assert!(matches!(there.folder(Digest::of(b"no")).await, Err(ArtifactError::Missing(_))));

    // What the store gives is checked: another content under the same key is refused and not kept.
    let three = tempfile::tempdir().unwrap();
    let fooled = open(three.path(), Some(store.clone()));
    let hex = digest.hex();
    let key = object_store::path::Path::from(format!("files/{}/{hex}", &hex[..2]));
    object_store::ObjectStoreExt::put(&*store, &key, vec![4; 700_000].into()).await.unwrap();
    assert!(matches!(fooled.file(digest).await, Err(ArtifactError::Failed { .. })));
    assert_eq!(count(&fooled.staging()), 0);

    here.remove(digest).await.unwrap();
    here.remove(whole).await.unwrap();
    let left: Vec<_> = store.list(None).collect().await;
    assert!(left.is_empty(), "{left:?}");
}
