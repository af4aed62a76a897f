use std::sync::Arc;

use mayfly_ledger::{
    Account, Call, Channel, CountedBy, GroupBy, Journal, JournalError, Kind, Outcome, Row, UsageQuery,
};
use mayfly_types::{DeploymentId, KeyId, Line, Meter, ModelId, ProjectId, RequestId, RevisionId, TenantId};

use crate::Store;

/// 2026-01-02T03:04:05Z.
const AT: i64 = 1_767_323_045_000_000;
const HOUR: i64 = 3_600_000_000;

fn tenant(n: u8) -> TenantId {
    TenantId::from_bytes([n; 16])
}

fn model(n: u8) -> ModelId {
    ModelId::from_bytes([n; 16])
}

fn call(owner: u8, opened_at: i64) -> Arc<Call> {
    let id = RequestId::new();
    let deployment = DeploymentId::from_bytes([owner + 100; 16]);
    Arc::new(Call {
        id,
        parent: None,
        root: id,
        attempt: 1,
        tenant: tenant(owner),
        payer: tenant(owner),
        project: ProjectId::from_bytes([owner + 50; 16]),
        requested: deployment,
        served: deployment,
        revision: RevisionId::from_bytes([4; 16]),
        deployment_name: "embedder".parse().unwrap(),
        key: KeyId::from_bytes([5; 16]),
        end_user: (owner == 2).then(|| "ada".into()),
        channel: Channel::Api,
        counted_by: CountedBy::Host,
        opened_at,
    })
}

fn use_up(account: &mut Account, lines: &[(Meter, u8, u64)]) {
    let line = |&(meter, n, quantity): &(Meter, u8, u64)| Line { meter, model: Some(model(n)), quantity };
    account.record(&lines.iter().map(line).collect::<Vec<_>>());
}

/// A call that ended, in one row.
fn ended(call: &Arc<Call>, outcome: Outcome, lines: &[(Meter, u8, u64)]) -> Vec<Row> {
    let mut account = Account::new(call.clone());
    use_up(&mut account, lines);
    vec![account.end(call.opened_at + 500, 200, outcome, "instance").unwrap()]
}

fn open() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

async fn sums(journal: &Arc<dyn Journal>, query: UsageQuery) -> Vec<(Vec<String>, Option<Meter>, i64)> {
    let rows = journal.usage(&query).await.unwrap();
    rows.into_iter().map(|row| (row.group, row.meter, row.quantity)).collect()
}

#[tokio::test]
async fn a_call_reads_back_as_written_and_only_by_its_tenant() {
    let (_folder, store) = open();
    let journal = store.journal();
    let mut odd = Arc::unwrap_or_clone(call(2, AT));
    odd.parent = Some(RequestId::new());
    odd.root = RequestId::new();
    odd.payer = tenant(9);
    odd.served = DeploymentId::from_bytes([77; 16]);
    let call = Arc::new(odd);
    let rows = ended(&call, Outcome::GuestFault, &[(Meter::Rows, 1, 3), (Meter::InputTokens, 2, 8)]);
    journal.append(rows.clone()).await.unwrap();
    let record = journal.call(tenant(2), call.id).await.unwrap().unwrap();
    assert!(record.ended);
    assert_eq!(record.latest, rows[0]);
    assert_eq!(journal.call(tenant(1), call.id).await.unwrap(), None);
    assert_eq!(journal.call(tenant(2), RequestId::new()).await.unwrap(), None);
}

#[tokio::test]
async fn a_streamed_call_is_found_at_each_point() {
    let (_folder, store) = open();
    let journal = store.journal();
    let call = call(1, AT);
    let mut account = Account::new(call.clone());
    use_up(&mut account, &[(Meter::OutputTokens, 1, 1)]);
    journal.append(account.before_frame(AT + 1, 200)).await.unwrap();
    use_up(&mut account, &[(Meter::OutputTokens, 1, 4), (Meter::InputTokens, 1, 7)]);
    journal.append(account.before_frame(AT + 2, 200)).await.unwrap();
    let record = journal.call(tenant(1), call.id).await.unwrap().unwrap();
    assert_eq!((record.ended, record.latest.kind), (false, Kind::Progress));
    assert_eq!(record.latest.lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [7, 5]);
    let open_sums = [(vec![], None, 1), (vec![], Some(Meter::InputTokens), 7), (vec![], Some(Meter::OutputTokens), 5)];
    assert_eq!(sums(&journal, UsageQuery::default()).await, open_sums, "open calls count as far as they are durable");

    use_up(&mut account, &[(Meter::OutputTokens, 1, 1)]);
    journal.append(vec![account.end(AT + 3, 200, Outcome::Completed, "model").unwrap()]).await.unwrap();
    let record = journal.call(tenant(1), call.id).await.unwrap().unwrap();
    assert_eq!((record.ended, record.latest.outcome), (true, Some(Outcome::Completed)));
    assert_eq!((record.latest.cold.as_deref(), record.latest.duration_micros), (Some("model"), Some(3)));
    assert_eq!(sums(&journal, UsageQuery::default()).await[2].2, 6, "the end replaces progress, it does not add");
}

#[tokio::test]
async fn void_takes_the_usage_away_but_the_call_counts() {
    let (_folder, store) = open();
    let journal = store.journal();
    let mut account = Account::new(call(1, AT));
    use_up(&mut account, &[(Meter::Rows, 1, 3)]);
    journal.append(account.before_frame(AT, 200)).await.unwrap();
    journal.append(vec![account.end(AT, 200, Outcome::HostFault, "code").unwrap()]).await.unwrap();
    assert_eq!(sums(&journal, UsageQuery::default()).await, [(vec![], None, 1)]);
}

#[tokio::test]
async fn rows_out_of_order_are_refused_together() {
    let (_folder, store) = open();
    let journal = store.journal();
    let (first, second) = (call(1, AT), call(1, AT));
    let end = ended(&first, Outcome::Completed, &[(Meter::Rows, 1, 3)]);
    journal.append(end.clone()).await.unwrap();
    let mut both = ended(&second, Outcome::Completed, &[(Meter::Rows, 1, 5)]);
    both.extend(end);
    assert!(matches!(journal.append(both).await, Err(JournalError::Failed { .. })), "a second end");
    assert_eq!(journal.call(tenant(1), second.id).await.unwrap(), None, "nothing of a refused batch stays");
    let mut late = Account::new(first);
    assert!(journal.append(late.before_frame(AT, 200)).await.is_err(), "an opening after the end");
    let mut alone = Account::new(call(1, AT)).before_frame(AT, 200);
    alone.remove(0);
    assert!(journal.append(alone).await.is_err(), "progress of a call that never opened");
    assert_eq!(sums(&journal, UsageQuery::default()).await, [(vec![], None, 1), (vec![], Some(Meter::Rows), 3)]);
}

#[tokio::test]
async fn sums_by_every_group() {
    let (_folder, store) = open();
    let journal = store.journal();
    let mut rows = ended(&call(1, AT), Outcome::Completed, &[(Meter::Rows, 1, 3), (Meter::Rows, 2, 4)]);
    rows.extend(ended(&call(1, AT + HOUR), Outcome::ClientLeft, &[(Meter::Rows, 1, 10)]));
    rows.extend(ended(&call(2, AT + 24 * HOUR), Outcome::Completed, &[(Meter::Rows, 1, 100)]));
    let mut cpu = Account::new(call(2, AT));
    cpu.record(&[Line { meter: Meter::GuestCpuMicros, model: None, quantity: 9 }]);
    rows.extend(cpu.end(AT, 200, Outcome::Completed, "instance"));
    journal.append(rows).await.unwrap();

    let by = async |groups: &[GroupBy], of: Option<u8>, meter: Option<Meter>| {
        let query = UsageQuery { tenant: of.map(tenant), group_by: groups.to_vec(), ..UsageQuery::default() };
        let rows = sums(&journal, query).await.into_iter().filter(|row| row.1 == meter);
        rows.map(|(group, _, quantity)| (group.join(" "), quantity)).collect::<Vec<_>>()
    };
    let rows = Some(Meter::Rows);
    let check = |found: Vec<(String, i64)>, expected: &[(String, i64)]| assert_eq!(found, expected);
    check(by(&[GroupBy::Tenant], None, rows).await, &[(tenant(1).to_string(), 17), (tenant(2).to_string(), 100)]);
    check(by(&[GroupBy::Model], Some(1), rows).await, &[(model(1).to_string(), 13), (model(2).to_string(), 4)]);
    check(by(&[GroupBy::Model], Some(1), None).await, &[(model(1).to_string(), 2), (model(2).to_string(), 1)]);
    check(by(&[GroupBy::Model], Some(2), None).await, &[(String::new(), 1), (model(1).to_string(), 1)]);
    check(
        by(&[GroupBy::Hour], Some(1), rows).await,
        &[("2026-01-02T03:00:00Z".to_owned(), 7), ("2026-01-02T04:00:00Z".to_owned(), 10)],
    );
    check(
        by(&[GroupBy::Day, GroupBy::EndUser], None, None).await,
        &[
            ("2026-01-02T00:00:00Z ".to_owned(), 2),
            ("2026-01-02T00:00:00Z ada".to_owned(), 1),
            ("2026-01-03T00:00:00Z ada".to_owned(), 1),
        ],
    );
    check(by(&[], Some(2), Some(Meter::GuestCpuMicros)).await, &[(String::new(), 9)]);
    for group in [GroupBy::Project, GroupBy::Deployment, GroupBy::Key] {
        let total: i64 = by(&[group], None, rows).await.iter().map(|row| row.1).sum();
        assert_eq!(total, 117, "{group:?}");
    }
    let narrow =
        UsageQuery { model: Some(model(1)), since: Some(AT + 1), until: Some(AT + 24 * HOUR), ..UsageQuery::default() };
    assert_eq!(sums(&journal, narrow).await, [(vec![], None, 1), (vec![], rows, 10)]);
}

#[tokio::test]
async fn what_a_killed_boot_left_open_is_settled_once() {
    let (folder, store) = open();
    let journal = store.journal();
    let (open_call, done, silent) = (call(1, AT), call(1, AT), call(1, AT));
    let mut account = Account::new(open_call.clone());
    use_up(&mut account, &[(Meter::OutputTokens, 1, 5)]);
    journal.append(account.before_frame(AT + 40, 200)).await.unwrap();
    journal.append(Account::new(silent.clone()).before_frame(AT, 201)).await.unwrap();
    journal.append(ended(&done, Outcome::Completed, &[])).await.unwrap();
    // What came after the last durable row is lost with the process.
    use_up(&mut account, &[(Meter::OutputTokens, 1, 90)]);
    assert_eq!(journal.recover(AT + 50).await.unwrap(), 0, "this boot's own calls are alive");
    store.close().await;
    drop((journal, store));

    let store = Store::open(folder.path()).unwrap();
    let journal = store.journal();
    let alive = call(1, AT);
    journal.append(Account::new(alive.clone()).before_frame(AT, 200)).await.unwrap();
    assert_eq!(journal.recover(AT + HOUR).await.unwrap(), 2);
    assert_eq!(journal.recover(AT + HOUR).await.unwrap(), 0);
    let record = journal.call(tenant(1), open_call.id).await.unwrap().unwrap();
    assert_eq!((record.ended, record.latest.kind), (true, Kind::Settle));
    assert_eq!((record.latest.outcome, record.latest.status), (Some(Outcome::HostCrash), 200));
    assert_eq!((record.latest.at, record.latest.duration_micros), (AT + HOUR, Some(40)));
    assert_eq!(record.latest.lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [5]);
    let record = journal.call(tenant(1), silent.id).await.unwrap().unwrap();
    assert_eq!(
        (record.latest.outcome, record.latest.status, record.latest.lines.len()),
        (Some(Outcome::HostCrash), 201, 0)
    );
    assert!(!journal.call(tenant(1), alive.id).await.unwrap().unwrap().ended);
    assert!(journal.append(vec![account.end(AT, 200, Outcome::Completed, "code").unwrap()]).await.is_err());
}

#[tokio::test]
async fn many_calls_at_once_are_numbered_without_a_gap() {
    let (_folder, store) = open();
    let journal = store.journal();
    let each = (0..200).map(|_| {
        let journal = journal.clone();
        tokio::spawn(
            async move { journal.append(ended(&call(1, AT), Outcome::Completed, &[(Meter::Rows, 1, 2)])).await },
        )
    });
    for task in each.collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    assert_eq!(sums(&journal, UsageQuery::default()).await, [(vec![], None, 200), (vec![], Some(Meter::Rows), 400)]);
    let (least, most, count): (i64, i64, i64) = store
        .db
        .read(|connection| {
            let sql = "SELECT min(seq), max(seq), count(*) FROM ledger";
            Ok(connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?)
        })
        .await
        .unwrap();
    assert_eq!((least, most, count), (1, 200, 200));
}

#[tokio::test]
async fn too_many_sums_are_refused() {
    let (_folder, store) = open();
    let journal = store.journal();
    let last = i64::try_from(super::query::SUMS_MAX / 2).unwrap();
    let rows: Vec<Row> =
        (0..=last).flat_map(|n| ended(&call(1, AT + n * HOUR), Outcome::Completed, &[(Meter::Rows, 1, 1)])).collect();
    journal.append(rows).await.unwrap();
    let query = UsageQuery { group_by: vec![GroupBy::Hour], ..UsageQuery::default() };
    assert!(matches!(journal.usage(&query).await, Err(JournalError::TooMany { .. })));
    let query = UsageQuery { until: Some(AT + 10 * HOUR), ..query };
    assert_eq!(sums(&journal, query).await.len(), 20);
}
