//! The workflows on the real store.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use mayfly_registry::*;
use mayfly_types::*;

use crate::world::{World, name, request, stream};

async fn stored(world: &World, bytes: &[u8]) -> bool {
    world.store.artifacts().file(Digest::of(bytes)).await.is_ok()
}

#[tokio::test]
async fn the_same_bytes_at_the_same_time_compile_once() {
    let world = World::new();
    let project = world.project("p").await;
    let (a, b) = tokio::join!(world.deploy(&project, "a", b"bytes"), world.deploy(&project, "b", b"bytes"));
    assert!(a.unwrap().compiled && b.unwrap().compiled);
    assert_eq!(world.tools.compiles.load(Ordering::SeqCst), 1);
    let again = world.deploy(&project, "a", b"bytes").await.unwrap();
    assert_eq!((again.changed, again.compiled, again.revision.number), (false, false, 1));
    world.tools.lose_code();
    world.control.recompile(Digest::of(b"bytes")).await.unwrap();
    assert_eq!(world.tools.compiles.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn deploys_at_once_are_numbered_in_a_row_and_one_is_active() {
    let world = World::new();
    let project = world.project("p").await;
    let deploys = (0..20_u8).map(|number| {
        let bytes = vec![number; 10];
        let world = &world;
        async move { world.deploy(&project_of(world).await, "d", &bytes).await.unwrap() }
    });
    let done = futures::future::join_all(deploys).await;
    let mut numbers: Vec<_> = done.iter().map(|deployed| deployed.revision.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    let active = world.store.records().deployment_named(project.id, "d").await.unwrap().unwrap().active;
    let last = done.iter().max_by_key(|deployed| deployed.revision.number).unwrap();
    assert_eq!(active, Some(last.revision.id));
}

async fn project_of(world: &World) -> Project {
    world.store.records().project_named("p").await.unwrap().unwrap()
}

#[tokio::test]
async fn a_refused_deploy_changes_and_leaves_nothing() {
    let world = World::with(Config { component_bytes_max: 100, ..Config::default() });
    let project = world.project("p").await;
    let good = world.deploy(&project, "d", b"good").await.unwrap();
    let error = world.deploy(&project, "d", b"bad bytes").await.unwrap_err();
    assert!(matches!(&error, ControlError::Invalid(text) if text == "not a component"), "{error:?}");
    assert!(stored(&world, b"bad bytes").await, "an upload is kept for a day");
    let error = world.deploy(&project, "d", &[1; 101]).await.unwrap_err();
    assert!(matches!(&error, ControlError::TooLarge(text) if text.contains("component_bytes_max = 100")), "{error:?}");
    let mut wrong = request(&project, "d", HandlerSource::Builtin("echo".to_owned()));
    wrong.limits.memory_bytes_max = 1;
    wrong.limits.deadline_ms_max = 0;
    wrong.models = BTreeMap::from([(name("m"), ModelEntry::Name(name("nothing")))]);
    let error = world.control.deploy(wrong).await.unwrap_err().to_string();
    for part in ["memory_bytes_max", "deadline_ms_max", "no model `nothing`"] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    let missing = Project { id: ProjectId::new(), ..project.clone() };
    let nowhere = request(&missing, "d", HandlerSource::Builtin("echo".to_owned()));
    assert!(matches!(world.control.deploy(nowhere).await, Err(ControlError::NotFound("project"))));
    let now = world.store.records().deployment_named(project.id, "d").await.unwrap().unwrap();
    assert_eq!(now.active, Some(good.revision.id));
    assert_eq!(std::fs::read_dir(world.store.artifacts().staging()).unwrap().count(), 0);
}

#[tokio::test]
async fn builtins_and_stored_components() {
    let world = World::new();
    let (ours, theirs) = (world.project("ours").await, world.project("theirs").await);
    let deployed = world.control.deploy(request(&ours, "e", HandlerSource::Builtin("echo".to_owned()))).await.unwrap();
    assert_eq!(deployed.revision.spec.handler.builtin.as_deref(), Some("builtin:echo"));
    let error = world.control.deploy(request(&ours, "e", HandlerSource::Builtin("no".to_owned()))).await.unwrap_err();
    assert!(error.to_string().contains("builtin:echo"), "{error}");
    // A digest opens only what the project has deployed itself.
    world.deploy(&ours, "d", b"private").await.unwrap();
    let digest = Digest::of(b"private");
    world.control.deploy(request(&ours, "copy", HandlerSource::Stored(digest))).await.unwrap();
    let error = world.control.deploy(request(&theirs, "copy", HandlerSource::Stored(digest))).await.unwrap_err();
    assert!(matches!(error, ControlError::NotFound("component")), "{error:?}");
}

#[tokio::test]
async fn rolling_back_and_deleting() {
    let world = World::new();
    let project = world.project("p").await;
    let first = world.deploy(&project, "d", b"one").await.unwrap();
    let error = world.control.rollback(&first.deployment, None).await.unwrap_err();
    assert!(matches!(&error, ControlError::Conflict(text) if text.contains("`d` has no revision before")), "{error:?}");
    world.deploy(&project, "d", b"two").await.unwrap();
    world.tools.lose_code();
    assert_eq!(world.control.rollback(&first.deployment, None).await.unwrap().number, 1);
    assert_eq!(world.tools.compiles.load(Ordering::SeqCst), 3, "the older revision's code is made again");
    assert_eq!(world.control.rollback(&first.deployment, Some(2)).await.unwrap().number, 2);
    assert!(matches!(
        world.control.rollback(&first.deployment, Some(7)).await,
        Err(ControlError::NotFound("revision"))
    ));

    world.deploy(&project, "other", b"one").await.unwrap();
    world.forget_uploads().await;
    world.control.delete(&first.deployment).await.unwrap();
    assert!(stored(&world, b"one").await && world.tools.has_code(Digest::of(b"one")), "`other` uses it");
    assert!(!stored(&world, b"two").await && !world.tools.has_code(Digest::of(b"two")));
    assert!(matches!(world.control.delete(&first.deployment).await, Err(ControlError::NotFound("deployment"))));
    assert!(matches!(world.control.rollback(&first.deployment, None).await, Err(ControlError::NotFound("deployment"))));
}

#[tokio::test]
async fn a_sweep_removes_what_no_deployment_uses() {
    let world = World::new();
    let project = world.project("p").await;
    world.deploy(&project, "d", b"used").await.unwrap();
    world.deploy(&project, "d", b"newer").await.unwrap();
    let (old, _) = world.control.upload(project.id, stream(b"old upload")).await.unwrap();
    world.forget_uploads().await;
    world.store.records().note_upload(project.id, old, 1).await.unwrap();
    world.control.upload(project.id, stream(b"new upload")).await.unwrap();
    // Another node has deleted its deployment, and its component with it.
    world.tools.compiled(Digest::of(b"elsewhere"));
    world.control.sweep().await.unwrap();
    for (bytes, kept) in [(&b"used"[..], true), (b"newer", true), (b"new upload", true), (b"old upload", false)] {
        assert_eq!(stored(&world, bytes).await, kept, "{}", String::from_utf8_lossy(bytes));
    }
    assert!(world.tools.has_code(Digest::of(b"used")) && world.tools.has_code(Digest::of(b"newer")));
    assert!(!world.tools.has_code(Digest::of(b"elsewhere")));
}

#[tokio::test]
async fn a_prepacked_copy_goes_with_its_model() {
    let world = World::new();
    let model = world.control.add_model(Owner::Host, name("m"), world.staged_model(b"weights")).await.unwrap();
    let elsewhere = Digest::of(b"removed by another node");
    world.tools.copies.lock().unwrap().insert(elsewhere);
    world.control.sweep().await.unwrap();
    assert_eq!(*world.tools.copies.lock().unwrap(), [model.digest].into());
    world.control.remove_model(model.id).await.unwrap();
    assert!(world.tools.copies.lock().unwrap().is_empty());
}

#[tokio::test]
async fn models_are_granted_when_they_may_run() {
    let world = World::new();
    let (ours, theirs) = (world.project("ours").await, world.project("theirs").await);
    let owner = Owner::Project(ours.id);
    let model = world.control.add_model(owner, name("m"), world.staged_model(b"weights")).await.unwrap();
    assert!(!model.approved);
    let with_model = |project: &Project| {
        let mut asked = request(project, "d", HandlerSource::Builtin("echo".to_owned()));
        asked.models = BTreeMap::from([(name("alias"), ModelEntry::Name(name("m")))]);
        world.control.deploy(asked)
    };
    let error = with_model(&ours).await.unwrap_err();
    assert!(matches!(&error, ControlError::NotApproved(text) if text.contains("`m`")), "{error:?}");
    assert!(world.control.approve_model(model.id).await.unwrap().approved);
    let deployed = with_model(&ours).await.unwrap();
    assert_eq!(deployed.revision.spec.models[&name("alias")].model, model.id);
    // Another project's model is none, whatever its state.
    let error = with_model(&theirs).await.unwrap_err();
    assert!(matches!(&error, ControlError::Invalid(text) if text.contains("no model `m`")), "{error:?}");
    let host = world.control.add_model(Owner::Host, name("m"), world.staged_model(b"host")).await.unwrap();
    assert!(host.approved);
    assert_eq!(with_model(&theirs).await.unwrap().revision.spec.models[&name("alias")].model, host.id);
    // Removal waits for the deployment, and takes the files with it.
    let error = world.control.remove_model(model.id).await.unwrap_err();
    assert!(matches!(&error, ControlError::Conflict(text) if text.contains("`d`")), "{error:?}");
    world.control.delete(&deployed.deployment).await.unwrap();
    world.control.remove_model(model.id).await.unwrap();
    assert!(world.store.artifacts().folder(model.digest).await.is_err());
    assert!(world.store.artifacts().folder(host.digest).await.is_ok());
}

#[tokio::test]
async fn imports_clean_up_after_themselves() {
    let world = World::new();
    let staging = world.store.artifacts().staging();
    let empty = staging.join("up-empty");
    std::fs::create_dir(&empty).unwrap();
    let error = world.control.add_model(Owner::Host, name("m"), empty).await.unwrap_err();
    assert!(matches!(&error, ControlError::Invalid(text) if text.contains(".onnx")), "{error:?}");
    let first = world.control.add_model(Owner::Host, name("m"), world.staged_model(b"1")).await.unwrap();
    let second = world.control.add_model(Owner::Host, name("m"), world.staged_model(b"2")).await.unwrap();
    let artifacts = world.store.artifacts();
    assert!(artifacts.folder(first.digest).await.is_err(), "nobody uses the replaced package");
    assert!(artifacts.folder(second.digest).await.is_ok());
    for outside in ["/etc", "up/../../..", ""] {
        let error = world.control.add_model(Owner::Host, name("x"), staging.join(outside)).await.unwrap_err();
        assert!(matches!(error, ControlError::Host { .. }), "{outside}: {error:?}");
    }
    for _ in 0..100 {
        if std::fs::read_dir(&staging).unwrap().count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("something is left in staging");
}

#[tokio::test]
async fn keys_belong_where_they_should() {
    let world = World::new();
    let (ours, theirs) = (world.project("ours").await, world.project("theirs").await);
    let (call, admin) = (vec![KeyScope::Call], vec![KeyScope::Admin]);
    let make = |tenant, project, scopes: &[KeyScope], expires| {
        let request = KeyRequest {
            tenant,
            project,
            label: "k".to_owned(),
            scopes: scopes.to_vec(),
            expires_at: expires,
            ..KeyRequest::default()
        };
        world.control.create_key(request)
    };
    let (key, secret) = make(Some(ours.tenant), Some(ours.id), &call, None).await.unwrap();
    assert_eq!(key.hash, hash_secret(secret.expose()));
    for refused in [
        make(None, None, &call, None).await,
        make(Some(ours.tenant), None, &admin, None).await,
        make(None, Some(ours.id), &admin, None).await,
        make(Some(ours.tenant), None, &[], None).await,
        make(Some(ours.tenant), None, &call, Some(1)).await,
    ] {
        assert!(matches!(refused, Err(ControlError::Invalid(_))), "{refused:?}");
    }
    let foreign = make(Some(ours.tenant), Some(theirs.id), &call, None).await;
    assert!(matches!(foreign, Err(ControlError::NotFound("project"))), "{foreign:?}");
    let nobody = make(Some(TenantId::new()), None, &call, None).await;
    assert!(matches!(nobody, Err(ControlError::NotFound("tenant"))), "{nobody:?}");
    assert!(matches!(world.control.create_project(ours.tenant, name("theirs")).await, Err(ControlError::Conflict(_))));
    assert!(matches!(world.control.create_tenant(name("ours")).await, Err(ControlError::Conflict(_))));
}

#[tokio::test]
async fn a_project_that_is_deleted_while_it_is_deployed_to_is_either_gone_or_whole() {
    let world = World::new();
    let tenant = world.control.create_tenant(name("t")).await.unwrap();
    for turn in 0..20 {
        let project = world.control.create_project(tenant.id, name("p")).await.unwrap();
        let delete = async {
            // At another moment of the deploy each time.
            for _ in 0..turn {
                tokio::task::yield_now().await;
            }
            world.control.delete_project(project.id).await
        };
        let (deployed, deleted) = tokio::join!(world.deploy(&project, "d", b"component"), delete);
        assert!(deployed.is_ok() != deleted.is_ok(), "turn {turn}: {deployed:?} {deleted:?}");
        let left = world.store.records().deployment_count().await.unwrap();
        assert_eq!(left, u64::from(deployed.is_ok()), "turn {turn}");
        if let Ok(deployed) = deployed {
            world.control.delete(&deployed.deployment).await.unwrap();
            world.control.delete_project(project.id).await.unwrap();
        }
    }
    let digest = Digest::of(b"component");
    assert!(!world.store.records().is_referenced(digest).await.unwrap());
    assert!(world.store.artifacts().file(digest).await.is_err(), "what nobody refers to is removed");
}
