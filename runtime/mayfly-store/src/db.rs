//! The database file: one connection that writes, a few that read, one that moves the log into the file.
//!
//! [`Db::write`] runs a closure in a transaction and returns once it is committed; what is queued together is committed
//! together; a commit survives SIGKILL (WAL). [`Db::append`] takes rows of the ledger: they are durable in the redo log first
//! ([`intake`]) and get into the tables later ([`writer`]), so whoever reads them there asks through
//! [`Db::read_ledger`]. What the rows mean is left to the other files.

mod checkpoint;
mod commit;
mod intake;
mod queue;
mod writer;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mayfly_ledger::{AnswerScope, Append, KeptAnswer, Position};
use mayfly_types::RequestId;
use rusqlite::{Connection, OpenFlags};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, oneshot};

use crate::journal::Ledger;
use crate::journal::order::Order;
use crate::{Config, DbError, Fsync, Node, StoreError, redo};
use commit::Pending;
use intake::Intake;
use queue::{Job, Queue};
use writer::Writers;

/// Connections that read.
const READERS: usize = 3;
/// Reads waiting for a connection; one more is refused.
const READS_WAITING_MAX: usize = 4096;
/// Page cache of a connection that reads. Small on purpose: the system's page cache holds the file.
const READER_CACHE_KIB: i64 = 512;
/// Bytes of a page of a database made here.
const PAGE_BYTES: i64 = 1024;
/// Page cache of the connection that writes: the pages that every commit touches stay in it.
const WRITER_CACHE_KIB: i64 = 4096;
/// Bytes the write-ahead log keeps on disk after a checkpoint.
const WAL_KEPT_BYTES: i64 = 16 << 20;

/// What to open, and how.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    /// The file, made already, so that its mode is ours.
    pub(crate) path: &'a Path,
    /// The folder of the redo log.
    pub(crate) redo: &'a Path,
    pub(crate) config: &'a Config,
}

/// The database. Clones share it; when the last is dropped its threads end.
#[derive(Debug, Clone)]
pub(crate) struct Db(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    writers: Arc<Writers>,
    idle: Mutex<Vec<Connection>>,
    reading: Semaphore,
    waiting: Semaphore,
    path: PathBuf,
    redo: PathBuf,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.writers.queue.close(None);
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
    /// Opens the file, brings it to the newest format with `prepare`, which also says which start of which node this
    /// is, applies what an earlier start left in the redo log, and starts the threads. `guard` (the folder's lock) is
    /// kept until the writer has ended.
    pub(crate) fn open(
        opening: Opening<'_>,
        guard: impl Send + 'static,
        prepare: impl FnOnce(&mut Connection) -> Result<Node, StoreError>,
    ) -> Result<(Self, Node), StoreError> {
        let Opening { path, redo: folder, config } = opening;
        let sync = config.fsync == Fsync::Group;
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let node = prepare(&mut connection)?;
        if sync {
            connection.pragma_update(None, "synchronous", "full").map_err(DbError::from)?;
        }
        let newest = redo::replay(folder, &mut connection, node)?;
        let begun = redo::Log::begin(folder, node, newest, sync);
        let log = begun.map_err(|source| StoreError::Io { what: "redo/", source })?;
        let tables = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let order = Order::read(&tables)?;
        let checkpoints = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let queue = Arc::new(Queue::default());
        let due = {
            let queue = Arc::clone(&queue);
            move || queue.nudge()
        };
        // An append that waits for the disk must not do so on a caller's thread.
        let intake = Intake::new(order, log, tables, config.unapplied_bytes_max, !sync, due);
        let writers = Writers::start(connection, checkpoints, node, queue, intake, guard)?;
        let db = Self(Arc::new(Inner {
            writers,
            idle: Mutex::new(Vec::with_capacity(READERS)),
            reading: Semaphore::new(READERS),
            waiting: Semaphore::new(READS_WAITING_MAX),
            path: path.to_owned(),
            redo: folder.to_owned(),
        }));
        Ok((db, node))
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
        let (pending, answer) =
            Pending::new(false, move |connection: &Connection, _ledger: &mut Ledger| work(connection));
        self.0.writers.queue.push(Job::Work(Box::new(pending)))?;
        answer.await.unwrap_or(Err(DbError::Closed))
    }

    /// As [`Db::write`], for work that writes rows of the ledger.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub(crate) async fn write_ledger<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut Ledger) -> Result<T, DbError> + Send + 'static,
    {
        let (pending, answer) = Pending::new(true, work);
        self.0.writers.queue.push(Job::Work(Box::new(pending)))?;
        answer.await.unwrap_or(Err(DbError::Closed))
    }

    /// Appends rows to the ledger and returns the position of the last once they are durable in the redo log.
    ///
    /// # Errors
    /// The rows do not fit behind those that are there; the log cannot be written, or is full because the tables cannot
    /// be. Nothing is written then.
    pub(crate) async fn append(&self, append: Append) -> Result<Position, DbError> {
        self.0.writers.intake.append(append).await
    }

    /// As [`Db::read`], where every append that has returned is in the tables.
    ///
    /// # Errors
    /// As [`Db::read`], and if the tables cannot be written.
    pub(crate) async fn read_ledger<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    {
        self.applied(self.0.writers.intake.logged()).await?;
        self.read(work).await
    }

    /// As [`Db::read_ledger`], for what is read of one call only.
    ///
    /// # Errors
    /// As [`Db::read_ledger`].
    pub(crate) async fn read_call<T, F>(&self, call: RequestId, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    {
        if let Some(number) = self.0.writers.intake.unapplied_call(call.to_bytes()) {
            self.applied(number).await?;
        }
        self.read(work).await
    }

    /// The answer of `scope` that was appended and is not in the tables yet.
    pub(crate) fn unapplied_answer(&self, scope: AnswerScope) -> Option<KeptAnswer> {
        self.0.writers.intake.unapplied_answer(scope.0)
    }

    /// Returns once the tables have append `number`.
    async fn applied(&self, number: u64) -> Result<(), DbError> {
        if self.0.writers.intake.has_applied(number) {
            return Ok(());
        }
        let (done, applied) = oneshot::channel();
        self.0.writers.queue.push(Job::Apply(done))?;
        applied.await.unwrap_or(Err(DbError::Closed))
    }

    /// Files of the redo log that a start could not read to their end.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn damaged_logs(&self) -> Result<Vec<String>, DbError> {
        redo::damaged_files(&self.0.redo)
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
        if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
            // The thread's other work goes to another one, and nobody has to be woken on the way: a deployment at rest
            // waits for this.
            return tokio::task::block_in_place(|| self.0.read_now(work));
        }
        let inner = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || inner.read_now(work));
        read.await.unwrap_or_else(|error| Err(DbError::Failed { detail: error.to_string() }))
    }

    /// Runs `work` on one more read-only connection, on this thread: for work that is already off the async threads.
    ///
    /// # Errors
    /// What `work` returned.
    pub(crate) fn read_here<T>(&self, work: impl FnOnce(&Connection) -> Result<T, DbError>) -> Result<T, DbError> {
        self.0.read_now(work)
    }

    /// Writes what is queued, folds the log into the file and lets go of the folder. Later operations fail with
    /// [`DbError::Closed`].
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        self.0.writers.queue.close(Some(done));
        let _ = closed.await;
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
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.reading.is_closed() && idle.len() < READERS {
            idle.push(connection);
        }
        result
    }
}

pub(crate) fn connect(path: &Path, access: OpenFlags) -> Result<Connection, DbError> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "trusted_schema", false)?;
    let writes = access.contains(OpenFlags::SQLITE_OPEN_READ_WRITE);
    connection.pragma_update(None, "cache_size", -if writes { WRITER_CACHE_KIB } else { READER_CACHE_KIB })?;
    if writes {
        // Before the first table: a commit writes whole pages, and most commits change a few hundred bytes.
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            return Err(DbError::Failed { detail: format!("the file system does not allow WAL (mode is {mode})") });
        }
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
        // Checkpoints are another thread's work.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    }
    Ok(connection)
}

/// Keeps the writer from committing until it is dropped.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Hold {
    held: Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
}

#[cfg(test)]
impl Db {
    pub(crate) fn hold_writer(&self) -> Hold {
        let writers = Arc::clone(&self.0.writers);
        let (release, released) = std::sync::mpsc::channel();
        let (held, holds) = std::sync::mpsc::channel();
        let holder = std::thread::spawn(move || {
            let _held = writers.hold();
            let _ = held.send(());
            let _ = released.recv();
        });
        let _ = holds.recv();
        Hold { held: Some((release, holder)) }
    }
}

#[cfg(test)]
impl Drop for Hold {
    fn drop(&mut self) {
        if let Some((release, holder)) = self.held.take() {
            drop(release);
            let _ = holder.join();
        }
    }
}

#[cfg(test)]
mod tests;
