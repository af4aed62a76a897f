//! What many registered deployments cost. Alone in its process, so that the memory it sees is its own.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _};
use mayfly_registry::*;
use mayfly_store::Store;
use mayfly_types::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_deployments_cost_little() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let records = store.records();
    let tenant = Tenant { id: TenantId::new(), name: name("p"), limits: LevelLimits::default(), created_at: 1 };
    let project = Project {
        id: ProjectId::new(),
        tenant: tenant.id,
        name: name("p"),
        limits: LevelLimits::default(),
        created_at: 1,
    };
    records.insert_tenant(&tenant).await.unwrap();
    records.insert_project(&project).await.unwrap();
    let spec = RevisionSpec {
        handler: HandlerRecord { digest: Digest::of(b"x"), builtin: None },
        models: Default::default(),
        config: Default::default(),
        limits: GuestLimits::default(),
        filter: Default::default(),
        share_prefixes: false,
        scale: Default::default(),
    };
    let writes = (0..10_000).map(|number| {
        let (records, spec, name) = (records.clone(), spec.clone(), name(&format!("d{number}")));
        async move { records.deploy(project.id, &name, &spec, 1).await.map(drop) }
    });
    // Many at once: they share commits.
    futures::stream::iter(writes).buffer_unordered(500).try_collect::<()>().await.unwrap();
    store.close().await;

    let before = resident_kib();
    let began = Instant::now();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.records().deployment_count().await.unwrap(), 10_000);
    assert!(store.records().deployment_named(project.id, "d7777").await.unwrap().is_some());
    let took = began.elapsed();
    let grown = resident_kib().saturating_sub(before);
    assert!(took.as_millis() < 1_000, "opening and counting took {took:?}");
    // Nothing may be kept per deployment: 10,000 specs alone would be some 10 MiB.
    assert!(grown < 6 * 1024, "{grown} KiB more after the restart");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
