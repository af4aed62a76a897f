//! What calls read: true at once on this node, within a bound on others, and bounded in memory.

use std::time::{Duration, Instant};

use mayfly_registry::*;

use crate::world::{World, call_key, name};

#[tokio::test]
async fn a_revoked_key_is_dead_at_once() {
    let world = World::new();
    let project = world.project("p").await;
    let directory = world.control.directory().await.unwrap();
    let request = KeyRequest { expires_at: Some(i64::MAX), ..call_key(&project) };
    let (key, secret) = world.control.create_key(request).await.unwrap();
    assert_eq!(directory.key(secret.expose(), 5).await.unwrap().unwrap().id, key.id);
    assert!(directory.key(secret.expose(), i64::MAX).await.unwrap().is_none(), "expired");
    assert!(directory.key("mf_wrong", 5).await.unwrap().is_none());
    assert!(directory.key(SecretKey::generate().expose(), 5).await.unwrap().is_none());
    world.control.revoke_key(key.id).await.unwrap();
    assert!(directory.key(secret.expose(), 5).await.unwrap().is_none());
}

#[tokio::test]
async fn what_another_node_changes_is_seen_within_the_bound() {
    let world = World::new();
    let project = world.project("p").await;
    let directory = world.control.directory().await.unwrap();
    let (key, secret) = world.control.create_key(call_key(&project)).await.unwrap();
    assert!(directory.key(secret.expose(), 5).await.unwrap().is_some());
    // Past this node's control: as another node would.
    world.store.records().revoke_key(key.id, 7).await.unwrap();
    let began = Instant::now();
    while directory.key(secret.expose(), 5).await.unwrap().is_some() {
        assert!(began.elapsed() < Duration::from_millis(REVOCATION_BOUND_MS), "still alive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_is_not_answered_from_memory_for_long() {
    let world = World::new();
    let project = world.project("p").await;
    let directory = world.control.directory().await.unwrap();
    let (_key, secret) = world.control.create_key(call_key(&project)).await.unwrap();
    assert!(directory.key(secret.expose(), 5).await.unwrap().is_some());
    world.store.close().await;
    assert!(directory.key(secret.expose(), 5).await.unwrap().is_some(), "within the bound memory is good enough");
    tokio::time::sleep(Duration::from_millis(REVOCATION_BOUND_MS + 100)).await;
    assert!(directory.key(secret.expose(), 5).await.is_err());
}

#[tokio::test]
async fn a_call_gets_the_newest_revision() {
    let world = World::new();
    let (ours, _theirs) = (world.project("ours").await, world.project("theirs").await);
    let directory = world.control.directory().await.unwrap();
    assert!(directory.resolve("ours", "d").await.unwrap().is_none());
    let first = world.deploy(&ours, "d", b"one").await.unwrap();
    let resolved = directory.resolve("ours", "d").await.unwrap().unwrap();
    assert_eq!((resolved.revision.id, resolved.project.id), (first.revision.id, ours.id));
    world.deploy(&ours, "d", b"two").await.unwrap();
    assert_eq!(directory.resolve("ours", "d").await.unwrap().unwrap().revision.number, 2);
    world.control.rollback(&first.deployment, Some(1)).await.unwrap();
    assert_eq!(directory.resolve("ours", "d").await.unwrap().unwrap().revision.number, 1);
    // Nothing of it is reachable under another project, nor under names that are none.
    for (project, deployment) in
        [("theirs", "d"), ("ours", "e"), ("nobody", "d"), ("ours", "../d"), ("", ""), ("OURS", "d")]
    {
        assert!(directory.resolve(project, deployment).await.unwrap().is_none(), "{project}/{deployment}");
    }
    assert_eq!(directory.names(&ours, 10).await.unwrap(), [name("d")]);
    world.control.delete(&first.deployment).await.unwrap();
    assert!(directory.resolve("ours", "d").await.unwrap().is_none());
    assert_eq!(directory.names(&ours, 10).await.unwrap(), []);
}

/// Writes and reads race; a reader may see old or new, but never old after the write has returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_load_overtaken_by_a_write_is_never_kept() {
    let world = World::new();
    let project = world.project("p").await;
    let directory = world.control.directory().await.unwrap();
    world.deploy(&project, "d", b"zero").await.unwrap();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let directory = directory.clone();
            tokio::spawn(async move {
                let mut newest = 0;
                loop {
                    let number = directory.resolve("p", "d").await.unwrap().unwrap().revision.number;
                    assert!(number >= newest, "went back from {newest} to {number}");
                    newest = number;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for number in 1..60_u8 {
        let deployed = world.deploy(&project, "d", &[number]).await.unwrap();
        let seen = directory.resolve("p", "d").await.unwrap().unwrap();
        assert_eq!(seen.revision.number, deployed.revision.number);
    }
    for reader in readers {
        assert!(!reader.is_finished(), "a reader failed");
        reader.abort();
    }
}

#[tokio::test]
async fn memory_is_bounded_and_given_back() {
    let config =
        Config { deployments_cached_max: 8, keys_cached_max: 8, idle_ms: 300, poll_ms: 50, ..Config::default() };
    let world = World::with(config);
    let project = world.project("p").await;
    let directory = world.control.directory().await.unwrap();
    for number in 0..40 {
        world.deploy(&project, &format!("d{number}"), b"same").await.unwrap();
        assert!(directory.resolve("p", &format!("d{number}")).await.unwrap().is_some());
        assert!(directory.resolve("p", &format!("unknown{number}")).await.unwrap().is_none());
        assert!(directory.key(SecretKey::generate().expose(), 5).await.unwrap().is_none());
    }
    tokio::time::sleep(Duration::from_millis(120)).await;
    let stats = directory.stats();
    assert!((1..=8).contains(&stats.deployments), "{stats:?}");
    assert_eq!(stats.keys, 0, "unknown keys must not be remembered");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(directory.stats(), DirectoryStats::default());
    // It wakes again.
    assert!(directory.resolve("p", "d7").await.unwrap().is_some());
}
