//! Keys bound to deployments, a deployment's own two keys, and when keys were last used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use mayfly_registry::*;
use mayfly_types::*;
use tokio::sync::RwLock;

use crate::world::{World, call_key};

#[tokio::test]
async fn a_key_is_bound_only_to_deployments_in_its_reach() {
    let world = World::new();
    let (ours, theirs) = (world.project("ours").await, world.project("theirs").await);
    let mine = world.deploy(&ours, "d", b"one").await.unwrap().deployment;
    let other = world.deploy(&theirs, "d", b"one").await.unwrap().deployment;
    let gone = world.deploy(&ours, "gone", b"one").await.unwrap().deployment;
    world.control.delete(&gone).await.unwrap();
    let make = |deployments: &[DeploymentId], change: fn(&mut KeyRequest)| {
        let mut request = KeyRequest { deployments: deployments.to_vec(), ..call_key(&ours) };
        change(&mut request);
        let control = world.control.clone();
        async move { control.create_key(request).await }
    };
    let (key, _secret) = make(&[mine.id, mine.id], |_same| {}).await.unwrap();
    assert_eq!(key.deployments, [mine.id]);
    assert!(key.names(mine.id) && !key.names(other.id));
    let (key, _secret) = make(&[mine.id], |request| request.project = None).await.unwrap();
    assert_eq!(world.store.records().key(key.id).await.unwrap().unwrap(), key);
    for deployment in [other.id, gone.id, DeploymentId::new()] {
        for change in [|_same: &mut KeyRequest| {}, |request: &mut KeyRequest| request.project = None] {
            let refused = make(&[mine.id, deployment], change).await;
            assert!(matches!(refused, Err(ControlError::NotFound("deployment"))), "{refused:?}");
        }
    }
    let deploys = make(&[mine.id], |request| request.scopes.push(KeyScope::Deploy)).await;
    assert!(matches!(&deploys, Err(ControlError::Invalid(text)) if text.contains("`deployments`")), "{deploys:?}");
    let many: Vec<_> = (0..101).map(|_| DeploymentId::new()).collect();
    assert!(matches!(make(&many, |_same| {}).await, Err(ControlError::Invalid(_))));
    let expired = make(&[], |request| request.expires_at = Some(1)).await;
    assert!(matches!(&expired, Err(ControlError::Invalid(text)) if text.contains("`expires_at`")), "{expired:?}");
}

#[tokio::test]
async fn a_slot_is_made_anew_and_the_other_lives() {
    let world = World::new();
    let project = world.project("p").await;
    let deployment = world.deploy(&project, "d", b"one").await.unwrap().deployment;
    let directory = world.control.directory().await.unwrap();
    let lives = |secret: SecretKey| {
        let directory = directory.clone();
        async move { directory.key(secret.expose(), 5).await.unwrap().is_some() }
    };
    let (primary, first) = world.control.rotate_key(&deployment, Slot::Primary).await.unwrap();
    let (secondary, second) = world.control.rotate_key(&deployment, Slot::Secondary).await.unwrap();
    assert_eq!(primary.slot, Some((deployment.id, Slot::Primary)));
    assert_eq!(
        (primary.deployments.as_slice(), primary.scopes.as_slice()),
        (&[deployment.id][..], &[KeyScope::Call][..])
    );
    assert_eq!((primary.tenant, primary.project), (Some(project.tenant), Some(project.id)));
    assert!(lives(first.clone()).await && lives(second.clone()).await);

    let limits = LevelLimits { requests_per_minute: Some(60), ..LevelLimits::default() };
    world.control.set_limits(LevelId::Key(primary.id), &limits).await.unwrap();
    let (anew, third) = world.control.rotate_key(&deployment, Slot::Primary).await.unwrap();
    assert_eq!((anew.id, &*anew.limits), (primary.id, &limits), "what it used and may use goes on");
    assert_ne!(anew.prefix, primary.prefix);
    assert!(!lives(first).await && lives(second.clone()).await && lives(third.clone()).await);
    let listed = world.store.records().slot_keys(deployment.id).await.unwrap();
    assert_eq!(listed, [anew.clone(), secondary]);

    // One that was revoked stays so; its slot gets another key, with the same limits.
    world.control.revoke_key(anew.id).await.unwrap();
    assert!(!lives(third.clone()).await);
    let (another, fourth) = world.control.rotate_key(&deployment, Slot::Primary).await.unwrap();
    assert_ne!(another.id, anew.id);
    assert_eq!(*another.limits, limits);
    assert!(!lives(third).await && lives(fourth).await && lives(second).await);
    assert_eq!(world.store.records().slot_keys(deployment.id).await.unwrap().len(), 2);
}

/// Callers use whichever secret they were given last; whoever rotates moves them to the other slot first.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotation_under_load_fails_no_call() {
    let world = World::new();
    let project = world.project("p").await;
    let deployment = world.deploy(&project, "d", b"one").await.unwrap().deployment;
    let directory = world.control.directory().await.unwrap();
    let (_key, secret) = world.control.rotate_key(&deployment, Slot::Primary).await.unwrap();
    let in_use = Arc::new(RwLock::new(secret));
    let (stop, calls, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (directory, in_use) = (directory.clone(), Arc::clone(&in_use));
            let (stop, calls, failed) = (Arc::clone(&stop), Arc::clone(&calls), Arc::clone(&failed));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    // Held while the call enters: callers have moved once the lock can be taken to write.
                    let secret = in_use.read().await;
                    let key = directory.key(secret.expose(), 5).await.unwrap();
                    let found = directory.resolve("p", "d").await.unwrap().unwrap();
                    if !key.is_some_and(|key| key.names(found.deployment.id)) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                    drop(secret);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for round in 0..40 {
        let slot = Slot::ALL[(round + 1) % 2];
        let before = calls.load(Ordering::Relaxed);
        let (_key, fresh) = world.control.rotate_key(&deployment, slot).await.unwrap();
        *in_use.write().await = fresh;
        while calls.load(Ordering::Relaxed) < before + 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {} calls", calls.load(Ordering::Relaxed));
}

#[tokio::test]
async fn when_a_key_was_last_used_is_written_later_and_changes_nothing_else() {
    let world = World::new();
    let project = world.project("p").await;
    let directory = world.control.directory().await.unwrap();
    let (key, secret) = world.control.create_key(call_key(&project)).await.unwrap();
    let records = world.store.records();
    let used = || async { records.key(key.id).await.unwrap().unwrap().last_used_at };
    for at in [50, 70, 60] {
        assert!(directory.key(secret.expose(), at).await.unwrap().is_some());
    }
    assert_eq!(used().await, None, "a call does not wait for it");
    let before = (records.version().await.unwrap(), records.audit_log(&all()).await.unwrap());
    directory.write_used().await.unwrap();
    assert_eq!(used().await, Some(70));
    assert_eq!((records.version().await.unwrap(), records.audit_log(&all()).await.unwrap()), before);
    // Another node may be behind.
    records.note_used(vec![(key.id, 65), (KeyId::new(), 1)]).await.unwrap();
    assert_eq!(used().await, Some(70));
    // A key that is not accepted was not used.
    world.control.revoke_key(key.id).await.unwrap();
    assert!(directory.key(secret.expose(), 90).await.unwrap().is_none());
    directory.write_used().await.unwrap();
    assert_eq!(used().await, Some(70));
}

fn all() -> AuditQuery {
    AuditQuery { limit: 1_000, ..AuditQuery::default() }
}
