//! What deployments ask to be kept warm, through the workflows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mayfly_registry::*;
use mayfly_store::Store;
use mayfly_types::*;

use crate::world::{CountingTools, World, name, request, until};

fn warm() -> ScaleSpec {
    ScaleSpec { min_warm: Some(1), ..ScaleSpec::default() }
}

async fn deploy(world: &World, project: &Project, model: &str, scale: ScaleSpec) -> Result<Deployed, ControlError> {
    let mut asked = request(project, "d", HandlerSource::Builtin("echo".to_owned()));
    asked.models = BTreeMap::from([(name("alias"), ModelEntry::Name(name(model)))]);
    asked.scale = scale;
    world.control.deploy(asked).await
}

/// The models kept for `deployment`, by name.
fn kept(tools: &CountingTools, deployment: DeploymentId) -> Option<Vec<String>> {
    let kept = tools.kept.lock().unwrap();
    kept.get(&Keeper::Deployment(deployment))
        .map(|granted| granted.models.iter().map(|model| model.name.to_string()).collect())
}

fn one(name: &str) -> Option<Vec<String>> {
    Some(vec![name.to_owned()])
}

fn world() -> World {
    let world = World::with(Config { poll_ms: 20, idle_ms: 300, ..Config::default() });
    world.tools.kept_models_max.store(1, Ordering::SeqCst);
    world
}

#[tokio::test]
async fn the_active_revision_decides_and_the_answer_comes_once_it_is_seen_to() {
    let world = world();
    let project = world.project("p").await;
    for model in ["m", "n"] {
        world.control.add_model(Owner::Host, name(model), world.staged_model(model.as_bytes())).await.unwrap();
    }
    world.control.keep_warm().await.unwrap();
    let first = deploy(&world, &project, "m", warm()).await.unwrap().deployment;
    assert_eq!(kept(&world.tools, first.id), one("m"));
    deploy(&world, &project, "n", warm()).await.unwrap();
    assert_eq!(kept(&world.tools, first.id), one("n"));
    deploy(&world, &project, "n", ScaleSpec::default()).await.unwrap();
    assert_eq!(kept(&world.tools, first.id), None);
    world.control.rollback(&first, Some(1)).await.unwrap();
    assert_eq!(kept(&world.tools, first.id), one("m"));
    let touches = world.tools.touches.load(Ordering::SeqCst);
    until("its code is used so that it stays", || world.tools.touches.load(Ordering::SeqCst) >= touches + 2).await;
    world.control.delete(&first).await.unwrap();
    assert_eq!(kept(&world.tools, first.id), None);
}

#[tokio::test]
async fn it_is_kept_from_the_start_on_and_what_others_change_is_followed() {
    let world = world();
    let project = world.project("p").await;
    world.control.add_model(Owner::Host, name("m"), world.staged_model(b"m")).await.unwrap();
    let deployment = deploy(&world, &project, "m", warm()).await.unwrap().deployment;
    assert_eq!(kept(&world.tools, deployment.id), None, "nothing has begun");
    world.control.keep_warm().await.unwrap();
    assert_eq!(kept(&world.tools, deployment.id), one("m"));

    // As another node would.
    let records = world.store.records();
    records.delete_deployment(deployment.id, 1).await.unwrap();
    until("it is let go", || kept(&world.tools, deployment.id).is_none()).await;
}

#[tokio::test]
async fn a_refusal_changes_nothing_and_what_no_longer_fits_is_tried_again() {
    let world = world();
    let project = world.project("p").await;
    world.control.add_model(Owner::Host, name("m"), world.staged_model(b"m")).await.unwrap();
    world.control.keep_warm().await.unwrap();
    world.tools.kept_models_max.store(0, Ordering::SeqCst);
    let error = deploy(&world, &project, "m", warm()).await.unwrap_err();
    let named = |text: &str| text.contains("scale.min_warm") && text.contains("inference.pinned_bytes_max = 0");
    assert!(matches!(&error, ControlError::Invalid(text) if named(text)), "{error:?}");
    assert_eq!(world.store.records().deployment_named(project.id, "d").await.unwrap(), None);

    world.tools.kept_models_max.store(1, Ordering::SeqCst);
    let first = deploy(&world, &project, "m", warm()).await.unwrap().deployment;
    deploy(&world, &project, "m", ScaleSpec::default()).await.unwrap();
    world.tools.kept_models_max.store(0, Ordering::SeqCst);
    world.control.rollback(&first, Some(1)).await.unwrap();
    assert_eq!(kept(&world.tools, first.id), None, "it answers, and nothing is kept");
    world.tools.kept_models_max.store(1, Ordering::SeqCst);
    until("there is room again", || kept(&world.tools, first.id) == one("m")).await;
}

#[tokio::test]
async fn a_model_that_nobody_approved_is_not_kept_until_it_is() {
    let world = World::with(Config { tenant_models: TenantModels::Isolate, poll_ms: 20, ..Config::default() });
    world.tools.kept_models_max.store(1, Ordering::SeqCst);
    let project = world.project("p").await;
    let owner = Owner::Project(project.id);
    let model = world.control.add_model(owner, name("m"), world.staged_model(b"m")).await.unwrap();
    world.control.keep_warm().await.unwrap();
    let error = deploy(&world, &project, "m", warm()).await.unwrap_err();
    assert!(matches!(&error, ControlError::NotApproved(text) if text.contains("`m`")), "{error:?}");
    deploy(&world, &project, "m", ScaleSpec::default()).await.unwrap();
    world.control.approve_model(model.id).await.unwrap();
    let deployed = deploy(&world, &project, "m", warm()).await.unwrap();
    assert_eq!(kept(&world.tools, deployed.deployment.id), one("m"));
}

#[tokio::test]
async fn nothing_goes_on_once_nobody_holds_the_control() {
    let world = world();
    world.control.keep_warm().await.unwrap();
    let tools: Arc<CountingTools> = Arc::clone(&world.tools);
    let World { folder, store, control, tools: held, .. } = world;
    drop((control, held));
    until("the task has ended", || Arc::strong_count(&tools) == 1).await;
    drop::<Store>(store);
    drop(folder);
}
