//! One transaction for many writes: each stands or falls alone.

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::guarded;
use crate::DbError;
use crate::journal::Ledger;

/// A write on its way through a transaction.
pub(super) trait Write: Send {
    /// Does the work; on failure it must be undone.
    fn run(&mut self, connection: &Connection, ledger: &mut Ledger) -> Result<(), DbError>;
    /// Its transaction did not begin or was undone: without a failure of its own it has failed with `error`.
    fn fail(&mut self, error: &DbError);
    /// Whether it changes what `Ledger` remembers.
    fn touches_ledger(&self) -> bool;
    /// Tells the caller. The transaction has ended.
    fn reply(self: Box<Self>);
}

/// A closure and who waits for it.
pub(super) struct Pending<T, F> {
    work: Option<F>,
    result: Option<Result<T, DbError>>,
    reply: oneshot::Sender<Result<T, DbError>>,
    touches_ledger: bool,
}

impl<T, F> Pending<T, F> {
    pub(super) fn new(touches_ledger: bool, work: F) -> (Self, oneshot::Receiver<Result<T, DbError>>) {
        let (reply, answer) = oneshot::channel();
        (Self { work: Some(work), result: None, reply, touches_ledger }, answer)
    }
}

impl<T, F> Write for Pending<T, F>
where
    T: Send,
    F: FnOnce(&Connection, &mut Ledger) -> Result<T, DbError> + Send,
{
    fn run(&mut self, connection: &Connection, ledger: &mut Ledger) -> Result<(), DbError> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let result = guarded(|| work(connection, ledger));
        let outcome = result.as_ref().map(|_value| ()).map_err(Clone::clone);
        self.result = Some(result);
        outcome
    }

    fn fail(&mut self, error: &DbError) {
        if !matches!(self.result, Some(Err(_))) {
            self.result = Some(Err(error.clone()));
        }
    }

    fn touches_ledger(&self) -> bool {
        self.touches_ledger
    }

    fn reply(self: Box<Self>) {
        // The caller may have left; its write stands all the same.
        let _ = self.reply.send(self.result.unwrap_or(Err(DbError::Closed)));
    }
}

/// Commits `batch` together and tells the callers. Usually one round; a disk that fills up ends the transaction under our
/// hands, then what was in it fails and the rest gets a transaction of its own.
pub(super) fn commit_together(connection: &Connection, ledger: &mut Ledger, mut batch: Vec<Box<dyn Write>>) {
    while !batch.is_empty() {
        let lost = try_commit(connection, ledger, &mut batch).err();
        let mut rest = Vec::new();
        if let Some(Lost { done, error }) = lost {
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
            if batch.iter().any(|write| write.touches_ledger()) {
                ledger.forget();
            }
            rest = batch.split_off(done);
            for write in &mut batch {
                write.fail(&error);
            }
        }
        for write in batch {
            write.reply();
        }
        batch = rest;
    }
}

/// A transaction was undone, and with it the first `done` writes.
struct Lost {
    done: usize,
    error: DbError,
}

fn try_commit(connection: &Connection, ledger: &mut Ledger, batch: &mut [Box<dyn Write>]) -> Result<(), Lost> {
    let run = |sql: &str| connection.prepare_cached(sql)?.execute([]).map(|_count| ());
    let total = batch.len();
    let lost = |done| move |error: rusqlite::Error| Lost { done, error: error.into() };
    run("BEGIN IMMEDIATE").map_err(lost(total))?;
    for (index, write) in batch.iter_mut().enumerate() {
        // The first needs none: if it fails, nothing else is undone with it.
        let savepoint = index > 0;
        if savepoint {
            run("SAVEPOINT one").map_err(lost(index + 1))?;
        }
        let outcome = write.run(connection, ledger);
        if connection.is_autocommit() {
            let detail = "the transaction ended early".to_owned();
            return Err(Lost { done: index + 1, error: outcome.err().unwrap_or(DbError::Failed { detail }) });
        }
        if let Err(error) = outcome {
            if !savepoint {
                return Err(Lost { done: 1, error });
            }
            if write.touches_ledger() {
                ledger.forget();
            }
            run("ROLLBACK TO one").map_err(lost(index + 1))?;
        }
        if savepoint {
            run("RELEASE one").map_err(lost(index + 1))?;
        }
    }
    run("COMMIT").map_err(lost(total))
}
