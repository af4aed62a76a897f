//! The redo log: cut anywhere, damaged, full of what the tables have, and against a list of rows.

use std::fs;
use std::path::{Path, PathBuf};

use mayfly_ledger::Grant;
use mayfly_types::{LevelId, Money};

use super::model::{Naive, Random, priced, random_append};
use super::*;
use crate::db::Hold;

/// The folder as a kill would leave it, while the store is open: files, and what was written to them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if !path.ends_with("mayfly.db-shm") {
            fs::copy(path, to).unwrap();
        }
    }
}

fn log_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("redo")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Where the last frame of a file ends: each begins with the length of what follows its head of 28 bytes.
fn written(file: &Path) -> usize {
    let bytes = fs::read(file).unwrap();
    let mut end = 96;
    loop {
        let length = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
        if length == 0 {
            return end;
        }
        end += 28 + length;
    }
}

/// A store whose rows stay in the log.
async fn held() -> (tempfile::TempDir, Store, Hold) {
    let (folder, store) = open();
    priced(&store).await;
    let hold = store.db.hold_writer();
    (folder, store, hold)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_at_any_end_of_an_append_the_rows_up_to_there_are_the_ledger() {
    let (folder, store, hold) = held().await;
    let journal = store.journal();
    let mut random = Random(11);
    let (mut calls, mut naive) = (Vec::new(), Naive::default());
    // After each append: where the log ends, and how many rows there are.
    let file = log_files(folder.path()).remove(0);
    let mut ends = vec![(written(&file), 0)];
    while ends.len() < 9 {
        let rows = random_append(&mut random, &mut calls);
        if naive.take(&rows) {
            append(&journal, rows).await.unwrap();
            ends.push((written(&file), naive.0.len()));
        } else {
            append(&journal, rows).await.unwrap_err();
        }
    }
    let base = tempfile::tempdir().unwrap();
    copy(folder.path(), base.path());
    drop(hold);
    store.close().await;
    let whole = fs::read(base.path().join("redo").join(file.file_name().unwrap())).unwrap();
    // At every byte: `redo::tests`.
    for cut in ends.iter().flat_map(|(end, _)| [end - 1, *end, end + 1]).chain([0, 50]) {
        let torn = tempfile::tempdir().unwrap();
        copy(base.path(), torn.path());
        // Never written, or cut short: a kill leaves the one, a copy may leave the other.
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        // A zero that was to be written is there all the same.
        let mut end = cut + whole[cut..].iter().take_while(|byte| **byte == 0).count();
        if cut % 2 == 0 {
            bytes.truncate(cut);
            end = cut;
        }
        fs::write(torn.path().join("redo").join(file.file_name().unwrap()), bytes).unwrap();
        let rows = ends.iter().filter(|(frame, _)| *frame <= end).map(|(_, rows)| *rows).max().unwrap_or(0);
        let left = Naive(naive.0[..rows].to_vec());
        let store = Store::open(torn.path()).unwrap();
        let journal = store.journal();
        let found = journal.verify().await.unwrap();
        assert_eq!((found.rows, found.problems), (rows as u64, vec![]), "cut at {cut} of {ends:?}");
        assert_eq!(journal.usage(&UsageQuery::default()).await.unwrap(), left.usage(&UsageQuery::default()));
        left.check_calls(&journal, &calls).await;
        let next = append(&journal, [ended(&call(1, AT), Outcome::Completed, &[])]).await.unwrap();
        assert_eq!(usize::try_from(next.0).unwrap(), rows + 1);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_before_the_end_is_told_and_kept() {
    let (folder, store, hold) = held().await;
    let journal = store.journal();
    let file = log_files(folder.path()).remove(0);
    let mut ends = Vec::new();
    for _ in 0..5 {
        append(&journal, [ended(&call(1, AT), Outcome::Completed, &[(Meter::Rows, 1, 2)])]).await.unwrap();
        ends.push(written(&file));
    }
    let base = tempfile::tempdir().unwrap();
    copy(folder.path(), base.path());
    drop(hold);
    store.close().await;
    let name = file.file_name().unwrap();
    for (place, rows) in [(ends[0] + 3, 1), (ends[1] - 1, 1), (ends[3] - 40, 3)] {
        let other = tempfile::tempdir().unwrap();
        copy(base.path(), other.path());
        let mut bytes = fs::read(base.path().join("redo").join(name)).unwrap();
        bytes[place] ^= 0x10;
        fs::write(other.path().join("redo").join(name), bytes).unwrap();
        for _ in 0..2 {
            let store = Store::open(other.path()).unwrap();
            let found = store.journal().verify().await.unwrap();
            assert_eq!((found.rows, found.problems.len()), (rows, 1), "byte {place}: {found:?}");
            assert!(found.problems[0].starts_with("redo/damaged-"), "{found:?}");
            store.close().await;
        }
    }
    // The last one: an append that was on its way looks the same.
    let mut bytes = fs::read(base.path().join("redo").join(name)).unwrap();
    bytes[ends[4] - 1] ^= 0x10;
    fs::write(base.path().join("redo").join(name), bytes).unwrap();
    let store = Store::open(base.path()).unwrap();
    let found = store.journal().verify().await.unwrap();
    assert_eq!((found.rows, found.problems), (4, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_and_doubles_nothing() {
    for seed in 1..=4 {
        let mut folder = tempfile::tempdir().unwrap();
        let mut random = Random(seed * 77);
        let (mut calls, mut naive) = (Vec::new(), Naive::default());
        let mut store = Store::open(folder.path()).unwrap();
        priced(&store).await;
        for round in 0..5 {
            let journal = store.journal();
            let hold = (random.below(2) == 0).then(|| store.db.hold_writer());
            for _ in 0..random.below(80) {
                let rows = random_append(&mut random, &mut calls);
                let takes = naive.take(&rows);
                let expected = takes.then_some(Position(i64::try_from(naive.0.len()).unwrap()));
                assert_eq!(append(&journal, rows).await.ok(), expected, "seed {seed}, round {round}");
                if random.below(20) == 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(random.below(120))).await;
                }
            }
            let killed = tempfile::tempdir().unwrap();
            // The writer is kept still, as a process that is dead is.
            let still = hold.unwrap_or_else(|| store.db.hold_writer());
            copy(folder.path(), killed.path());
            drop(still);
            drop((journal, std::mem::replace(&mut store, Store::open(killed.path()).unwrap())));
            folder = killed;
            let journal = store.journal();
            let found = journal.verify().await.unwrap();
            assert_eq!((found.rows, found.problems), (naive.0.len() as u64, vec![]), "seed {seed}, round {round}");
            naive.check_calls(&journal, &calls).await;
            let all = UsageQuery::default();
            assert_eq!(journal.usage(&all).await.unwrap(), naive.usage(&all));
        }
        store.close().await;
        assert_eq!(log_files(folder.path()), [] as [PathBuf; 0], "a clean stop leaves no log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_used_again_and_large_appends_get_one_of_their_own() {
    let (folder, store) = open();
    let journal = store.journal();
    let body: std::sync::Arc<[u8]> = vec![1; 900_000].into();
    let kept = |call: &Call, scope: u8, body| KeptAnswer {
        scope: AnswerScope([scope; 32]),
        request: [1; 32],
        call: call.id,
        at: AT,
        status: 200,
        headers: vec![("a".to_owned(), vec![0, 255])],
        body: Some(body),
    };
    for n in 0..40 {
        let call = call(1, AT);
        let answer = kept(&call, n, body.clone());
        let rows = vec![ended(&call, Outcome::Completed, &[])];
        journal.append(Append { rows, answer: Some(answer.clone()) }).await.unwrap();
        assert_eq!(journal.answer(AnswerScope([n; 32]), AT).await.unwrap(), Some(answer), "before it is applied");
        assert_eq!(journal.answer(AnswerScope([n; 32]), AT + 1).await.unwrap(), None, "too old");
        if n % 4 == 0 {
            journal.usage(&UsageQuery::default()).await.unwrap();
        }
    }
    // 36 MB went through files of 4 MiB: those that are applied are written over.
    assert!(log_files(folder.path()).len() <= 5, "{:?}", log_files(folder.path()));
    let call = call(1, AT);
    let large: std::sync::Arc<[u8]> = vec![2; 6 << 20].into();
    let rows = vec![ended(&call, Outcome::Completed, &[])];
    let hold = store.db.hold_writer();
    journal.append(Append { rows, answer: Some(kept(&call, 99, large)) }).await.unwrap();
    let killed = tempfile::tempdir().unwrap();
    copy(folder.path(), killed.path());
    drop(hold);
    let after = Store::open(killed.path()).unwrap();
    let answer = after.journal().answer(AnswerScope([99; 32]), AT).await.unwrap().unwrap();
    assert_eq!((answer.call, answer.body.unwrap().len()), (call.id, 6 << 20));
    let found = after.journal().verify().await.unwrap();
    assert_eq!((found.rows, found.problems), (41, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn grants_between_appends_take_their_place() {
    let (folder, store) = open();
    let journal = store.journal();
    let mut tasks = Vec::new();
    for n in 0..200_i64 {
        let journal = journal.clone();
        tasks.push(tokio::spawn(async move {
            if n % 20 == 3 {
                let level = LevelId::Tenant(tenant(1));
                journal.grant(Grant { level, amount: Money::from_pico(5), note: String::new(), at: AT }).await
            } else {
                append(&journal, [ended(&call(1, AT), Outcome::Completed, &[(Meter::Rows, 1, 1)])]).await
            }
        }));
    }
    let mut positions = Vec::new();
    for task in tasks {
        positions.push(task.await.unwrap().unwrap().0);
    }
    positions.sort_unstable();
    assert_eq!(positions, (1..=200).collect::<Vec<_>>());
    let killed = tempfile::tempdir().unwrap();
    let hold = store.db.hold_writer();
    append(&journal, [ended(&call(1, AT), Outcome::Completed, &[])]).await.unwrap();
    copy(folder.path(), killed.path());
    drop(hold);
    let after = Store::open(killed.path()).unwrap();
    let found = after.journal().verify().await.unwrap();
    assert_eq!((found.rows, found.problems), (201, vec![]));
    assert_eq!(after.journal().credit(LevelId::Tenant(tenant(1))).await.unwrap().unwrap().grants.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_another_folder_is_refused() {
    let (folder, store, hold) = held().await;
    append(&store.journal(), [ended(&call(1, AT), Outcome::Completed, &[])]).await.unwrap();
    let (other, theirs) = open();
    theirs.close().await;
    copy(&folder.path().join("redo"), &other.path().join("redo"));
    assert!(matches!(Store::open(other.path()), Err(crate::StoreError::ForeignLog)));
    assert_eq!(log_files(other.path()).len(), 1, "it is left as it was");
    drop(hold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_wait_for_the_disk_share_it_and_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = crate::Config { fsync: crate::Fsync::Group, ..crate::Config::default() };
    let store = Store::open_with(folder.path(), &config).unwrap();
    let journal = store.journal();
    let hold = store.db.hold_writer();
    let one = |_| append(&journal, [ended(&call(1, AT), Outcome::Completed, &[])]);
    let positions = futures::future::join_all((0..50).map(one)).await;
    let mut positions: Vec<i64> = positions.into_iter().map(|position| position.unwrap().0).collect();
    positions.sort_unstable();
    assert_eq!(positions, (1..=50).collect::<Vec<_>>());
    let killed = tempfile::tempdir().unwrap();
    copy(folder.path(), killed.path());
    drop(hold);
    let found = Store::open(killed.path()).unwrap().journal().verify().await.unwrap();
    assert_eq!((found.rows, found.problems), (50, vec![]));
}

#[tokio::test]
async fn ends_of_long_ago_are_looked_up() {
    let (folder, store) = open();
    let (done, opened, never) = (call(1, AT), call(1, AT), call(1, AT));
    let end = |call: &Arc<Call>| [ended(call, Outcome::Completed, &[])];
    let journal = store.journal();
    append(&journal, end(&done)).await.unwrap();
    append(&journal, [row(Kind::Open, &opened, AT, vec![])]).await.unwrap();
    append(&journal, end(&call(1, AT))).await.unwrap();
    store.close().await;
    // Nothing is remembered of these now, and a later call is in the tables.
    let store = Store::open(folder.path()).unwrap();
    let journal = store.journal();
    append(&journal, end(&done)).await.unwrap_err();
    append(&journal, [row(Kind::Open, &done, AT, vec![])]).await.unwrap_err();
    append(&journal, end(&never)).await.unwrap();
    append(&journal, end(&opened)).await.unwrap();
    append(&journal, end(&opened)).await.unwrap_err();
    assert_clean(&journal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_a_recovery_ended_are_ended() {
    let (folder, store) = open();
    let left = call(1, AT);
    append(&store.journal(), [row(Kind::Open, &left, AT, vec![])]).await.unwrap();
    store.close().await;
    let store = Store::open(folder.path()).unwrap();
    let journal = store.journal();
    let hold = store.db.hold_writer();
    append(&journal, [ended(&call(1, AT), Outcome::Completed, &[])]).await.unwrap();
    drop(hold);
    assert_eq!(journal.recover(AT).await.unwrap(), 1);
    append(&journal, [ended(&left, Outcome::Completed, &[])]).await.unwrap_err();
    append(&journal, [row(Kind::Progress, &left, AT, vec![])]).await.unwrap_err();
    let next = append(&journal, [ended(&call(1, AT), Outcome::Completed, &[])]).await.unwrap();
    assert_eq!(next, Position(4));
    assert_clean(&journal).await;
}
