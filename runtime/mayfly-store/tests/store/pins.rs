//! Models that the operator pins, through the workflows.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mayfly_registry::*;
use mayfly_store::Store;
use mayfly_types::*;

use crate::world::{World, name, until};

const CPU: Device = Device::Cpu;

/// The digests kept for the pin of `m` of `owner`.
fn kept(world: &World, owner: Owner) -> Option<Vec<String>> {
    let kept = world.tools.kept.lock().unwrap();
    let granted = kept.get(&Keeper::Pin(owner, name("m"), CPU))?;
    assert_eq!(granted.handler, None);
    let digest = |model: &GrantedModel| model.folder.file_name().unwrap().to_str().unwrap().to_owned();
    Some(granted.models.iter().map(digest).collect())
}

fn package(bytes: &[u8]) -> Option<Vec<String>> {
    Some(vec![Digest::of(bytes).hex()])
}

/// One model of a keeper may be kept.
fn world(tenant_models: TenantModels) -> World {
    let world = World::with(Config { poll_ms: 20, idle_ms: 300, tenant_models, ..Config::default() });
    world.tools.kept_models_max.store(1, Ordering::SeqCst);
    world
}

async fn add(world: &World, owner: Owner, bytes: &[u8]) -> Model {
    world.control.add_model(owner, name("m"), world.staged_model(bytes)).await.unwrap()
}

#[tokio::test]
async fn a_pinned_model_is_kept_from_then_on_and_from_each_start_on() {
    let world = world(TenantModels::Approve);
    let model = add(&world, Owner::Host, b"m").await;
    world.control.keep_warm().await.unwrap();
    assert_eq!(world.control.pins(None).await.unwrap(), []);
    world.control.pin_model(model.id, CPU).await.unwrap();
    assert_eq!(kept(&world, Owner::Host), package(b"m"), "before the answer");
    world.control.pin_model(model.id, CPU).await.unwrap();
    let pins = world.control.pins(Some(model.id)).await.unwrap();
    assert_eq!(pins.len(), 1, "pinned once: {pins:?}");
    assert_eq!((pins[0].pin.device, pins[0].loaded, &pins[0].problem), (CPU, false, &None));
    world.tools.loaded.lock().unwrap().insert((model.digest, CPU));
    assert!(world.control.pins(None).await.unwrap()[0].loaded);

    // As the next start does, and as another node that hears of it.
    let next = self::world(TenantModels::Approve);
    let (records, artifacts) = (world.store.records(), world.store.artifacts());
    let control = Control::with_tools(records, artifacts, next.tools.clone(), Default::default())
        .configure(Config { poll_ms: 20, ..Config::default() });
    assert_eq!(kept(&next, Owner::Host), None, "nothing has begun");
    control.keep_warm().await.unwrap();
    assert_eq!(kept(&next, Owner::Host), package(b"m"));
    world.control.unpin_model(model.id, CPU).await.unwrap();
    assert_eq!(kept(&world, Owner::Host), None, "before the answer");
    until("the other node follows", || kept(&next, Owner::Host).is_none()).await;
    let again = world.control.unpin_model(model.id, CPU).await;
    assert!(matches!(again, Err(ControlError::NotFound("pin"))), "{again:?}");
    world.control.pin_model(model.id, CPU).await.unwrap();
    until("and follows again", || kept(&next, Owner::Host) == package(b"m")).await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_what_no_longer_fits_says_so() {
    let world = world(TenantModels::Approve);
    let model = add(&world, Owner::Host, b"m").await;
    world.control.keep_warm().await.unwrap();
    world.tools.kept_models_max.store(0, Ordering::SeqCst);
    let error = world.control.pin_model(model.id, CPU).await.unwrap_err();
    let named = |text: &str| {
        ["model `m` cannot be pinned on cpu", "inference.pinned_bytes_max = 0", "start the server anew"]
            .iter()
            .all(|part| text.contains(part))
            && !text.contains("min_warm")
    };
    assert!(matches!(&error, ControlError::Invalid(text) if named(text)), "{error:?}");
    assert_eq!(world.store.records().model_pins(None).await.unwrap(), []);
    let missing = world.control.pin_model(ModelId::new(), CPU).await;
    assert!(matches!(missing, Err(ControlError::NotFound("model"))), "{missing:?}");

    world.tools.kept_models_max.store(1, Ordering::SeqCst);
    world.control.pin_model(model.id, CPU).await.unwrap();
    // A package that does not fit does not take the name.
    world.tools.kept_models_max.store(0, Ordering::SeqCst);
    let newer = world.control.add_model(Owner::Host, name("m"), world.staged_model(b"newer")).await;
    let named = |text: &str| text.contains("cannot be replaced: it is pinned on cpu");
    assert!(matches!(&newer, Err(ControlError::Invalid(text)) if named(text)), "{newer:?}");
    assert_eq!(world.store.records().model_named(Owner::Host, "m").await.unwrap().unwrap().id, model.id);
    assert_eq!(kept(&world, Owner::Host), package(b"m"), "as before");

    // A start with less room than there was.
    let next = self::world(TenantModels::Approve);
    next.tools.kept_models_max.store(0, Ordering::SeqCst);
    let control =
        Control::with_tools(world.store.records(), world.store.artifacts(), next.tools.clone(), Default::default())
            .configure(Config { poll_ms: 20, idle_ms: 300, ..Config::default() });
    control.keep_warm().await.unwrap();
    let problem = control.pins(None).await.unwrap().remove(0).problem.unwrap();
    assert!(problem.contains("inference.pinned_bytes_max = 0"), "{problem}");
    next.tools.kept_models_max.store(1, Ordering::SeqCst);
    until("it is kept once there is room", || kept(&next, Owner::Host).is_some()).await;
    assert_eq!(control.pins(None).await.unwrap().remove(0).problem, None);
}

#[tokio::test]
async fn a_pin_goes_with_the_name() {
    let world = world(TenantModels::Approve);
    let older = add(&world, Owner::Host, b"older").await;
    world.control.keep_warm().await.unwrap();
    world.control.pin_model(older.id, CPU).await.unwrap();
    let newer = add(&world, Owner::Host, b"newer").await;
    assert_eq!(kept(&world, Owner::Host), package(b"newer"), "before the answer");
    let pins = world.control.pins(None).await.unwrap();
    assert_eq!(pins.iter().map(|state| state.pin.model).collect::<Vec<_>>(), [newer.id]);
    // The changes of both have been seen to by then.
    let touches = world.store.records().version().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.store.records().version().await.unwrap(), touches);
    assert_eq!(kept(&world, Owner::Host), package(b"newer"));
    world.control.remove_model(newer.id).await.unwrap();
    assert_eq!(kept(&world, Owner::Host), None, "before the answer");
    assert_eq!(world.store.records().model_pins(None).await.unwrap(), []);
    add(&world, Owner::Host, b"older").await;
    assert_eq!(world.store.records().model_pins(None).await.unwrap(), [], "a new name is not pinned");
}

#[tokio::test]
async fn a_tenants_model_is_pinned_once_it_is_approved_and_its_next_package_is_not() {
    for policy in [TenantModels::Approve, TenantModels::Isolate] {
        let world = world(policy);
        let project = world.project("p").await;
        let owner = Owner::Project(project.id);
        let model = add(&world, owner, b"own").await;
        world.control.keep_warm().await.unwrap();
        let error = world.control.pin_model(model.id, CPU).await.unwrap_err();
        let named = |text: &str| text.contains("`m`") && text.contains("approve it before it is pinned");
        assert!(matches!(&error, ControlError::NotApproved(text) if named(text)), "{error:?}");
        world.control.approve_model(model.id).await.unwrap();
        world.control.pin_model(model.id, CPU).await.unwrap();
        assert_eq!(kept(&world, owner), package(b"own"));
        assert_eq!(kept(&world, Owner::Host), None, "another owner's `m`");
        let newer = add(&world, owner, b"newer").await;
        until("nobody vouched for the new one", || kept(&world, owner).is_none()).await;
        world.control.approve_model(newer.id).await.unwrap();
        world.control.pin_model(newer.id, CPU).await.unwrap();
        world.control.delete_project(project.id).await.unwrap();
        until("it goes with its project", || kept(&world, owner).is_none()).await;
        assert_eq!(world.store.records().model_pins(None).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_folder_tells_of_its_pins_whether_a_server_is_at_work_on_it_or_not() {
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(Store::peek_pins(nothing.path()).unwrap(), []);
    assert_eq!(std::fs::read_dir(nothing.path()).unwrap().count(), 0, "nothing was made");
    let world = world(TenantModels::Approve);
    let model = add(&world, Owner::Host, b"m").await;
    let folder = world.folder.path().to_owned();
    assert_eq!(Store::peek_pins(&folder).unwrap(), []);
    world.control.pin_model(model.id, CPU).await.unwrap();
    let told = || Store::peek_pins(&folder).unwrap().into_iter().map(|(owner, name, pin)| (owner, name, pin.model));
    assert_eq!(told().collect::<Vec<_>>(), [(Owner::Host, "m".to_owned(), model.id)]);
    world.store.close().await;
    assert_eq!(told().collect::<Vec<_>>(), [(Owner::Host, "m".to_owned(), model.id)]);
    std::fs::write(
        folder.join("mayfly.db"),
        b"no database at all, and longer than a header of one hundred bytes has to be for it to be read as one",
    )
    .unwrap();
    assert!(Store::peek_pins(&folder).is_err());
}
