//! Who commits: a caller for itself and those beside it, else the writer thread.
//!
//! Handing rows to a thread and back costs more than the commit, and a commit of its own for each call costs more than
//! all its rows. So the first caller with nobody before it leads: it lets everything else that is ready to run come
//! first, which under load brings the rows of the other calls together, and commits them all; when nothing else is
//! ready that wait is one look at the sockets. Who came while it committed is led by the first of them. The thread
//! takes what is no append, and all of it where commits wait for the disk. Nobody ever waits for another's commit on
//! its own thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mayfly_ledger::{Append, Position};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::checkpoint::Log;
use super::commit::{Appending, commit_together};
use super::queue::{Job, Queue};
use crate::DbError;
use crate::journal::Ledger;

/// Writes that share one commit.
const WRITES_PER_COMMIT_MAX: usize = 512;
/// How often a leader lets other tasks come first. Each time costs a look at the sockets where nothing is ready.
const LEADER_YIELDS: usize = 6;
/// Appends that a caller's thread commits at once.
const APPENDS_PER_LEADER_MAX: usize = 64;
/// A commit that takes longer on a caller's thread sends the next ones to the writer thread...
const LED_COMMIT_MAX: Duration = Duration::from_millis(5);
/// ... for this long.
const SLOW_FOR: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Writers {
    pub(super) queue: Queue,
    /// None once the store is closed.
    writer: Mutex<Option<Writer>>,
    log: Arc<Log>,
    /// Callers may commit.
    callers: bool,
    /// Milliseconds since `began` until which commits count as slow.
    slow_until: AtomicU64,
    began: Instant,
}

#[derive(Debug)]
struct Writer {
    connection: Connection,
    ledger: Ledger,
}

impl Writers {
    /// Starts the writer thread and the one for checkpoints. `guard` is kept until the writer has ended.
    pub(super) fn start(
        mut connection: Connection,
        checkpoints: Connection,
        ledger: Ledger,
        callers: bool,
        guard: impl Send + 'static,
    ) -> Result<Arc<Self>, DbError> {
        let log = Arc::new(Log::default());
        log.watch(&mut connection)?;
        let writers = Arc::new(Self {
            queue: Queue::default(),
            writer: Mutex::new(Some(Writer { connection, ledger })),
            log,
            callers,
            slow_until: AtomicU64::new(0),
            began: Instant::now(),
        });
        let this = Arc::clone(&writers);
        let copier = spawn("mayfly-store-checkpoint", move || {
            this.log.checkpoint_until_stopped(&checkpoints, || this.hold());
        })?;
        let this = Arc::clone(&writers);
        let writer = spawn("mayfly-store-writer", move || {
            this.write_until_closed();
            this.log.stop();
            // It only ends early by a panic, which has been reported.
            let _ = copier.join();
            this.finish();
            // The lock goes first, so that whoever waits for the close can open the folder again.
            drop(guard);
            this.queue.ended();
        });
        if writer.is_err() {
            writers.log.stop();
        }
        writer?;
        Ok(writers)
    }

    fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As long as what this gives is there, nothing is committed.
    pub(super) fn hold(&self) -> impl Sized {
        self.writer()
    }

    /// Hands a job over to the writer thread.
    pub(super) fn send(&self, job: Job) -> Result<(), DbError> {
        self.queue.push(job, false).map(drop)
    }

    /// Appends rows; they are committed when this returns.
    pub(super) async fn append(&self, append: Append) -> Result<Position, DbError> {
        let (reply, mut answer) = oneshot::channel();
        let (lead, called) = oneshot::channel();
        let job = Job::Append(Appending { append, reply, lead: Some(lead) });
        let leads = self.queue.push(job, self.callers_may_lead())?;
        let mut turn = Turn { writers: self, called, leads };
        if !turn.leads {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.unwrap_or(Err(DbError::Closed)),
                () = turn.called() => {}
            }
        }
        // What is ready comes first, and with it the rows that are about to come.
        for _ in 0..LEADER_YIELDS {
            tokio::task::yield_now().await;
        }
        self.lead();
        drop(turn);
        answer.await.unwrap_or(Err(DbError::Closed))
    }

    fn callers_may_lead(&self) -> bool {
        self.callers && self.slow_until.load(Ordering::Relaxed) <= millis(self.began.elapsed())
    }

    /// Commits on this thread what waits, if the writer is free.
    fn lead(&self) {
        let mut writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let Some(Writer { connection, ledger }) = writer.as_mut() else { return };
        let jobs = self.queue.take_appends(APPENDS_PER_LEADER_MAX);
        let count = jobs.len();
        if count == 0 {
            return;
        }
        let began = Instant::now();
        commit_together(connection, ledger, jobs);
        self.queue.done(count);
        if began.elapsed() > LED_COMMIT_MAX {
            self.slow_until.store(millis(self.began.elapsed() + SLOW_FOR), Ordering::Relaxed);
        }
    }

    /// The writer thread.
    fn write_until_closed(&self) {
        while self.queue.wait() {
            let mut writer = self.writer();
            let Some(Writer { connection, ledger }) = writer.as_mut() else { return };
            let jobs = self.queue.take(WRITES_PER_COMMIT_MAX);
            let count = jobs.len();
            commit_together(connection, ledger, jobs);
            self.queue.done(count);
        }
    }

    /// Folds the log into the file and closes it.
    fn finish(&self) {
        let Some(Writer { connection, .. }) = self.writer().take() else { return };
        if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(())) {
            tracing::warn!(%error, "the write-ahead log was not folded into the database; the next start does it");
        }
    }
}

/// A caller that leads, or may be called to. When it goes, whoever is next is seen to.
struct Turn<'a> {
    writers: &'a Writers,
    called: oneshot::Receiver<()>,
    leads: bool,
}

impl Turn<'_> {
    /// Returns when it is this caller's turn to lead; never if that turn does not come.
    async fn called(&mut self) {
        if (&mut self.called).await.is_err() {
            return std::future::pending().await;
        }
        self.leads = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Nobody calls it from now on; it may have been called and not have heard of it.
        self.called.close();
        if self.leads || self.called.try_recv().is_ok() {
            self.writers.queue.led(self.writers.callers_may_lead());
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DbError> {
    let failed = |error| DbError::Failed { detail: format!("the thread {name} could not be started: {error}") };
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
