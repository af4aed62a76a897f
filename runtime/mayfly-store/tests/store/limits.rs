//! Limits of levels and the pool that a project's deployments share.

use mayfly_registry::*;
use mayfly_types::*;

use crate::world::{World, call_key};

fn tokens(per_minute: u64) -> LevelLimits {
    LevelLimits { tokens_per_minute: Some(per_minute), ..LevelLimits::default() }
}

async fn deployment(world: &World, project: &Project, text: &str) -> Deployment {
    world.deploy(project, text, b"component").await.unwrap().deployment
}

/// What the refusal of `share` for `level` says.
async fn refusal(world: &World, level: LevelId, share: u64) -> String {
    match world.control.set_limits(level, &tokens(share)).await.unwrap_err() {
        ControlError::Conflict(text) => text,
        other => panic!("not a conflict: {other:?}"),
    }
}

#[tokio::test]
async fn a_calls_levels_have_the_newest_limits_at_once() {
    let world = World::new();
    let project = world.project("p").await;
    let made = deployment(&world, &project, "d").await;
    let (key, secret) = world.control.create_key(call_key(&project)).await.unwrap();
    let directory = world.control.directory().await.unwrap();
    let resolved = directory.resolve("p", "d").await.unwrap().unwrap();
    assert!(resolved.levels.iter().all(|(_level, limits)| **limits == LevelLimits::default()));
    let levels = [
        LevelId::Tenant(project.tenant),
        LevelId::Project(project.id),
        LevelId::Deployment(made.id),
        LevelId::Key(key.id),
    ];
    for (level, share) in levels.into_iter().zip([4_000, 3_000, 2_000, 1_000]) {
        world.control.set_limits(level, &tokens(share)).await.unwrap();
        assert_eq!(world.control.limits(level).await.unwrap(), tokens(share));
    }
    let resolved = directory.resolve("p", "d").await.unwrap().unwrap();
    let seen: Vec<_> = resolved.levels.iter().map(|(level, limits)| (*level, limits.tokens_per_minute)).collect();
    let expect: Vec<_> = levels.into_iter().zip([Some(4_000), Some(3_000), Some(2_000)]).collect();
    assert_eq!(seen, expect);
    assert_eq!(*directory.key(secret.expose(), 5).await.unwrap().unwrap().limits, tokens(1_000));
    // Setting what is there changes nothing.
    let version = world.store.records().version().await.unwrap();
    world.control.set_limits(levels[2], &tokens(2_000)).await.unwrap();
    assert_eq!(world.store.records().version().await.unwrap(), version);
}

#[tokio::test]
async fn shares_come_out_of_the_pool() {
    let world = World::new();
    let project = world.project("p").await;
    let (a, b) = (deployment(&world, &project, "a").await, deployment(&world, &project, "b").await);
    let (a, b, pool) = (LevelId::Deployment(a.id), LevelId::Deployment(b.id), LevelId::Project(project.id));
    let control = &world.control;
    // Without a pool a deployment may be limited to anything.
    control.set_limits(a, &tokens(700)).await.unwrap();
    // The pool can begin no smaller than what is given out, nor shrink below it.
    let text = refusal(&world, pool, 699).await;
    assert!(text.contains("`p`") && text.contains("699") && text.contains("700"), "{text}");
    control.set_limits(pool, &tokens(1_000)).await.unwrap();
    let text = refusal(&world, b, 301).await;
    assert!(["`p`", "1000", "700", "301", "300 at most"].iter().all(|part| text.contains(part)), "{text}");
    control.set_limits(b, &tokens(300)).await.unwrap();
    refusal(&world, a, 701).await;
    refusal(&world, pool, 999).await;
    control.set_limits(a, &tokens(100)).await.unwrap();
    control.set_limits(pool, &tokens(400)).await.unwrap();
    // A limit that is no share is free, and one that was taken away gives its share back.
    control.set_limits(a, &LevelLimits { concurrency: Some(1), ..LevelLimits::default() }).await.unwrap();
    control.set_limits(b, &tokens(400)).await.unwrap();
    control.set_limits(pool, &LevelLimits::default()).await.unwrap();
    control.set_limits(b, &tokens(1_000_000)).await.unwrap();
}

#[tokio::test]
async fn a_deleted_deployment_gives_its_share_back_and_takes_its_keys_with_it() {
    let world = World::new();
    let project = world.project("p").await;
    let (a, b) = (deployment(&world, &project, "a").await, deployment(&world, &project, "b").await);
    world.control.set_limits(LevelId::Project(project.id), &tokens(1_000)).await.unwrap();
    world.control.set_limits(LevelId::Deployment(a.id), &tokens(1_000)).await.unwrap();
    let (_key, secret) = world.control.rotate_key(&a, Slot::Primary).await.unwrap();
    refusal(&world, LevelId::Deployment(b.id), 1).await;
    world.control.delete(&a).await.unwrap();
    world.control.set_limits(LevelId::Deployment(b.id), &tokens(1_000)).await.unwrap();
    let gone = world.control.set_limits(LevelId::Deployment(a.id), &tokens(1)).await.unwrap_err();
    assert!(matches!(gone, ControlError::NotFound("deployment")), "{gone:?}");
    let directory = world.control.directory().await.unwrap();
    assert!(directory.key(secret.expose(), 5).await.unwrap().is_none());
    assert!(world.control.rotate_key(&a, Slot::Primary).await.is_err());
    // One of the same name begins without.
    let again = deployment(&world, &project, "a").await;
    assert_eq!(world.control.limits(LevelId::Deployment(again.id)).await.unwrap(), LevelLimits::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_changes_at_once_never_exceed_the_pool() {
    const POOL: u64 = 1_000;
    let world = World::new();
    let project = world.project("p").await;
    let pool = LevelId::Project(project.id);
    world.control.set_limits(pool, &tokens(POOL)).await.unwrap();
    let mut deployments = Vec::new();
    for number in 0..10 {
        deployments.push(deployment(&world, &project, &format!("d{number}")).await.id);
    }
    let given_out = || async {
        let found = world.store.records().deployments(project.id, None, 100).await.unwrap();
        found.iter().map(|deployment| deployment.limits.tokens_per_minute.unwrap_or(0)).sum::<u64>()
    };
    let mut accepted = 0;
    for round in 0..5_u64 {
        let changes: Vec<_> = (0..50_u64)
            .map(|number| {
                let control = world.control.clone();
                let deployment = LevelId::Deployment(deployments[usize::try_from(number % 10).unwrap()]);
                // Shares that do not fit together, some of them smaller than before, and a pool that wants to shrink.
                let share = 60 + (number * 37 + round * 101) % 180;
                let change = match number % 25 {
                    0 => (pool, tokens(POOL - 1)),
                    _ => (deployment, tokens(share)),
                };
                tokio::spawn(async move { control.set_limits(change.0, &change.1).await })
            })
            .collect();
        for change in changes {
            match change.await.unwrap() {
                Ok(()) => accepted += 1,
                Err(ControlError::Conflict(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
            let limit = world.control.limits(pool).await.unwrap().tokens_per_minute.unwrap();
            let sum = given_out().await;
            assert!(sum <= limit, "{sum} of {limit} are given out");
        }
    }
    assert!(accepted > 10, "{accepted} changes were made");
    assert!(given_out().await > POOL / 2, "the pool is used");
}

#[tokio::test]
async fn limits_out_of_range_are_refused_by_name_and_nothing_is_set() {
    let world = World::new();
    let project = world.project("p").await;
    let level = LevelId::Tenant(project.tenant);
    let bad = LevelLimits {
        concurrency: Some(0),
        tokens_per_minute: Some(u64::MAX),
        request_cost_max: Some(Money::ZERO),
        ..LevelLimits::default()
    };
    let error = world.control.set_limits(level, &bad).await.unwrap_err();
    let ControlError::Invalid(text) = error else { panic!("{error:?}") };
    for name in ["concurrency", "tokens_per_minute", "request_cost_max"] {
        assert!(text.contains(&format!("`{name}`")), "{text}");
    }
    assert_eq!(world.control.limits(level).await.unwrap(), LevelLimits::default());
    let refused = world.control.create_key(KeyRequest { limits: bad, ..call_key(&project) }).await;
    assert!(matches!(refused, Err(ControlError::Invalid(_))));
    for level in [
        LevelId::Tenant(TenantId::new()),
        LevelId::Project(ProjectId::new()),
        LevelId::Deployment(DeploymentId::new()),
        LevelId::Key(KeyId::new()),
    ] {
        let error = world.control.set_limits(level, &tokens(1)).await.unwrap_err();
        assert!(matches!(error, ControlError::NotFound(what) if what == level.kind()), "{error:?}");
    }
    // A key that was revoked is none.
    let (key, _secret) = world.control.create_key(call_key(&project)).await.unwrap();
    world.control.revoke_key(key.id).await.unwrap();
    assert!(world.control.set_limits(LevelId::Key(key.id), &tokens(1)).await.is_err());
}

#[tokio::test]
async fn limits_that_the_operator_set_only_the_operator_changes() {
    let world = World::new();
    let project = world.project("p").await;
    let control = &world.control;
    let made = deployment(&world, &project, "d").await;
    let (called, _secret) = control.create_key(call_key(&project)).await.unwrap();
    let deploys = KeyRequest { scopes: vec![KeyScope::Deploy], ..call_key(&project) };
    let (tenants, _secret) = control.create_key(deploys).await.unwrap();
    let admin = KeyRequest { scopes: vec![KeyScope::Admin], ..KeyRequest::default() };
    let (admin, _secret) = control.create_key(admin).await.unwrap();
    let set = async |by: &Key, level, limits: LevelLimits| {
        let actor = Actor { key: by.id, request: None };
        match actor::scope(actor, control.set_limits(level, &limits)).await {
            Ok(()) => true,
            Err(ControlError::Operators(text)) => {
                assert!(text.contains("set by the operator"), "{text}");
                false
            }
            Err(other) => panic!("{other:?}"),
        }
    };
    for level in [LevelId::Deployment(made.id), LevelId::Key(called.id)] {
        assert!(set(&tenants, level, tokens(5)).await, "nobody had set any");
        assert!(set(&tenants, level, LevelLimits::default()).await && set(&tenants, level, tokens(6)).await);
        assert!(set(&admin, level, tokens(7)).await);
        assert!(set(&tenants, level, tokens(7)).await, "that changes nothing");
        for wanted in [tokens(6), tokens(8), LevelLimits::default()] {
            assert!(!set(&tenants, level, wanted).await);
            assert_eq!(control.limits(level).await.unwrap(), tokens(7));
        }
        assert!(set(&admin, level, LevelLimits::default()).await);
        assert!(set(&tenants, level, tokens(9)).await, "the operator has let go of it");
    }

    // A key that the operator makes with limits is born so; a tenant's own is its own.
    for (maker, theirs) in [(&admin, false), (&tenants, true)] {
        let request = KeyRequest { limits: tokens(3), ..call_key(&project) };
        let actor = Actor { key: maker.id, request: None };
        let (key, _secret) = actor::scope(actor, control.create_key(request)).await.unwrap();
        assert_eq!(set(&tenants, LevelId::Key(key.id), tokens(4)).await, theirs);
    }
    // So is a slot that is made anew after the operator had limited it.
    let (slot, _secret) = control.rotate_key(&made, Slot::Primary).await.unwrap();
    assert!(set(&admin, LevelId::Key(slot.id), tokens(2)).await);
    control.revoke_key(slot.id).await.unwrap();
    let actor = Actor { key: tenants.id, request: None };
    let (slot, _secret) = actor::scope(actor, control.rotate_key(&made, Slot::Primary)).await.unwrap();
    assert_eq!(*slot.limits, tokens(2));
    assert!(!set(&tenants, LevelId::Key(slot.id), LevelLimits::default()).await);
}
