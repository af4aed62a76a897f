#![expect(clippy::unwrap_used, reason = "tests")]

mod crash;
pub(crate) mod model;
mod money;
mod redo;
mod tamper;

use std::sync::Arc;

use mayfly_ledger::{
    AnswerScope, Append, Call, Channel, CountedBy, GroupBy, Journal, JournalError, KeptAnswer, Kind, Outcome, Position,
    Row, RowLine, UsageQuery,
};
use mayfly_types::{DeploymentId, KeyId, Meter, ModelId, ProjectId, RequestId, RevisionId, TenantId};

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

/// Lines of (meter, model, quantity); model 0 is none.
fn unpriced(lines: &[(Meter, u8, i64)]) -> Vec<RowLine> {
    let line = |&(meter, n, quantity): &(Meter, u8, i64)| {
        let model = (n > 0).then(|| model(n));
        RowLine { meter, model, quantity, price: None, amount: None }
    };
    lines.iter().map(line).collect()
}

fn row(kind: Kind, call: &Arc<Call>, at: i64, lines: Vec<RowLine>) -> Row {
    let outcome = match kind {
        Kind::Settle => Some(Outcome::Completed),
        Kind::Void => Some(Outcome::HostFault),
        Kind::Open | Kind::Progress | Kind::Correct => None,
    };
    let ends = outcome.is_some();
    Row {
        kind,
        call: call.clone(),
        at,
        lines,
        outcome,
        status: 200,
        cold: ends.then(|| "instance".into()),
        duration_micros: ends.then(|| at - call.opened_at),
    }
}

/// A call that ended, in one row.
fn ended(call: &Arc<Call>, outcome: Outcome, lines: &[(Meter, u8, i64)]) -> Row {
    Row { outcome: Some(outcome), ..row(Kind::Settle, call, call.opened_at + 500, unpriced(lines)) }
}

fn open() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

async fn append(journal: &Arc<dyn Journal>, rows: impl Into<Vec<Row>>) -> Result<Position, JournalError> {
    journal.append(Append { rows: rows.into(), answer: None }).await
}

async fn sums(journal: &Arc<dyn Journal>, query: UsageQuery) -> Vec<(Vec<String>, Option<Meter>, i64)> {
    let rows = journal.usage(&query).await.unwrap();
    rows.into_iter().map(|row| (row.group, row.meter, row.quantity)).collect()
}

async fn assert_clean(journal: &Arc<dyn Journal>) {
    let found = journal.verify().await.unwrap();
    assert_eq!(found.problems, [] as [String; 0], "{found:?}");
}

#[tokio::test]
async fn a_call_reads_back_as_written_and_only_by_its_tenant() {
    let (_folder, store) = open();
    let journal = store.journal();
    let mut odd = Arc::unwrap_or_clone(call(2, AT));
    odd.parent = Some(RequestId::new());
    odd.root = RequestId::new();
    odd.attempt = 3;
    odd.payer = tenant(9);
    odd.served = DeploymentId::from_bytes([77; 16]);
    odd.channel = Channel::Batch;
    odd.counted_by = CountedBy::Upstream;
    let call = Arc::new(odd);
    let end = ended(&call, Outcome::GuestFault, &[(Meter::InputTokens, 2, 8), (Meter::Rows, 1, 3)]);
    assert_eq!(append(&journal, [end.clone()]).await.unwrap(), Position(1));
    let record = journal.call(Some(tenant(2)), call.id).await.unwrap().unwrap();
    assert!(record.ended);
    assert_eq!(record.latest, end);
    assert_eq!(journal.call(None, call.id).await.unwrap(), Some(record));
    assert_eq!(journal.call(Some(tenant(1)), call.id).await.unwrap(), None);
    assert_eq!(journal.call(Some(tenant(2)), RequestId::new()).await.unwrap(), None);
    assert_clean(&journal).await;
}

#[tokio::test]
async fn a_streamed_call_is_found_at_each_point() {
    let (_folder, store) = open();
    let journal = store.journal();
    let call = call(1, AT);
    let first = unpriced(&[(Meter::OutputTokens, 1, 1)]);
    let rows = [row(Kind::Open, &call, AT, vec![]), row(Kind::Progress, &call, AT + 1, first)];
    assert_eq!(append(&journal, rows).await.unwrap(), Position(2));
    let more = unpriced(&[(Meter::InputTokens, 1, 7), (Meter::OutputTokens, 1, 5)]);
    let progress = row(Kind::Progress, &call, AT + 2, more);
    append(&journal, [progress.clone()]).await.unwrap();
    let record = journal.call(Some(tenant(1)), call.id).await.unwrap().unwrap();
    assert_eq!((record.ended, record.latest), (false, progress));
    assert_eq!(sums(&journal, UsageQuery::default()).await, [], "sums are of ended calls");
    let found = journal.verify().await.unwrap();
    assert_eq!((found.rows, found.boots, found.calls, found.open, found.problems), (3, 1, 0, 1, vec![]));

    let end = ended(&call, Outcome::Completed, &[(Meter::InputTokens, 1, 7), (Meter::OutputTokens, 1, 6)]);
    append(&journal, [end.clone()]).await.unwrap();
    let record = journal.call(Some(tenant(1)), call.id).await.unwrap().unwrap();
    assert_eq!((record.ended, record.latest), (true, end));
    let expected = [(vec![], None, 1), (vec![], Some(Meter::InputTokens), 7), (vec![], Some(Meter::OutputTokens), 6)];
    assert_eq!(sums(&journal, UsageQuery::default()).await, expected, "the end replaces progress, it does not add");
    let found = journal.verify().await.unwrap();
    assert_eq!((found.rows, found.calls, found.open, found.problems), (4, 1, 0, vec![]));
}

#[tokio::test]
async fn void_takes_the_usage_away_but_the_call_counts() {
    let (_folder, store) = open();
    let journal = store.journal();
    let call = call(1, AT);
    let progress = row(Kind::Progress, &call, AT, unpriced(&[(Meter::Rows, 1, 3)]));
    append(&journal, [row(Kind::Open, &call, AT, vec![]), progress]).await.unwrap();
    append(&journal, [row(Kind::Void, &call, AT, vec![])]).await.unwrap();
    assert_eq!(sums(&journal, UsageQuery::default()).await, [(vec![], None, 1)]);
    assert_clean(&journal).await;
}

#[tokio::test]
async fn rows_out_of_order_are_refused_together() {
    let (_folder, store) = open();
    let journal = store.journal();
    let (first, second, third) = (call(1, AT), call(1, AT), call(1, AT));
    let end = ended(&first, Outcome::Completed, &[(Meter::Rows, 1, 3)]);
    append(&journal, [end.clone()]).await.unwrap();
    let both = [ended(&second, Outcome::Completed, &[(Meter::Rows, 1, 5)]), end.clone()];
    assert!(matches!(append(&journal, both).await, Err(JournalError::Failed { .. })), "a second end");
    assert_eq!(journal.call(None, second.id).await.unwrap(), None, "nothing of a refused batch stays");
    let opening = |call| row(Kind::Open, call, AT, vec![]);
    let progress = |call| row(Kind::Progress, call, AT, vec![]);
    assert!(append(&journal, [opening(&first)]).await.is_err(), "an opening after the end");
    assert!(append(&journal, [progress(&first)]).await.is_err(), "progress after the end");
    assert!(append(&journal, [progress(&third)]).await.is_err(), "progress before the opening");
    assert!(append(&journal, [row(Kind::Correct, &third, AT, vec![])]).await.is_err(), "a correction before the end");
    append(&journal, [opening(&third), progress(&third)]).await.unwrap();
    assert!(append(&journal, [opening(&third)]).await.is_err(), "opened twice");
    assert_eq!(sums(&journal, UsageQuery::default()).await, [(vec![], None, 1), (vec![], Some(Meter::Rows), 3)]);
    assert_clean(&journal).await;
}

#[tokio::test]
async fn lines_that_no_account_makes_are_refused() {
    let (_folder, store) = open();
    let journal = store.journal();
    let line = RowLine { meter: Meter::Rows, model: None, quantity: 1, price: None, amount: None };
    for bad in [
        RowLine { quantity: -1, ..line },
        RowLine { price: Some(0), amount: Some(1), ..line },
        RowLine { price: Some(1), amount: None, ..line },
        RowLine { price: None, amount: Some(1), ..line },
        RowLine { price: Some(1), amount: Some(-1), ..line },
    ] {
        assert!(append(&journal, [row(Kind::Settle, &call(1, AT), AT, vec![bad])]).await.is_err(), "{bad:?}");
    }
    let warm = Row { cold: Some("lukewarm".into()), ..ended(&call(1, AT), Outcome::Completed, &[]) };
    assert!(append(&journal, [warm]).await.is_err());
    assert_eq!(journal.verify().await.unwrap().rows, 0);
}

#[tokio::test]
async fn quantities_beyond_64_bits_are_summed_exactly() {
    let (_folder, store) = open();
    let journal = store.journal();
    for _ in 0..3 {
        append(&journal, [ended(&call(1, AT), Outcome::Completed, &[(Meter::Rows, 1, i64::MAX)])]).await.unwrap();
    }
    assert_eq!(sums(&journal, UsageQuery::default()).await[1].2, i64::MAX, "it is shown as the most there is");
    assert_clean(&journal).await;
}

#[tokio::test]
async fn sums_by_every_group() {
    let (_folder, store) = open();
    let journal = store.journal();
    let rows = [
        ended(&call(1, AT), Outcome::Completed, &[(Meter::Rows, 1, 3), (Meter::Rows, 2, 4)]),
        ended(&call(1, AT + HOUR), Outcome::ClientLeft, &[(Meter::Rows, 1, 10)]),
        ended(&call(2, AT + 24 * HOUR), Outcome::Completed, &[(Meter::Rows, 1, 100)]),
        ended(&call(2, AT), Outcome::Completed, &[(Meter::GuestCpuMicros, 0, 9)]),
    ];
    append(&journal, rows).await.unwrap();

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
    // Whole hours: down at the beginning, up at the end.
    let narrow =
        UsageQuery { model: Some(model(1)), since: Some(AT + 1), until: Some(AT + HOUR), ..UsageQuery::default() };
    assert_eq!(sums(&journal, narrow).await, [(vec![], None, 2), (vec![], rows, 13)]);
    let ada = UsageQuery { end_user: Some("ada".to_owned()), ..UsageQuery::default() };
    assert_eq!(sums(&journal, ada).await[0].2, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_calls_at_once_are_numbered_without_a_gap_and_a_bad_one_takes_nothing_with_it() {
    let (_folder, store) = open();
    let journal = store.journal();
    let twice = call(1, AT);
    let one = async |journal: Arc<dyn Journal>, call: Arc<Call>| {
        append(&journal, [ended(&call, Outcome::Completed, &[(Meter::Rows, 1, 2)])]).await
    };
    let each = (0..400).map(|n| {
        let call = if n % 50 == 7 { twice.clone() } else { call(1, AT) };
        tokio::spawn(one(journal.clone(), call))
    });
    let mut positions = Vec::new();
    for task in each.collect::<Vec<_>>() {
        positions.extend(task.await.unwrap().ok().map(|position| position.0));
    }
    positions.sort_unstable();
    // Eight tried to end the same call; one did.
    assert_eq!(positions, (1..=393).collect::<Vec<_>>());
    assert_eq!(sums(&journal, UsageQuery::default()).await, [(vec![], None, 393), (vec![], Some(Meter::Rows), 786)]);
    assert_clean(&journal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_cannot_be_applied_are_bounded_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let config = crate::Config { unapplied_bytes_max: 20_000, ..crate::Config::default() };
    let store = Store::open_with(folder.path(), &config).unwrap();
    let journal = store.journal();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let db = store.db.clone();
    let hold = move |_connection: &rusqlite::Connection| {
        let _ = begin.send(());
        Ok(wait.recv().is_ok())
    };
    let holds = tokio::spawn(async move { db.write(hold).await });
    begun.await.unwrap();
    // The writer is busy, so nothing is applied: what comes now stays in the log until that is full.
    let mut written = Vec::new();
    let full = loop {
        let call = call(1, AT);
        match append(&journal, [ended(&call, Outcome::Completed, &[])]).await {
            Ok(position) => {
                written.push(call);
                assert_eq!(position.0, i64::try_from(written.len()).unwrap());
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(full, JournalError::Full { waiting } if waiting == written.len()), "{full:?}");
    assert!((50..200).contains(&written.len()), "{} rows in 20 kB", written.len());
    go.send(()).unwrap();
    assert!(holds.await.unwrap().unwrap());
    let after = append(&journal, [ended(&call(1, AT), Outcome::Completed, &[])]).await.unwrap();
    assert_eq!(after.0, i64::try_from(written.len() + 1).unwrap(), "the refused one took no number");
    for call in written {
        assert!(journal.call(None, call.id).await.unwrap().unwrap().ended);
    }
    assert_clean(&journal).await;
}

#[tokio::test]
async fn too_many_sums_are_refused() {
    let (_folder, store) = open();
    let journal = store.journal();
    let last = i64::try_from(super::usage::SUMS_MAX / 2).unwrap();
    let rows: Vec<Row> =
        (0..=last).map(|n| ended(&call(1, AT + n * HOUR), Outcome::Completed, &[(Meter::Rows, 1, 1)])).collect();
    append(&journal, rows).await.unwrap();
    let query = UsageQuery { group_by: vec![GroupBy::Hour], ..UsageQuery::default() };
    assert!(matches!(journal.usage(&query).await, Err(JournalError::TooMany { .. })));
    let query = UsageQuery { until: Some(AT - AT % HOUR + 10 * HOUR), ..query };
    assert_eq!(sums(&journal, query).await.len(), 20);
}

#[tokio::test]
async fn an_answer_is_kept_with_the_end_of_its_call_or_not_at_all() {
    let (_folder, store) = open();
    let journal = store.journal();
    let (one, two) = (call(1, AT), call(1, AT));
    let answer = |call: &Call, scope: u8, at: i64| KeptAnswer {
        scope: AnswerScope([scope; 32]),
        request: [9; 32],
        call: call.id,
        at,
        status: 201,
        headers: vec![("content-type".to_owned(), b"text/plain".to_vec())],
        body: Some(vec![7; 1000].into()),
    };
    let with = |call: &Arc<Call>, answer| Append { rows: vec![ended(call, Outcome::Completed, &[])], answer };
    journal.append(with(&one, Some(answer(&one, 1, AT)))).await.unwrap();
    assert_eq!(journal.answer(AnswerScope([1; 32]), AT).await.unwrap(), Some(answer(&one, 1, AT)));
    assert_eq!(journal.answer(AnswerScope([1; 32]), AT + 1).await.unwrap(), None, "too old");
    assert_eq!(journal.answer(AnswerScope([2; 32]), 0).await.unwrap(), None);
    assert!(journal.append(with(&one, Some(answer(&one, 2, AT)))).await.is_err(), "a second end");
    assert_eq!(journal.answer(AnswerScope([2; 32]), 0).await.unwrap(), None, "nothing of it stays");
    assert!(journal.append(with(&two, Some(answer(&one, 2, AT)))).await.is_err(), "another call's answer");
    assert!(journal.append(Append { rows: vec![], answer: Some(answer(&two, 2, AT)) }).await.is_err());
    let without_body = KeptAnswer { body: None, ..answer(&two, 2, AT + 1) };
    journal.append(with(&two, Some(without_body.clone()))).await.unwrap();
    assert_eq!(journal.answer(AnswerScope([2; 32]), 0).await.unwrap(), Some(without_body));

    for n in 10..250 {
        let call = call(1, AT);
        journal.append(with(&call, Some(answer(&call, n, AT + i64::from(n))))).await.unwrap();
    }
    assert_eq!(journal.forget_answers(AT, u64::MAX).await.unwrap(), 0);
    assert_eq!(journal.forget_answers(AT + 2, u64::MAX).await.unwrap(), 2, "those that are too old");
    // Each counts 1,190 bytes: 16 stay, the newest.
    assert_eq!(journal.forget_answers(AT, 20_000).await.unwrap(), 224);
    assert!(journal.answer(AnswerScope([249; 32]), 0).await.unwrap().is_some());
    assert_eq!(journal.answer(AnswerScope([233; 32]), 0).await.unwrap(), None);
    assert_eq!(journal.forget_answers(AT, 20_000).await.unwrap(), 0);
}
