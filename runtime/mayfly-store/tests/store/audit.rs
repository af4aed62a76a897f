//! Every change leaves a row that names who made it, and no secret.

use std::collections::BTreeSet;

use mayfly_ledger::{Grant, NewPrice};
use mayfly_registry::*;
use mayfly_types::*;
use serde_json::json;

use crate::world::{World, call_key, info, name};

/// Methods of [`Records`] that only read, or whose writes are no changes of the control plane.
const NOT_AUDITED: &[&str] = &[
    "tenant",
    "tenant_named",
    "tenants",
    "project",
    "project_named",
    "projects",
    "key",
    "key_hashed",
    "keys",
    "slot_keys",
    "note_used",
    "model",
    "model_named",
    "models",
    "model_pins",
    "deployment",
    "active_named",
    "deployment_named",
    "deployments",
    "deployment_count",
    "warm_deployments",
    "revision",
    "revisions",
    "may_deploy",
    "is_referenced",
    "audit_log",
    "version",
    "changes_since",
];

fn all() -> AuditQuery {
    AuditQuery { limit: 1_000, ..AuditQuery::default() }
}

/// Does each change once, and says which rows it left.
struct Trail {
    world: World,
    actor: Actor,
    methods: BTreeSet<&'static str>,
}

impl Trail {
    async fn expect<T>(
        &mut self,
        method: &'static str,
        action: &str,
        target: &str,
        change: impl Future<Output = Result<T, RecordsError>>,
    ) -> T {
        let records = self.world.store.records();
        let before = records.audit_log(&all()).await.unwrap().len();
        let done = actor::scope(self.actor, change).await.unwrap();
        let log = records.audit_log(&all()).await.unwrap();
        assert_eq!(log.len(), before + 1, "{method}: {:?}", log.first());
        let row = &log[0];
        assert_eq!((row.action.as_str(), row.target.as_str()), (action, target), "{method}");
        assert_eq!((row.actor, row.request), (Some(self.actor.key), self.actor.request), "{method}");
        assert!(row.details.is_object() && row.at > 0, "{method}: {row:?}");
        self.methods.insert(method);
        done
    }
}

#[tokio::test]
async fn every_method_that_changes_something_leaves_a_row() {
    let actor = Actor { key: KeyId::new(), request: Some(RequestId::new()) };
    let mut trail = Trail { world: World::new(), actor, methods: BTreeSet::new() };
    let records = trail.world.store.records();
    let tenant = Tenant { id: TenantId::new(), name: name("t"), limits: LevelLimits::default(), created_at: 1 };
    trail.expect("insert_tenant", "tenant.create", "t", records.insert_tenant(&tenant)).await;
    let project = Project {
        id: ProjectId::new(),
        tenant: tenant.id,
        name: name("p"),
        limits: LevelLimits::default(),
        created_at: 1,
    };
    trail.expect("insert_project", "project.create", "p", records.insert_project(&project)).await;
    let (model, secret) = (ModelId::new(), SecretKey::generate());
    let model = Model {
        id: model,
        owner: Owner::Project(project.id),
        name: name("m"),
        digest: Digest::of(b"model"),
        info: info(),
        approved: false,
        created_at: 1,
    };
    trail.expect("insert_model", "model.import", "p/m", records.insert_model(&model)).await;
    trail.expect("approve_model", "model.approve", "p/m", records.approve_model(model.id)).await;
    trail.expect("pin_model", "model.pin", "p/m", records.pin_model(model.id, Device::Cpu, 5)).await;
    let row = records.audit_log(&all()).await.unwrap().remove(0);
    assert_eq!(row.details, json!({ "id": model.id, "device": "cpu" }));
    trail.expect("unpin_model", "model.unpin", "p/m", records.unpin_model(model.id, Device::Cpu)).await;
    trail.expect("remove_model", "model.remove", "p/m", records.remove_model(model.id)).await;
    let digest = Digest::of(b"handler");
    let target = format!("p/{digest}");
    trail.expect("note_upload", "artifact.upload", &target, records.note_upload(project.id, digest, 5)).await;
    trail.expect("forget_uploads", "artifact.forget", "1 uploads", records.forget_uploads(6)).await;
    let spec = |secret: &str| RevisionSpec {
        handler: HandlerRecord { digest, builtin: None },
        models: Default::default(),
        config: [("password".to_owned(), secret.to_owned())].into(),
        limits: GuestLimits::default(),
        filter: FilterSpec { block: vec![secret.to_owned()] },
        share_prefixes: false,
        scale: Default::default(),
    };
    let (d, first, second) = (name("d"), spec("hunter2"), spec("hunter3"));
    let deploy = records.deploy(project.id, &d, &first, 7);
    let (deployment, one, _) = trail.expect("deploy", "deployment.deploy", "p/d", deploy).await;
    records.deploy(project.id, &d, &second, 8).await.unwrap();
    let back = records.activate(deployment.id, one.id, 9);
    trail.expect("activate", "deployment.rollback", "p/d", back).await;
    let key = Key {
        id: KeyId::new(),
        tenant: Some(tenant.id),
        project: Some(project.id),
        label: "l".to_owned(),
        prefix: secret.prefix(),
        hash: hash_secret(secret.expose()),
        scopes: vec![KeyScope::Call],
        deployments: Vec::new(),
        slot: None,
        limits: Default::default(),
        created_at: 10,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    };
    trail.expect("insert_key", "key.create", &key.id.to_string(), records.insert_key(&key)).await;
    let fresh = SecretKey::generate();
    let slot = Key {
        id: KeyId::new(),
        hash: hash_secret(fresh.expose()),
        slot: Some((deployment.id, Slot::Primary)),
        deployments: vec![deployment.id],
        ..key.clone()
    };
    trail.expect("rotate_key", "key.rotate", &slot.id.to_string(), records.rotate_key(&slot)).await;
    let limits = LevelLimits { concurrency: Some(2), ..LevelLimits::default() };
    let level = LevelId::Deployment(deployment.id);
    trail.expect("set_limits", "limits.set", "deployment p/d", records.set_limits(level, &limits, 11)).await;
    let row = records.audit_log(&all()).await.unwrap().remove(0);
    assert_eq!(row.details, json!({ "before": {}, "after": { "concurrency": 2 } }));
    trail.expect("revoke_key", "key.revoke", &key.id.to_string(), records.revoke_key(key.id, 12)).await;
    let delete = records.delete_deployment(deployment.id, 13);
    trail.expect("delete_deployment", "deployment.delete", "p/d", delete).await;
    let gone = trail.expect("delete_project", "project.delete", "p", records.delete_project(project.id, 14)).await;
    assert!(gone.is_empty(), "its model had lost its name, its upload was forgotten: {gone:?}");
    let row = records.audit_log(&all()).await.unwrap().remove(0);
    assert_eq!(row.details["keys_revoked"], 0, "they were revoked before");
    trail.expect("delete_tenant", "tenant.delete", "t", records.delete_tenant(tenant.id, 15)).await;

    // A method that is neither here nor above was forgotten.
    let source = include_str!("../../../mayfly-registry/src/records.rs");
    let methods: BTreeSet<_> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("async fn "))
        .map(|rest| rest.split('(').next().unwrap())
        .collect();
    let known: BTreeSet<_> = trail.methods.iter().chain(NOT_AUDITED).copied().collect();
    assert_eq!(methods, known);

    // Nothing in it opens a door.
    let text = format!("{:?}", records.audit_log(&all()).await.unwrap());
    for secret in ["hunter", secret.expose(), fresh.expose()] {
        assert!(!text.contains(secret), "{secret}");
    }
    for hash in [key.hash, slot.hash] {
        assert!(!text.contains(&Digest::from_bytes(hash).hex()) && !text.contains(&format!("{hash:?}")));
    }
}

#[tokio::test]
async fn prices_and_credit_leave_their_row_with_the_change() {
    let world = World::new();
    let project = world.project("p").await;
    let (records, prices) = (world.store.records(), world.store.prices());
    let actor = Actor { key: KeyId::new(), request: Some(RequestId::new()) };
    let newest = async || {
        let row = records.audit_log(&all()).await.unwrap().remove(0);
        assert_eq!((row.actor, row.request), (Some(actor.key), actor.request));
        (row.action, row.target, row.tenant, row.project, row.details)
    };
    for (level, project_of) in
        [(LevelId::Tenant(project.tenant), None), (LevelId::Project(project.id), Some(project.id))]
    {
        let grant = Grant { level, amount: "5".parse().unwrap(), note: "May".to_owned(), at: 7 };
        actor::scope(actor, world.store.journal().grant(grant)).await.unwrap();
        let details = json!({ "amount": "5", "note": "May" });
        let expect = ("credit.grant".to_owned(), level.to_string(), Some(project.tenant), project_of, details);
        assert_eq!(newest().await, expect);
    }

    prices.fix_currency("USD").await.unwrap();
    let price = |amount: &str| NewPrice {
        tenant: None,
        model: None,
        pool: name("shared"),
        meter: Meter::Rows,
        amount: amount.to_owned(),
        per: 1,
        currency: "USD".to_owned(),
        from: 10,
        until: None,
    };
    let added = actor::scope(actor, prices.add_price(price("0.5"), 10)).await.unwrap().unwrap();
    let (action, target, tenant, _, details) = newest().await;
    assert_eq!((action.as_str(), target, tenant), ("price.add", format!("price {}", added.id), None));
    assert_eq!(
        (&details["meter"], &details["amount"], &details["currency"]),
        (&json!("rows"), &json!("0.5"), &json!("USD"))
    );

    // What is refused leaves none.
    let before = records.audit_log(&all()).await.unwrap();
    assert!(actor::scope(actor, prices.add_price(price("0.6"), 10)).await.unwrap().is_err(), "they overlap");
    let level = LevelId::Tenant(project.tenant);
    let long = Grant { level, amount: "5".parse().unwrap(), note: "x".repeat(201), at: 8 };
    assert!(world.store.journal().grant(long).await.is_err());
    assert_eq!(records.audit_log(&all()).await.unwrap(), before);
}

#[tokio::test]
async fn what_fails_or_changes_nothing_leaves_no_row() {
    let world = World::new();
    let project = world.project("p").await;
    let made = world.deploy(&project, "d", b"one").await.unwrap();
    let (key, _secret) = world.control.create_key(call_key(&project)).await.unwrap();
    world.control.revoke_key(key.id).await.unwrap();
    let records = world.store.records();
    let before = records.audit_log(&all()).await.unwrap();
    assert!(before.iter().all(|row| row.actor.is_none()), "nobody was named: the system");
    assert!(world.control.create_tenant(name("p")).await.is_err());
    assert!(records.revoke_key(KeyId::new(), 1).await.is_err());
    records.revoke_key(key.id, 9).await.unwrap();
    records.deploy(project.id, &name("d"), &made.revision.spec, 9).await.unwrap();
    records.activate(made.deployment.id, made.revision.id, 9).await.unwrap();
    records.set_limits(LevelId::Project(project.id), &LevelLimits::default(), 9).await.unwrap();
    records.forget_uploads(0).await.unwrap();
    assert_eq!(records.audit_log(&all()).await.unwrap(), before);
}

#[tokio::test]
async fn the_actor_reaches_work_in_tasks_of_its_own() {
    let world = World::new();
    let project = world.project("p").await;
    let actor = Actor { key: KeyId::new(), request: None };
    actor::scope(actor, world.deploy(&project, "d", b"one")).await.unwrap();
    let log = world.store.records().audit_log(&all()).await.unwrap();
    assert_eq!((log[0].action.as_str(), log[0].actor), ("deployment.deploy", Some(actor.key)));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    assert!(u128::try_from(log[0].at).unwrap().abs_diff(now) < 60_000_000);
}

#[tokio::test]
async fn the_trail_is_read_in_parts_and_by_whose_it_is() {
    let world = World::new();
    let (ours, theirs) = (world.project("ours").await, world.project("theirs").await);
    let actor = Actor { key: KeyId::new(), request: None };
    let upload = |number: i64| Digest::of(&number.to_be_bytes());
    let records = world.store.records();
    for number in 0..6 {
        let project = if number % 2 == 0 { &ours } else { &theirs };
        actor::scope(actor, records.note_upload(project.id, upload(number), number)).await.unwrap();
    }
    let read = |query: AuditQuery| {
        let records = world.store.records();
        async move { records.audit_log(&query).await.unwrap() }
    };
    // Uploads by their number, other changes by what was changed.
    let target = |row: &AuditRow| {
        let number = (0..6).find(|number| row.target.ends_with(&upload(*number).to_string()));
        number.map_or_else(|| row.target.clone(), |number| number.to_string())
    };
    let targets = |rows: &[AuditRow]| rows.iter().map(target).collect::<Vec<_>>();
    let by_actor = read(AuditQuery { actor: Some(actor.key), ..all() }).await;
    assert_eq!(targets(&by_actor), ["5", "4", "3", "2", "1", "0"]);
    let page = read(AuditQuery { actor: Some(actor.key), below: Some(by_actor[1].id), limit: 2, ..all() }).await;
    assert_eq!(targets(&page), ["3", "2"]);
    let own = read(AuditQuery { tenant: Some(ours.tenant), ..all() }).await;
    assert!(own.iter().all(|row| row.tenant == Some(ours.tenant)));
    assert_eq!(targets(&own), ["4", "2", "0", "ours", "ours"]);
    let of_project = read(AuditQuery { project: Some(theirs.id), ..all() }).await;
    assert_eq!(targets(&of_project), ["5", "3", "1", "theirs"]);
    let (first, last) = (by_actor[5].at, by_actor[0].at);
    assert!(read(AuditQuery { since: Some(last + 1), ..all() }).await.is_empty());
    let earlier = read(AuditQuery { until: Some(first), ..all() }).await;
    assert!(!earlier.is_empty() && earlier.iter().all(|row| row.at < first));
}
