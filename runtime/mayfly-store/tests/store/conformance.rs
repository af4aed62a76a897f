//! What every implementation of [`Records`] must do. SQLite runs it here; another store calls [`conforms`] too.

use std::collections::BTreeMap;

use mayfly_registry::*;
use mayfly_types::*;

use crate::world::{info, name};

fn tenant(text: &str) -> Tenant {
    Tenant { id: TenantId::new(), name: name(text), limits: LevelLimits::default(), created_at: 1 }
}

fn project(tenant: &Tenant, text: &str) -> Project {
    Project { id: ProjectId::new(), tenant: tenant.id, name: name(text), limits: LevelLimits::default(), created_at: 2 }
}

fn key(tenant: Option<TenantId>, scope: KeyScope) -> Key {
    let secret = SecretKey::generate();
    Key {
        id: KeyId::new(),
        tenant,
        project: None,
        label: "for tests".to_owned(),
        prefix: secret.prefix(),
        hash: hash_secret(secret.expose()),
        scopes: vec![scope],
        deployments: Vec::new(),
        slot: None,
        limits: Default::default(),
        created_at: 3,
        expires_at: Some(1_000),
        revoked_at: None,
        last_used_at: None,
    }
}

fn model(owner: Owner, text: &str, bytes: &[u8]) -> Model {
    let approved = owner == Owner::Host;
    Model {
        id: ModelId::new(),
        owner,
        name: name(text),
        digest: Digest::of(bytes),
        info: info(),
        approved,
        created_at: 4,
    }
}

fn spec(handler: &[u8], models: &[&Model]) -> RevisionSpec {
    let grant = |model: &Model| ModelGrant { model: model.id, device: Default::default(), all_positions: true };
    RevisionSpec {
        handler: HandlerRecord { digest: Digest::of(handler), builtin: None },
        models: models.iter().map(|model| (model.name.clone(), grant(model))).collect(),
        config: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        limits: GuestLimits::default(),
        filter: FilterSpec { block: vec!["word".to_owned()] },
        share_prefixes: true,
        scale: ScaleSpec {
            concurrency_max: Some(3),
            queue_max: Some(5),
            reuse: Some(9),
            instance_idle_ms: Some(2_000),
            min_warm: Some(1),
        },
    }
}

fn is_taken<T>(result: Result<T, RecordsError>) -> bool {
    matches!(result, Err(RecordsError::Taken(_)))
}

fn is_missing<T>(result: Result<T, RecordsError>) -> bool {
    matches!(result, Err(RecordsError::NotFound(_)))
}

/// Runs against an empty store.
pub(crate) async fn conforms(records: &dyn Records) {
    let (ours, theirs) = owners(records).await;
    keys(records, &ours).await;
    models(records, &ours, &theirs).await;
    pins(records, &ours).await;
    deployments(records, &ours, &theirs).await;
    limits(records, &ours).await;
    slots(records, &ours).await;
    changes(records, &ours).await;
    deletion(records).await;
}

async fn owners(records: &dyn Records) -> (Project, Project) {
    let (a, b) = (tenant("a"), tenant("b"));
    records.insert_tenant(&b).await.unwrap();
    records.insert_tenant(&a).await.unwrap();
    assert!(is_taken(records.insert_tenant(&tenant("a")).await));
    assert_eq!(records.tenant(a.id).await.unwrap(), Some(a.clone()));
    assert_eq!(records.tenant_named("b").await.unwrap(), Some(b.clone()));
    assert_eq!(records.tenant_named("c").await.unwrap(), None);
    assert_eq!(records.tenants().await.unwrap(), [a.clone(), b.clone()]);
    let (ours, theirs) = (project(&a, "ours"), project(&b, "theirs"));
    records.insert_project(&ours).await.unwrap();
    records.insert_project(&theirs).await.unwrap();
    // Unique on the host, not in the tenant.
    assert!(is_taken(records.insert_project(&project(&b, "ours")).await));
    assert!(is_missing(records.insert_project(&project(&tenant("nobody"), "x")).await));
    assert_eq!(records.project(ours.id).await.unwrap(), Some(ours.clone()));
    assert_eq!(records.project_named("theirs").await.unwrap(), Some(theirs.clone()));
    assert_eq!(records.projects(Some(a.id)).await.unwrap(), std::slice::from_ref(&ours));
    assert_eq!(records.projects(None).await.unwrap().len(), 2);
    (ours, theirs)
}

async fn keys(records: &dyn Records, ours: &Project) {
    let mut bound = key(Some(ours.tenant), KeyScope::Call);
    bound.project = Some(ours.id);
    let admin = key(None, KeyScope::Admin);
    records.insert_key(&bound).await.unwrap();
    records.insert_key(&admin).await.unwrap();
    assert!(is_taken(records.insert_key(&Key { id: KeyId::new(), ..bound.clone() }).await));
    assert!(is_missing(records.insert_key(&key(Some(TenantId::new()), KeyScope::Call)).await));
    assert_eq!(records.key_hashed(&bound.hash).await.unwrap(), Some(bound.clone()));
    assert_eq!(records.key_hashed(&[0; 32]).await.unwrap(), None);
    assert_eq!(records.keys(Some(ours.tenant)).await.unwrap(), std::slice::from_ref(&bound));
    assert_eq!(records.keys(None).await.unwrap().len(), 2);
    records.revoke_key(bound.id, 10).await.unwrap();
    records.revoke_key(bound.id, 20).await.unwrap();
    assert_eq!(records.key(bound.id).await.unwrap().unwrap().revoked_at, Some(10));
    assert!(is_missing(records.revoke_key(KeyId::new(), 10).await));
    // The last admin key that works stays; one that has expired by then is none.
    assert!(is_taken(records.revoke_key(admin.id, 10).await));
    let second = key(None, KeyScope::Admin);
    records.insert_key(&second).await.unwrap();
    assert!(is_taken(records.revoke_key(admin.id, 1_000).await));
    records.revoke_key(admin.id, 10).await.unwrap();
    assert!(is_taken(records.revoke_key(second.id, 10).await));
}

async fn models(records: &dyn Records, ours: &Project, theirs: &Project) {
    let (host, own) = (model(Owner::Host, "m", b"host"), model(Owner::Project(ours.id), "m", b"own"));
    records.insert_model(&host).await.unwrap();
    records.insert_model(&own).await.unwrap();
    assert_eq!(records.model_named(Owner::Host, "m").await.unwrap(), Some(host.clone()));
    assert_eq!(records.model_named(Owner::Project(ours.id), "m").await.unwrap(), Some(own.clone()));
    assert_eq!(records.model_named(Owner::Project(theirs.id), "m").await.unwrap(), None);
    assert_eq!(records.models(Some(ours.id)).await.unwrap().len(), 2);
    assert_eq!(records.models(Some(theirs.id)).await.unwrap(), std::slice::from_ref(&host));
    assert_eq!(records.models(None).await.unwrap().len(), 2);
    records.approve_model(own.id).await.unwrap();
    assert!(records.model(own.id).await.unwrap().unwrap().approved);
    assert!(is_missing(records.approve_model(ModelId::new()).await));
    // The name goes to the newer package; the older stays readable by its id.
    let newer = model(Owner::Project(ours.id), "m", b"newer");
    records.insert_model(&newer).await.unwrap();
    assert_eq!(records.model_named(newer.owner, "m").await.unwrap().unwrap().id, newer.id);
    assert_eq!(records.model(own.id).await.unwrap().unwrap().digest, own.digest);
    assert!(!records.is_referenced(own.digest).await.unwrap());
    assert!(records.is_referenced(newer.digest).await.unwrap());
    records.remove_model(newer.id).await.unwrap();
    assert!(is_missing(records.remove_model(newer.id).await));
    assert_eq!(records.model_named(newer.owner, "m").await.unwrap(), None);
}

async fn pins(records: &dyn Records, ours: &Project) {
    use Device::{Cpu, Cuda};
    let places = async |id| {
        let found = records.model_pins(id).await.unwrap();
        found.into_iter().map(|pin| (pin.model, pin.device, pin.at)).collect::<Vec<_>>()
    };
    let details = async |action: &str| {
        let row = records.audit_log(&AuditQuery { limit: 1, ..AuditQuery::default() }).await.unwrap().remove(0);
        assert_eq!(row.action, action);
        row.details
    };
    let operator = key(None, KeyScope::Admin);
    records.insert_key(&operator).await.unwrap();
    let (host, own) = (model(Owner::Host, "pinned", b"host"), model(Owner::Project(ours.id), "pinned", b"own"));
    records.insert_model(&host).await.unwrap();
    records.insert_model(&own).await.unwrap();
    assert!(is_missing(records.pin_model(ModelId::new(), Cpu, 5).await));
    let acts = Actor { key: operator.id, request: None };
    actor::scope(acts, records.pin_model(host.id, Cuda, 5)).await.unwrap();
    records.pin_model(own.id, Cpu, 6).await.unwrap();
    records.pin_model(host.id, Cpu, 7).await.unwrap();
    assert_eq!(places(None).await, [(host.id, Cuda, 5), (own.id, Cpu, 6), (host.id, Cpu, 7)]);
    assert_eq!(places(Some(host.id)).await, [(host.id, Cuda, 5), (host.id, Cpu, 7)]);
    let by = PinnedBy { key: operator.id, prefix: operator.prefix.clone(), label: operator.label.clone() };
    let found = records.model_pins(Some(host.id)).await.unwrap();
    assert_eq!(found.iter().map(|pin| pin.by.clone()).collect::<Vec<_>>(), [Some(by), None]);
    // Again: nothing changes, and nobody hears of it.
    let version = records.version().await.unwrap();
    records.pin_model(host.id, Cuda, 8).await.unwrap();
    assert_eq!((records.version().await.unwrap(), records.model_pins(Some(host.id)).await.unwrap()), (version, found));
    records.unpin_model(host.id, Cpu).await.unwrap();
    assert!(is_missing(records.unpin_model(host.id, Cpu).await));
    let changes = records.changes_since(version, 10).await.unwrap();
    assert_eq!(changes.last().unwrap().kind, ChangeKind::Model(host.id));

    // They go over to an approved package of the same name, and end with one that nobody has vouched for.
    let newer = model(Owner::Host, "pinned", b"newer");
    records.insert_model(&newer).await.unwrap();
    assert_eq!(details("model.import").await.get("unpinned"), None);
    assert_eq!(places(None).await, [(newer.id, Cuda, 5), (own.id, Cpu, 6)]);
    assert!(is_missing(records.pin_model(host.id, Cpu, 9).await), "it has lost its name");
    let own_newer = model(Owner::Project(ours.id), "pinned", b"own, newer");
    records.insert_model(&own_newer).await.unwrap();
    assert_eq!(details("model.import").await["unpinned"], serde_json::json!(["cpu"]));
    assert_eq!(places(None).await, [(newer.id, Cuda, 5)]);
    records.remove_model(newer.id).await.unwrap();
    assert_eq!(details("model.remove").await["unpinned"], serde_json::json!(["cuda"]));
    assert_eq!(places(None).await, []);
    records.remove_model(own_newer.id).await.unwrap();
    records.revoke_key(operator.id, 10).await.unwrap();
}

async fn deployments(records: &dyn Records, ours: &Project, theirs: &Project) {
    let host = records.model_named(Owner::Host, "m").await.unwrap().unwrap();
    let d = name("d");
    let first = spec(b"one", &[&host]);
    let (deployment, one, added) = records.deploy(ours.id, &d, &first, 10).await.unwrap();
    assert_eq!((one.number, added, deployment.active), (1, true, Some(one.id)));
    let (same, again, added) = records.deploy(ours.id, &d, &first, 11).await.unwrap();
    assert_eq!((same, again.id, added), (deployment.clone(), one.id, false));
    let (_, two, _) = records.deploy(ours.id, &d, &spec(b"two", &[]), 12).await.unwrap();
    assert_eq!(two.number, 2);
    assert!(is_missing(records.deploy(ProjectId::new(), &d, &first, 13).await));
    assert!(is_missing(records.deploy(ours.id, &d, &spec(b"x", &[&model(Owner::Host, "no", b"no")]), 13).await));
    let (other, ..) = records.deploy(theirs.id, &d, &first, 14).await.unwrap();
    assert_ne!(other.id, deployment.id);

    assert_eq!(records.deployment_named(ours.id, "d").await.unwrap().unwrap().active, Some(two.id));
    assert_eq!(records.deployment_named(ours.id, "e").await.unwrap(), None);
    assert_eq!(records.revision(one.id).await.unwrap(), Some(one.clone()));
    let numbers = records.revisions(deployment.id).await.unwrap();
    assert_eq!(numbers.iter().map(|revision| revision.number).collect::<Vec<_>>(), [2, 1]);
    records.deploy(ours.id, &name("a"), &first, 15).await.unwrap();
    let page = |after: &'static str, limit| async move {
        let found = records.deployments(ours.id, Some(after), limit).await.unwrap();
        found.into_iter().map(|found| found.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(page("", 1).await, ["a"]);
    assert_eq!(page("a", 9).await, ["d"]);
    assert_eq!(records.deployment_count().await.unwrap(), 3);
    assert_eq!(records.warm_deployments().await.unwrap().len(), 3, "all of these ask for it");
    let cold = RevisionSpec { scale: ScaleSpec::default(), ..first.clone() };
    records.deploy(ours.id, &name("a"), &cold, 15).await.unwrap();
    assert_eq!(records.warm_deployments().await.unwrap(), [deployment.id, other.id], "by the active revision");

    // Earlier revisions can be made active, others' cannot.
    records.activate(deployment.id, one.id, 16).await.unwrap();
    assert_eq!(records.deployment(deployment.id).await.unwrap().unwrap().active, Some(one.id));
    assert!(is_missing(records.activate(other.id, one.id, 16).await));
    assert!(is_missing(records.activate(DeploymentId::new(), one.id, 16).await));

    // A model in use keeps its name, and its files as long as a revision could use them.
    assert!(is_taken(records.remove_model(host.id).await));
    assert!(records.may_deploy(ours.id, Digest::of(b"two")).await.unwrap());
    assert!(!records.may_deploy(theirs.id, Digest::of(b"two")).await.unwrap());
    for id in [deployment.id, other.id] {
        records.delete_deployment(id, 17).await.unwrap();
    }
    let (a, ..) = records.deploy(ours.id, &name("a"), &spec(b"three", &[]), 18).await.unwrap();
    records.remove_model(host.id).await.unwrap();
    assert!(records.is_referenced(host.digest).await.unwrap(), "revision 1 of `a` may be made active again");
    records.delete_deployment(a.id, 19).await.unwrap();
    assert!(!records.is_referenced(host.digest).await.unwrap());
    assert!(!records.is_referenced(Digest::of(b"two")).await.unwrap());
    assert!(is_missing(records.delete_deployment(a.id, 20).await));
    assert_eq!(records.deployment(a.id).await.unwrap(), None);
    assert_eq!(records.deployment_count().await.unwrap(), 0);
    assert!(records.warm_deployments().await.unwrap().is_empty());
    // The name is free again, and numbers begin anew.
    let (fresh, revision, _) = records.deploy(ours.id, &d, &spec(b"one", &[]), 21).await.unwrap();
    assert_eq!((fresh.id == deployment.id, revision.number), (false, 1));
}

fn tokens(per_minute: u64) -> LevelLimits {
    LevelLimits { tokens_per_minute: Some(per_minute), ..LevelLimits::default() }
}

async fn limits(records: &dyn Records, ours: &Project) {
    let (pool, tenant) = (LevelId::Project(ours.id), LevelId::Tenant(ours.tenant));
    let (a, ..) = records.deploy(ours.id, &name("la"), &spec(b"one", &[]), 22).await.unwrap();
    let (b, ..) = records.deploy(ours.id, &name("lb"), &spec(b"one", &[]), 22).await.unwrap();
    let (la, lb) = (LevelId::Deployment(a.id), LevelId::Deployment(b.id));
    let spend = LevelLimits {
        spend: Some(SpendCap { amount: Money::from_pico(5), per: Period::Day }),
        prepaid: true,
        ..LevelLimits::default()
    };
    records.set_limits(tenant, &spend, 23).await.unwrap();
    assert_eq!(records.tenant(ours.tenant).await.unwrap().unwrap().limits, spend);
    records.set_limits(la, &tokens(60), 23).await.unwrap();
    assert!(is_taken(records.set_limits(pool, &tokens(59), 23).await));
    records.set_limits(pool, &tokens(100), 23).await.unwrap();
    assert!(is_taken(records.set_limits(lb, &tokens(41), 23).await));
    records.set_limits(lb, &tokens(40), 23).await.unwrap();
    let active = records.active_named("ours", "lb").await.unwrap().unwrap();
    let seen = (active.tenant.limits, active.project.limits, active.deployment.limits);
    assert_eq!(seen, (spend, tokens(100), tokens(40)));
    assert_eq!((active.tenant.id, active.project.id, active.deployment.id), (ours.tenant, ours.id, b.id));
    assert_eq!(active.deployment.active, Some(active.revision.id));
    assert_eq!(records.active_named("theirs", "lb").await.unwrap(), None);
    assert_eq!(records.active_named("nobody", "lb").await.unwrap(), None);
    // What is deleted gives back.
    records.delete_deployment(a.id, 24).await.unwrap();
    records.set_limits(lb, &tokens(100), 24).await.unwrap();
    assert!(is_missing(records.set_limits(la, &tokens(1), 24).await));
    for level in [tenant, pool, lb] {
        records.set_limits(level, &LevelLimits::default(), 25).await.unwrap();
    }
}

async fn slots(records: &dyn Records, ours: &Project) {
    let deployment = records.deployment_named(ours.id, "lb").await.unwrap().unwrap();
    let fresh = |slot| Key {
        project: Some(ours.id),
        deployments: vec![deployment.id],
        slot: Some((deployment.id, slot)),
        expires_at: None,
        ..key(Some(ours.tenant), KeyScope::Call)
    };
    let second = records.rotate_key(&fresh(Slot::Secondary)).await.unwrap();
    let first = records.rotate_key(&fresh(Slot::Primary)).await.unwrap();
    assert_eq!(records.slot_keys(deployment.id).await.unwrap(), [first.clone(), second]);
    records.set_limits(LevelId::Key(first.id), &tokens(7), 26).await.unwrap();
    let newer = fresh(Slot::Primary);
    let anew = records.rotate_key(&newer).await.unwrap();
    assert_eq!((anew.id, anew.hash, &*anew.limits), (first.id, newer.hash, &tokens(7)));
    assert_eq!(records.key_hashed(&first.hash).await.unwrap(), None);
    assert_eq!(records.key_hashed(&newer.hash).await.unwrap(), Some(anew));
    records.note_used(vec![(first.id, 27), (KeyId::new(), 27)]).await.unwrap();
    records.note_used(vec![(first.id, 26)]).await.unwrap();
    assert_eq!(records.key(first.id).await.unwrap().unwrap().last_used_at, Some(27));
    records.delete_deployment(deployment.id, 28).await.unwrap();
    assert_eq!(records.slot_keys(deployment.id).await.unwrap(), []);
    assert_eq!(records.key(first.id).await.unwrap().unwrap().revoked_at, Some(28));
    assert!(is_missing(records.rotate_key(&fresh(Slot::Primary)).await));
}

async fn changes(records: &dyn Records, ours: &Project) {
    let before = records.version().await.unwrap();
    assert_eq!(records.changes_since(before, 10).await.unwrap(), []);
    let (deployment, revision, _) = records.deploy(ours.id, &name("c"), &spec(b"one", &[]), 30).await.unwrap();
    let key = key(Some(ours.tenant), KeyScope::Call);
    records.insert_key(&key).await.unwrap();
    let seen = records.changes_since(before, 10).await.unwrap();
    let kinds: Vec<_> = seen.iter().map(|change| change.kind.clone()).collect();
    assert_eq!(kinds, [ChangeKind::Deployment(deployment.id), ChangeKind::Key(key.id, key.hash)]);
    assert!(seen.iter().zip(&seen[1..]).all(|(a, b)| before < a.version && a.version < b.version));
    assert_eq!(records.changes_since(before, 1).await.unwrap(), seen[..1]);
    assert_eq!(records.version().await.unwrap(), seen[1].version);
    // What changes nothing is no change; what changes again comes again, newer.
    records.deploy(ours.id, &name("c"), &revision.spec, 31).await.unwrap();
    assert_eq!(records.version().await.unwrap(), seen[1].version);
    records.revoke_key(key.id, 32).await.unwrap();
    let newer = records.changes_since(seen[1].version, 10).await.unwrap();
    assert_eq!(newer.len(), 1);
    assert_eq!(newer[0].kind, ChangeKind::Key(key.id, key.hash));
    // From the beginning every record is there once at least, with its newest version.
    let all = records.changes_since(0, 1_000).await.unwrap();
    assert!(all.contains(&newer[0]) && all.iter().any(|change| change.kind == ChangeKind::Tenant(ours.tenant)));
}

#[tokio::test]
async fn sqlite_conforms() {
    let world = crate::world::World::new();
    conforms(&*world.store.records()).await;
}

async fn deletion(records: &dyn Records) {
    let owner = tenant("leaving");
    records.insert_tenant(&owner).await.unwrap();
    let home = project(&owner, "home");
    records.insert_project(&home).await.unwrap();
    let (deployment, _, _) = records.deploy(home.id, &name("last"), &spec(b"last", &[]), 1).await.unwrap();
    let whole = key(Some(owner.id), KeyScope::Call);
    let bound = Key { project: Some(home.id), ..key(Some(owner.id), KeyScope::Call) };
    records.insert_key(&whole).await.unwrap();
    records.insert_key(&bound).await.unwrap();
    let own = model(Owner::Project(home.id), "own", b"package");
    records.insert_model(&own).await.unwrap();
    records.note_upload(home.id, Digest::of(b"upload"), 1).await.unwrap();

    let names = |result: Result<(), RecordsError>, left: &str| match result {
        Err(RecordsError::Taken(text)) => assert!(text.contains(left), "{text}"),
        other => panic!("{other:?}"),
    };
    names(records.delete_tenant(owner.id, 5).await, "`home`");
    names(records.delete_project(home.id, 5).await.map(drop), "`last`");
    records.delete_deployment(deployment.id, 5).await.unwrap();
    let version = records.version().await.unwrap();
    let mut unused = records.delete_project(home.id, 6).await.unwrap();
    unused.sort_unstable();
    let mut expect = [own.digest, Digest::of(b"upload")];
    expect.sort_unstable();
    assert_eq!(unused, expect);
    for digest in unused {
        assert!(!records.is_referenced(digest).await.unwrap());
    }
    assert_eq!(records.key(bound.id).await.unwrap().unwrap().revoked_at, Some(6));
    assert_eq!(records.key(whole.id).await.unwrap().unwrap().revoked_at, None, "it is the whole tenant's");
    assert_eq!(records.project_named("home").await.unwrap(), None);
    assert_eq!(records.projects(Some(owner.id)).await.unwrap(), []);
    assert_eq!(records.project(home.id).await.unwrap(), Some(home.clone()), "the ledger names it");
    let changed: Vec<_> = records.changes_since(version, 100).await.unwrap().into_iter().map(|c| c.kind).collect();
    for kind in [ChangeKind::Project(home.id), ChangeKind::Key(bound.id, bound.hash), ChangeKind::Model(own.id)] {
        assert!(changed.contains(&kind), "{kind:?}");
    }

    // Nothing gets into it any more.
    assert!(is_missing(records.delete_project(home.id, 7).await));
    assert!(is_missing(records.deploy(home.id, &name("late"), &spec(b"late", &[]), 7).await));
    assert!(is_missing(records.note_upload(home.id, Digest::of(b"late"), 7).await));
    assert!(is_missing(records.insert_model(&model(Owner::Project(home.id), "late", b"late")).await));
    assert!(is_missing(records.insert_key(&Key { id: KeyId::new(), hash: [7; 32], revoked_at: None, ..bound }).await));
    assert!(is_missing(records.set_limits(LevelId::Project(home.id), &one_call(), 7).await));

    records.delete_tenant(owner.id, 8).await.unwrap();
    assert_eq!(records.key(whole.id).await.unwrap().unwrap().revoked_at, Some(8));
    assert!(is_missing(records.delete_tenant(owner.id, 9).await));
    assert!(is_missing(records.insert_project(&project(&owner, "late")).await));
    assert!(is_missing(records.insert_key(&key(Some(owner.id), KeyScope::Call)).await));
    assert!(is_missing(records.set_limits(LevelId::Tenant(owner.id), &one_call(), 9).await));
    assert_eq!(records.tenant(owner.id).await.unwrap(), Some(owner.clone()));

    // The names are free.
    let (heir, new_home) = (tenant("leaving"), project(&tenant("leaving"), "home"));
    let new_home = Project { tenant: heir.id, ..new_home };
    records.insert_tenant(&heir).await.unwrap();
    records.insert_project(&new_home).await.unwrap();
    assert_eq!(records.tenant_named("leaving").await.unwrap(), Some(heir));
    assert_eq!(records.project_named("home").await.unwrap(), Some(new_home));
}

fn one_call() -> LevelLimits {
    LevelLimits { concurrency: Some(1), ..LevelLimits::default() }
}
