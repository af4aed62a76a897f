//! The writer thread: control-plane writes, and rows from the redo log into the tables.
//!
//! Rows are applied when there are enough of them or the oldest has waited long enough, when a reader asks for it, and before a
//! write of our own to the ledger: that one holds up appends, so that it gets the number behind all of them and no append
//! that number.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::checkpoint::Log;
use super::commit::{Write, commit_together};
use super::intake::{DUE_AFTER, Entry, Intake};
use super::queue::{Job, Queue};
use crate::journal::Ledger;
use crate::{DbError, Node, redo};

/// Writes that share one commit.
const WRITES_PER_COMMIT_MAX: usize = 512;

#[derive(Debug)]
pub(super) struct Writers {
    pub(super) queue: Arc<Queue>,
    pub(super) intake: Intake,
    /// None once the store is closed.
    writer: Mutex<Option<Writer>>,
    log: Arc<Log>,
    node: Node,
    /// Rows could not be applied, and it was said.
    failing: AtomicBool,
}

#[derive(Debug)]
struct Writer {
    connection: Connection,
    ledger: Ledger,
}

impl Writers {
    /// Starts the writer thread, the one for appends and the one for checkpoints. `guard` is kept until the writer has
    /// ended.
    pub(super) fn start(
        mut connection: Connection,
        checkpoints: Connection,
        node: Node,
        queue: Arc<Queue>,
        intake: Intake,
        guard: impl Send + 'static,
    ) -> Result<Arc<Self>, DbError> {
        let log = Arc::new(Log::default());
        log.watch(&mut connection)?;
        let writers = Arc::new(Self {
            queue,
            intake,
            writer: Mutex::new(Some(Writer { connection, ledger: Ledger::new(node) })),
            log,
            node,
            failing: AtomicBool::new(false),
        });
        let this = Arc::clone(&writers);
        let copier = spawn("mayfly-store-checkpoint", move || {
            this.log.checkpoint_until_stopped(&checkpoints, || this.hold());
        })?;
        let this = Arc::clone(&writers);
        let appender = spawn("mayfly-store-append", move || this.intake.write_until_closed());
        let appender = appender.inspect_err(|_error| writers.log.stop())?;
        let this = Arc::clone(&writers);
        let writer = spawn("mayfly-store-writer", move || {
            this.write_until_closed();
            this.intake.close_queue();
            // They only end early by a panic, which has been reported.
            let _ = appender.join();
            this.finish(|| {
                this.log.stop();
                let _ = copier.join();
            });
            // The lock goes first, so that whoever waits for the close can open the folder again.
            drop(guard);
            this.queue.ended();
        });
        if writer.is_err() {
            writers.log.stop();
            writers.intake.close_queue();
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

    /// The writer thread.
    fn write_until_closed(&self) {
        while let Some(jobs) = self.queue.take(WRITES_PER_COMMIT_MAX, self.intake.due_in()) {
            let mut writer = self.writer();
            let Some(writer) = writer.as_mut() else { return };
            let (mut batch, mut asked) = (Vec::new(), Vec::new());
            for job in jobs {
                match job {
                    Job::Work(work) => batch.push(work),
                    Job::Apply(reply) => asked.push(reply),
                }
            }
            if batch.iter().any(|write| write.touches_ledger()) {
                self.write_ledger(writer, batch);
            } else if !batch.is_empty() {
                commit_together(&writer.connection, &mut writer.ledger, batch);
            }
            if !asked.is_empty() {
                let done = self.apply(writer, u64::MAX);
                for reply in asked {
                    let _ = reply.send(done.clone());
                }
            } else if self.intake.due_in() == Some(Duration::ZERO) {
                // One transaction, then whoever came meanwhile.
                let _ = self.apply_some(writer);
            }
        }
    }

    /// Writes that add rows of their own to the ledger: nothing is appended meanwhile.
    fn write_ledger(&self, writer: &mut Writer, batch: Vec<Box<dyn Write>>) {
        // Most of it before appends have to wait.
        let _ = self.apply(writer, self.intake.logged());
        let mut front = self.intake.front();
        let ready = self.apply(writer, u64::MAX);
        if let Err(error) = ready {
            return refuse(batch, &error);
        }
        commit_together(&writer.connection, &mut writer.ledger, batch);
        if let Some(open) = front.as_mut()
            && let Err(error) = open.read_again()
        {
            // What comes after could get a number that is taken: better none.
            tracing::error!(%error, "the ledger could not be read after it was written; it takes nothing more");
            *front = None;
        }
    }

    /// Brings appends up to `number` into the tables.
    fn apply(&self, writer: &mut Writer, number: u64) -> Result<(), DbError> {
        let number = number.min(self.intake.logged());
        while !self.intake.has_applied(number) {
            self.apply_some(writer)?;
        }
        Ok(())
    }

    /// Brings the oldest appends into the tables, in one transaction.
    fn apply_some(&self, Writer { connection, ledger }: &mut Writer) -> Result<(), DbError> {
        let entries = self.intake.oldest();
        if entries.is_empty() {
            return Err(DbError::Failed { detail: "appends are acknowledged that nobody has".to_owned() });
        }
        let done = super::guarded(|| commit(connection, ledger, self.node, &entries));
        match &done {
            Ok(()) => {
                self.intake.applied(&entries);
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("rows of the ledger get from the redo log into the database again");
                }
            }
            Err(error) => {
                if !connection.is_autocommit() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
                ledger.forget();
                self.intake.not_applied(error);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        ?error,
                        "rows of the ledger cannot get from the redo log into the database; tried again every {} ms",
                        DUE_AFTER.as_millis()
                    );
                }
            }
        }
        done
    }

    /// Applies the rest, folds the write-ahead log into the file and closes it.
    fn finish(&self, stop_checkpoints: impl FnOnce()) {
        let Some(mut writer) = self.writer().take() else { return stop_checkpoints() };
        let front = self.intake.close();
        let applied = self.apply(&mut writer, u64::MAX);
        stop_checkpoints();
        if let Err(error) = writer.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(())) {
            tracing::warn!(%error, "the write-ahead log was not folded into the database; the next start does it");
        }
        if let (Some(front), Ok(())) = (front, applied) {
            front.remove();
        }
    }
}

fn commit(connection: &Connection, ledger: &mut Ledger, node: Node, entries: &[Arc<Entry>]) -> Result<(), DbError> {
    let Some(newest) = entries.last() else { return Ok(()) };
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let last = ledger.append_all(connection, entries.iter().map(|entry| &entry.append))?;
    if last.0 != newest.position {
        let detail = format!("row {} was acknowledged as row {}", last.0, newest.position);
        return Err(DbError::Failed { detail });
    }
    redo::note_applied(connection, node, newest.number)?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

fn refuse(batch: Vec<Box<dyn Write>>, error: &DbError) {
    for mut write in batch {
        write.fail(error);
        write.reply();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DbError> {
    let failed = |error| DbError::Failed { detail: format!("the thread {name} could not be started: {error}") };
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)
}
