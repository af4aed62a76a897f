//! Who commits: the caller's thread where it is alone, else the writer thread.
//!
//! A lone append is committed where it is made: handing it to a thread and back would cost more than the commit. As
//! soon as appends come together the thread takes them, so that they share commits; it gives the work back when they
//! come one by one again. Nobody ever waits for another's commit on its own thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::checkpoint::Log;
use super::commit::commit_together;
use super::queue::{Job, Queue};
use crate::DbError;
use crate::journal::Ledger;

/// Writes that share one commit.
const WRITES_PER_COMMIT_MAX: usize = 512;
/// Rounds that a caller's thread does: its own, and one for what came meanwhile.
const HELPER_ROUNDS_MAX: usize = 2;
/// Appends that a caller's thread commits in one round.
const APPENDS_PER_HELPER_MAX: usize = 8;
/// A commit that takes longer on a caller's thread sends the next ones to the writer thread...
const HELPED_COMMIT_MAX: Duration = Duration::from_millis(2);
/// ... for this long.
const SLOW_FOR: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Writers {
    pub(super) queue: Queue,
    /// None once the store is closed.
    writer: Mutex<Option<Writer>>,
    log: Arc<Log>,
    may_help: bool,
    /// Appends came together in the writer thread's last round.
    crowded: AtomicBool,
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
        may_help: bool,
        guard: impl Send + 'static,
    ) -> Result<Arc<Self>, DbError> {
        let log = Arc::new(Log::default());
        log.watch(&mut connection)?;
        let writers = Arc::new(Self {
            queue: Queue::default(),
            writer: Mutex::new(Some(Writer { connection, ledger })),
            log,
            may_help,
            crowded: AtomicBool::new(false),
            slow_until: AtomicU64::new(0),
            began: Instant::now(),
        });
        let this = Arc::clone(&writers);
        let copier = spawn("mayfly-store-checkpoint", move || {
            this.log.checkpoint_until_stopped(&checkpoints, || this.writer());
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

    /// Hands a job over; an append may be committed when this returns.
    pub(super) fn send(&self, job: Job) -> Result<(), DbError> {
        let append = matches!(job, Job::Append(_));
        let alone = self.queue.push(job)?;
        if !(append && alone && self.may_help_now() && self.help()) {
            self.queue.wake();
        }
        Ok(())
    }

    fn may_help_now(&self) -> bool {
        self.may_help
            && !self.crowded.load(Ordering::Relaxed)
            && self.slow_until.load(Ordering::Relaxed) <= millis(self.began.elapsed())
    }

    /// A round or two on this thread, if the writer is free. False if nobody looks after what waits.
    fn help(&self) -> bool {
        let mut writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let Some(Writer { connection, ledger }) = writer.as_mut() else { return false };
        for _round in 0..HELPER_ROUNDS_MAX {
            let jobs = self.queue.take_appends(APPENDS_PER_HELPER_MAX);
            let count = jobs.len();
            if count == 0 {
                break;
            }
            let began = Instant::now();
            commit_together(connection, ledger, jobs);
            self.queue.done(count);
            if began.elapsed() > HELPED_COMMIT_MAX {
                self.slow_until.store(millis(self.began.elapsed() + SLOW_FOR), Ordering::Relaxed);
                break;
            }
        }
        drop(writer);
        self.queue.help_ended();
        true
    }

    /// The writer thread.
    fn write_until_closed(&self) {
        while self.queue.wait() {
            let mut writer = self.writer();
            let Some(Writer { connection, ledger }) = writer.as_mut() else { return };
            let jobs = self.queue.take(WRITES_PER_COMMIT_MAX);
            let count = jobs.len();
            let appends = jobs.iter().filter(|job| matches!(job, Job::Append(_))).count();
            self.crowded.store(appends > 1, Ordering::Relaxed);
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

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DbError> {
    let failed = |error| DbError::Failed { detail: format!("the thread {name} could not be started: {error}") };
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
