//! Restarts, kills and torn files.

use super::*;

#[tokio::test]
async fn what_a_killed_boot_left_open_is_settled_once() {
    let (folder, store) = open();
    let journal = store.journal();
    let (open_call, done, silent) = (call(1, AT), call(1, AT), call(1, AT));
    let opening = |call: &Arc<Call>| row(Kind::Open, call, AT, vec![]);
    let usage = |quantity| unpriced(&[(Meter::OutputTokens, 1, quantity)]);
    let progress = row(Kind::Progress, &open_call, AT + 40, usage(5));
    append(&journal, [opening(&open_call), progress]).await.unwrap();
    append(&journal, [Row { status: 201, ..opening(&silent) }]).await.unwrap();
    append(&journal, [ended(&done, Outcome::Completed, &[])]).await.unwrap();
    assert_eq!(journal.recover(AT + 50).await.unwrap(), 0, "this boot's own calls are alive");
    store.close().await;
    drop((journal, store));

    let store = Store::open(folder.path()).unwrap();
    let journal = store.journal();
    let alive = call(1, AT);
    append(&journal, [opening(&alive)]).await.unwrap();
    assert_eq!(journal.recover(AT + HOUR).await.unwrap(), 2);
    assert_eq!(journal.recover(AT + HOUR).await.unwrap(), 0);
    let record = journal.call(Some(tenant(1)), open_call.id).await.unwrap().unwrap();
    assert_eq!((record.ended, record.latest.kind), (true, Kind::Settle));
    assert_eq!((record.latest.outcome, record.latest.status), (Some(Outcome::HostCrash), 200));
    assert_eq!((record.latest.at, record.latest.duration_micros), (AT + HOUR, Some(40)));
    assert_eq!(record.latest.lines, usage(5));
    let record = journal.call(None, silent.id).await.unwrap().unwrap();
    let silent = (record.latest.outcome, record.latest.status, record.latest.lines.len());
    assert_eq!(silent, (Some(Outcome::HostCrash), 201, 0));
    assert!(!journal.call(None, alive.id).await.unwrap().unwrap().ended);
    assert!(append(&journal, [ended(&open_call, Outcome::Completed, &[])]).await.is_err());
    assert_eq!(
        sums(&journal, UsageQuery::default()).await,
        [(vec![], None, 3), (vec![], Some(Meter::OutputTokens), 5)]
    );
    let found = journal.verify().await.unwrap();
    assert_eq!((found.boots, found.calls, found.open, found.problems), (2, 3, 1, vec![]));
}

#[tokio::test]
async fn each_start_has_a_chain_of_its_own() {
    let (folder, store) = open();
    let mut store = store;
    for boot in 1..=3 {
        let journal = store.journal();
        for _ in 0..boot {
            append(&journal, [ended(&call(1, AT), Outcome::Completed, &[])]).await.unwrap();
        }
        let found = journal.verify().await.unwrap();
        assert_eq!((found.boots, found.problems), (boot, vec![]));
        store.close().await;
        store = Store::open(folder.path()).unwrap();
    }
    assert_eq!(store.journal().verify().await.unwrap().rows, 6, "a start that wrote nothing has no chain");
}

#[tokio::test]
async fn rows_stay_small() {
    const ROWS: i64 = 200_000;
    let (folder, store) = open();
    let journal = store.journal();
    let lines = [(Meter::InputTokens, 1, 12), (Meter::InferenceMicros, 1, 3_456), (Meter::GuestCpuMicros, 0, 171)];
    for hundred in 0..ROWS / 500 {
        let row = |n: i64| {
            let at = AT + (hundred * 500 + n) * 13_000_000;
            ended(&call(u8::try_from(n % 20).unwrap(), at), Outcome::Completed, &lines)
        };
        append(&journal, (0..500).map(row).collect::<Vec<_>>()).await.unwrap();
    }
    let found = journal.verify().await.unwrap();
    assert_eq!((found.rows, found.problems), (200_000, vec![]));
    store.close().await;
    let bytes = std::fs::metadata(folder.path().join("mayfly.db")).unwrap().len();
    let each = bytes / u64::try_from(ROWS).unwrap();
    // For the reader of the test's output: `--nocapture`.
    std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{each} bytes of file for each row\n")).unwrap();
    assert!(each < 400, "{each} bytes for each row");
}
