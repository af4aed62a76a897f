//! The data folder: one server at a time, private, and as it was after a restart.

use std::os::unix::fs::PermissionsExt as _;

use mayfly_registry::*;
use mayfly_store::{Store, StoreError};

use crate::world::World;

#[tokio::test]
async fn a_second_server_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { pid: Some(pid) } if pid == std::process::id()), "{error}");
    assert!(error.to_string().contains("in use by another server"), "{error}");
    store.close().await;
    let again = Store::open(folder.path()).unwrap();
    assert!(matches!(store.records().tenants().await, Err(RecordsError::Failed { .. })));
    again.close().await;
}

#[tokio::test]
async fn everything_is_private() {
    let world = World::new();
    let project = world.project("p").await;
    world.deploy(&project, "d", b"component").await.unwrap();
    let mut open = vec![world.folder.path().to_owned()];
    let mut files = 0;
    while let Some(folder) = open.pop() {
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700, "{folder:?}");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            files += 1;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            let wanted = if path.starts_with(world.folder.path().join("artifacts")) { 0o400 } else { 0o600 };
            assert_eq!(mode, wanted, "{path:?}");
        }
    }
    assert!(files >= 4, "{files} files");
}

#[tokio::test]
async fn a_restart_finds_everything() {
    let world = World::new();
    let secret = world.control.bootstrap().await.unwrap().expect("the first start makes an admin key");
    assert!(world.control.bootstrap().await.unwrap().is_none());
    let project = world.store.records().project_named("default").await.unwrap().unwrap();
    let deployed = world.deploy(&project, "d", b"component").await.unwrap();
    let (node, version) = (world.store.node(), world.store.records().version().await.unwrap());
    world.store.close().await;

    let store = Store::open(world.folder.path()).unwrap();
    let records = store.records();
    assert_eq!((store.node().id, store.node().boot), (node.id, node.boot + 1));
    assert_eq!(records.version().await.unwrap(), version);
    let key = records.key_hashed(&hash_secret(secret.expose())).await.unwrap().unwrap();
    assert_eq!(key.scopes, [KeyScope::Admin]);
    assert_eq!(records.deployment_named(project.id, "d").await.unwrap(), Some(deployed.deployment));
    let file = store.artifacts().file(deployed.revision.spec.handler.digest).await.unwrap();
    assert_eq!(std::fs::read(file).unwrap(), b"component");
    // The secret itself is nowhere in the folder.
    for file in ["mayfly.db", "mayfly.db-wal"] {
        let bytes = std::fs::read(world.folder.path().join(file)).unwrap_or_default();
        assert!(!bytes.windows(secret.expose().len()).any(|window| window == secret.expose().as_bytes()));
    }
}

#[tokio::test]
async fn damaged_and_foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("mayfly.db"),
        b"not a database at all, but long enough to be read as one".repeat(50),
    )
    .unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Database(_))));
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("node")).unwrap();
    std::fs::write(folder.path().join("node/id"), b"short").unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Io { what: "node/id", .. })));
}
