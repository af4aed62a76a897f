//! The database file: one thread that writes, a few connections that read.
//!
//! [`Db::write`] runs a closure in a transaction and returns once it is committed. Writes that are queued together
//! are committed together (each in its own savepoint, so one that fails takes nothing with it): many small rows cost
//! one commit. A commit survives SIGKILL (WAL, `synchronous=NORMAL`). What the rows mean is left to the other files.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::DbError;

/// Writes waiting for the writer thread; one more is refused.
const WRITES_WAITING_MAX: usize = 8192;
/// Writes that share one commit.
const WRITES_PER_COMMIT_MAX: usize = 512;
/// Connections that read.
const READERS: usize = 3;
/// Reads waiting for a connection; one more is refused.
const READS_WAITING_MAX: usize = 4096;
/// Page cache of one connection. Small on purpose: the system's page cache holds the file.
const PAGE_CACHE_KIB: i64 = 512;
/// Bytes the write-ahead log keeps on disk after a checkpoint.
const WAL_KEPT_BYTES: i64 = 16 << 20;

/// The database. Clones share it; when the last is dropped the writer thread ends.
#[derive(Debug, Clone)]
pub(crate) struct Db(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    writes: mpsc::Sender<Message>,
    idle: Mutex<Vec<Connection>>,
    reading: Semaphore,
    waiting: Semaphore,
    path: PathBuf,
}

enum Message {
    Write(Box<dyn Write>),
    Close(oneshot::Sender<()>),
}

/// A write on its way through the writer thread.
trait Write: Send {
    /// Runs the closure; on failure its work must be undone.
    fn run(&mut self, connection: &Connection) -> Result<(), DbError>;
    /// Its transaction did not begin or was undone: without a failure of its own it has failed with `error`.
    fn fail(&mut self, error: &DbError);
    /// Tells the caller. The transaction has ended.
    fn reply(self: Box<Self>);
}

struct Pending<T, F> {
    work: Option<F>,
    result: Option<Result<T, DbError>>,
    reply: oneshot::Sender<Result<T, DbError>>,
}

impl<T, F> Write for Pending<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, DbError> + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), DbError> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let result = guarded(|| work(connection));
        let outcome = result.as_ref().map(|_value| ()).map_err(Clone::clone);
        self.result = Some(result);
        outcome
    }

    fn fail(&mut self, error: &DbError) {
        if !matches!(self.result, Some(Err(_))) {
            self.result = Some(Err(error.clone()));
        }
    }

    fn reply(self: Box<Self>) {
        // The caller may have left; its write stands all the same.
        let _ = self.reply.send(self.result.unwrap_or(Err(DbError::Closed)));
    }
}

/// A panic in a closure is that operation's failure, not the end of the store.
fn guarded<T>(work: impl FnOnce() -> Result<T, DbError>) -> Result<T, DbError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(DbError::Failed { detail: panic_text(&*panic) }))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    format!("a database operation panicked: {text}")
}

impl Db {
    /// Opens the file at `path` (made already, so that its mode is ours), brings it to the newest format with
    /// `prepare` and starts the writer thread, which keeps `guard` (the folder's lock) until it ends.
    pub(crate) fn open<E: From<DbError>>(
        path: &Path,
        guard: impl Send + 'static,
        prepare: impl FnOnce(&mut Connection) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        prepare(&mut writer)?;
        let (writes, queue) = mpsc::channel(WRITES_WAITING_MAX);
        std::thread::Builder::new()
            .name("mayfly-store-writer".to_owned())
            .spawn(move || {
                let closed = write_until_closed(writer, queue);
                // The lock goes first, so that whoever waits for the close can open the folder again.
                drop(guard);
                if let Some(closed) = closed {
                    let _ = closed.send(());
                }
            })
            .map_err(|error| DbError::Failed { detail: format!("the writer thread could not be started: {error}") })?;
        Ok(Self(Arc::new(Inner {
            writes,
            idle: Mutex::new(Vec::with_capacity(READERS)),
            reading: Semaphore::new(READERS),
            waiting: Semaphore::new(READS_WAITING_MAX),
            path: path.to_owned(),
        })))
    }

    /// Runs `work` in a transaction on the writer thread and returns its result once the transaction is committed
    /// (or undone, if `work` failed). `work` never ends the transaction itself and does no slow work: every other
    /// write waits for it. A write that was queued is done even if the caller stops waiting.
    ///
    /// # Errors
    /// What `work` returned; [`DbError::Busy`] at once if too many writes wait; the commit's failure. Nothing is
    /// written then.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let pending = Pending { work: Some(work), result: None, reply };
        self.0.writes.try_send(Message::Write(Box::new(pending))).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DbError::Busy { waiting: WRITES_WAITING_MAX },
            mpsc::error::TrySendError::Closed(_) => DbError::Closed,
        })?;
        answer.await.unwrap_or(Err(DbError::Closed))
    }

    /// Runs `work` on a read-only connection off the async threads. It sees one state of the database (a snapshot)
    /// in which every write that has returned is contained.
    ///
    /// # Errors
    /// What `work` returned; [`DbError::Busy`] at once if too many reads wait.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    {
        let _place = self.0.waiting.try_acquire().map_err(|_full| DbError::Busy { waiting: READS_WAITING_MAX })?;
        let _turn = self.0.reading.acquire().await.map_err(|_closed| DbError::Closed)?;
        let inner = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || inner.read_now(work));
        read.await.unwrap_or_else(|error| Err(DbError::Failed { detail: error.to_string() }))
    }

    /// Writes what is queued, folds the log into the file and lets go of the folder. Later operations fail with
    /// [`DbError::Closed`].
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.0.writes.send(Message::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
        self.0.reading.close();
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Inner {
    fn read_now<T>(&self, work: impl FnOnce(&Connection) -> Result<T, DbError>) -> Result<T, DbError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        connection.prepare_cached("BEGIN")?.execute([])?;
        let result = guarded(|| work(&connection));
        connection.prepare_cached("COMMIT")?.execute([])?;
        if !self.reading.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        result
    }
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, DbError> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    if access.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            return Err(DbError::Failed { detail: format!("the file system does not allow WAL (mode is {mode})") });
        }
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
    }
    Ok(connection)
}

/// The writer thread. Returns who asked it to close, if anybody did.
fn write_until_closed(connection: Connection, mut queue: mpsc::Receiver<Message>) -> Option<oneshot::Sender<()>> {
    let mut asked = None;
    while asked.is_none() {
        let Some(first) = queue.blocking_recv() else { break };
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next.take() {
            match message {
                Message::Write(write) => batch.push(write),
                Message::Close(done) => asked = Some(done),
            }
            if asked.is_none() && batch.len() < WRITES_PER_COMMIT_MAX {
                next = queue.try_recv().ok();
            }
        }
        commit_together(&connection, batch);
    }
    queue.close();
    let mut left = Vec::new();
    while let Ok(Message::Write(write)) = queue.try_recv() {
        left.push(write);
    }
    commit_together(&connection, left);
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(())) {
        tracing::warn!(%error, "the write-ahead log was not folded into the database; the next start does it");
    }
    asked
}

/// One transaction for all of `batch`. Usually one round; a disk that fills up ends the transaction under our hands,
/// then what was in it fails and the rest gets a transaction of its own.
fn commit_together(connection: &Connection, mut batch: Vec<Box<dyn Write>>) {
    while !batch.is_empty() {
        let rest = match try_commit(connection, &mut batch) {
            Ok(()) => Vec::new(),
            Err((done, error)) => {
                if !connection.is_autocommit() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
                let rest = batch.split_off(done);
                for write in &mut batch {
                    write.fail(&error);
                }
                rest
            }
        };
        for write in batch {
            write.reply();
        }
        batch = rest;
    }
}

/// On failure says how many of `batch` belong to the transaction that was lost.
fn try_commit(connection: &Connection, batch: &mut [Box<dyn Write>]) -> Result<(), (usize, DbError)> {
    let run = |sql: &str| connection.prepare_cached(sql)?.execute([]).map(|_count| ());
    let total = batch.len();
    run("BEGIN IMMEDIATE").map_err(|error| (total, error.into()))?;
    for (index, write) in batch.iter_mut().enumerate() {
        let lost = |error: rusqlite::Error| (index + 1, DbError::from(error));
        run("SAVEPOINT one").map_err(lost)?;
        let outcome = write.run(connection);
        if connection.is_autocommit() {
            let detail = "the transaction ended early".to_owned();
            return Err((index + 1, outcome.err().unwrap_or(DbError::Failed { detail })));
        }
        if outcome.is_err() {
            run("ROLLBACK TO one").map_err(lost)?;
        }
        run("RELEASE one").map_err(lost)?;
    }
    run("COMMIT").map_err(|error| (total, error.into()))
}

#[cfg(test)]
mod tests;
