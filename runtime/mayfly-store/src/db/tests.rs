#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn open(folder: &Path) -> Db {
    let path = folder.join("db");
    std::fs::File::create(&path).unwrap();
    open_with(&path, &Config::default(), "CREATE TABLE t (x INTEGER UNIQUE, filler BLOB)")
}

fn open_with(path: &Path, config: &Config, sql: &str) -> Db {
    let prepare = |connection: &mut Connection| {
        crate::migrations::migrate(connection)?;
        connection.execute_batch(sql).map_err(DbError::from)?;
        Ok(Node { id: [1; 16], boot: 1 })
    };
    let redo = path.with_file_name("redo");
    Db::open(Opening { path, redo: &redo, config }, (), prepare).unwrap().0
}

async fn insert(db: &Db, x: i64) -> Result<(), DbError> {
    let work = move |connection: &Connection| {
        connection.execute("INSERT INTO t (x) VALUES (?1)", [x])?;
        if x < 0 { Err(DbError::Taken("negative".to_owned())) } else { Ok(()) }
    };
    db.write(work).await
}

async fn all(db: &Db) -> Vec<i64> {
    let read = |connection: &Connection| {
        let mut statement = connection.prepare("SELECT x FROM t ORDER BY x")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    db.read(read).await.unwrap()
}

#[tokio::test]
async fn one_that_fails_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    // The first holds the writer, so that the others are committed together.
    let slow = db.write(|_connection| {
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    });
    let panics = db.write::<(), _>(|_connection| panic!("on purpose"));
    let (slow, one, bad, twice, panicked, two) =
        tokio::join!(slow, insert(&db, 1), insert(&db, -1), insert(&db, 1), panics, insert(&db, 2));
    slow.unwrap();
    one.unwrap();
    two.unwrap();
    assert!(matches!(bad, Err(DbError::Taken(_))));
    assert!(matches!(twice, Err(DbError::Failed { .. })));
    assert!(matches!(panicked, Err(DbError::Failed { detail }) if detail.contains("on purpose")));
    assert_eq!(all(&db).await, [1, 2]);
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    insert(&db, 1).await.unwrap();
    let limit = |pages: i64| {
        db.write(move |connection| {
            connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_row| Ok(()))?;
            Ok(())
        })
    };
    // Just above what the empty tables take.
    limit(100).await.unwrap();
    let fill = |x: i64| {
        db.write(move |connection| {
            connection.execute("INSERT INTO t VALUES (?1, zeroblob(1000000))", [x])?;
            Ok(())
        })
    };
    let (a, b) = tokio::join!(fill(2), fill(3));
    assert!(matches!((&a, &b), (Err(DbError::Full), Err(DbError::Full))), "{a:?} {b:?}");
    insert(&db, 4).await.unwrap();
    limit(1_000_000).await.unwrap();
    fill(5).await.unwrap();
    assert_eq!(all(&db).await, [1, 4, 5]);
}

#[tokio::test]
async fn readers_cannot_write_and_a_closed_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let write = db.read(|connection| Ok(connection.execute("INSERT INTO t (x) VALUES (1)", [])?)).await;
    assert!(matches!(write, Err(DbError::ReadOnly)), "{write:?}");
    assert_eq!(all(&db).await, [] as [i64; 0]);
    // What was queued before the close is written.
    let (one, ()) = tokio::join!(insert(&db, 1), db.close());
    one.unwrap();
    assert!(matches!(insert(&db, 2).await, Err(DbError::Closed)));
    assert!(matches!(db.read(|_connection| Ok(())).await, Err(DbError::Closed)));
    let file = Connection::open(folder.path().join("db")).unwrap();
    assert_eq!(file.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[tokio::test]
async fn the_log_is_folded_while_writers_go_on_and_does_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    // 120 MiB of pages through the log, more than it may ever hold.
    for _ in 0..120 {
        db.write(|connection| {
            connection.execute_batch("DELETE FROM t; INSERT INTO t VALUES (1, zeroblob(1000000))")?;
            Ok(())
        })
        .await
        .unwrap();
    }
    let log = std::fs::metadata(folder.path().join("db-wal")).unwrap().len();
    assert!(log < 80 << 20, "{log} bytes of log");
    db.close().await;
    assert_eq!(all_after_close(folder.path()), [1]);
}

#[tokio::test]
async fn a_store_that_waits_for_the_disk_writes_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    std::fs::File::create(&path).unwrap();
    let config = Config { fsync: Fsync::Group, ..Config::default() };
    let db = open_with(&path, &config, "CREATE TABLE t (x INTEGER)");
    let full = |connection: &Connection| {
        connection.execute("INSERT INTO t VALUES (1)", [])?;
        Ok(connection.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0))?)
    };
    assert_eq!(db.write(full).await.unwrap(), 2, "synchronous is FULL");
    db.close().await;
    db.close().await;
    assert_eq!(all_after_close(folder.path()), [1]);
}

fn all_after_close(folder: &Path) -> Vec<i64> {
    let file = Connection::open(folder.join("db")).unwrap();
    let mut statement = file.prepare("SELECT x FROM t ORDER BY x").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}
