//! The ledger in SQLite. What rows mean and when they are written is left to `mayfly-ledger` and its users.
//!
//! `ledger` is append-only and linked by hashes ([`chain`]); beside it stand sums by hour ([`rollup`]), kept in the same
//! transaction, and the calls that are open. A row that breaks the order (progress after the end, a second end) is
//! refused, and with it everything it was to be written with.

mod answers;
mod chain;
mod intern;
mod ledger;
mod lines;
pub(crate) mod order;
mod query;
mod recover;
mod reprice;
mod rollup;
mod rows;
mod spent;
mod sums;
mod usage;
mod verify;
pub(crate) mod words;

use std::sync::Arc;

use async_trait::async_trait;
use mayfly_ledger::{
    AnswerScope, Append, CallRecord, Credit, Difference, Grant, Journal, JournalError, KeptAnswer, Lease, Leases,
    NewPrice, Position, Price, PriceError, Prices, Repricing, UsageQuery, UsageRow, Verification,
};
use mayfly_types::{LevelId, LevelLimits, Meter, RequestId, TenantId};
use rusqlite::Connection;

use crate::db::Db;
use crate::records::audit::By;
use crate::{DbError, Node, Store, prices};

pub(crate) use ledger::Ledger;

/// Calls that one transaction of a recovery ends.
const RECOVERED_PER_COMMIT: u32 = 1_000;
/// Answers that one transaction forgets.
const FORGOTTEN_PER_COMMIT: u32 = 200;
/// Calls that one transaction of a repricing corrects.
const CORRECTED_PER_COMMIT: usize = 200;

#[derive(Debug, Clone)]
struct SqliteLedger {
    db: Db,
    node: Node,
}

impl Store {
    fn ledger(&self) -> SqliteLedger {
        SqliteLedger { db: self.db.clone(), node: self.node }
    }

    /// The ledger, written as this node and this start of it.
    pub fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.ledger())
    }

    /// The price book.
    pub fn prices(&self) -> Arc<dyn Prices> {
        Arc::new(self.ledger())
    }

    /// What levels have spent. One node's lease is the whole limit.
    pub fn leases(&self) -> Arc<dyn Leases> {
        Arc::new(self.ledger())
    }
}

impl SqliteLedger {
    /// Reads the ledger with everything that was appended.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.db.read_ledger(work).await.map_err(journal_error)
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Ledger) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.db.write_ledger(work).await.map_err(journal_error)
    }
}

#[async_trait]
impl Journal for SqliteLedger {
    async fn append(&self, append: Append) -> Result<Position, JournalError> {
        if append.rows.is_empty() && append.answer.is_none() {
            return Ok(Position::default());
        }
        self.db.append(append).await.map_err(journal_error)
    }

    async fn call(&self, tenant: Option<TenantId>, id: RequestId) -> Result<Option<CallRecord>, JournalError> {
        let read = self.db.read_call(id, move |connection| query::call(connection, tenant, id));
        read.await.map_err(journal_error)
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, JournalError> {
        let query = query.clone();
        let sums = self.read(move |connection| usage::usage(connection, &query)).await?;
        sums.ok_or(JournalError::TooMany { limit: usage::SUMS_MAX })
    }

    async fn recover(&self, at: i64) -> Result<u64, JournalError> {
        let node = self.node;
        let mut total = 0;
        loop {
            let work = move |connection: &Connection, ledger: &mut Ledger| {
                recover::recover(connection, ledger, node, at, RECOVERED_PER_COMMIT)
            };
            let count = self.write(work).await?;
            total += u64::from(count);
            if count < RECOVERED_PER_COMMIT {
                return Ok(total);
            }
        }
    }

    async fn answer(&self, scope: AnswerScope, oldest: i64) -> Result<Option<KeptAnswer>, JournalError> {
        // In this order: what is not found here is in the tables, or nowhere.
        if let Some(answer) = self.db.unapplied_answer(scope) {
            return Ok(Some(answer).filter(|answer| answer.at >= oldest));
        }
        self.db.read(move |connection| answers::find(connection, scope, oldest)).await.map_err(journal_error)
    }

    async fn forget_answers(&self, oldest: i64, bytes_max: u64) -> Result<u64, JournalError> {
        let surplus = self.read(move |connection| answers::surplus(connection, oldest, bytes_max)).await?;
        let Some(at) = surplus else { return Ok(0) };
        let mut total = 0;
        loop {
            let work = move |connection: &Connection| answers::forget(connection, at, FORGOTTEN_PER_COMMIT);
            let count = self.db.write(work).await.map_err(journal_error)?;
            total += count;
            if count < u64::from(FORGOTTEN_PER_COMMIT) {
                return Ok(total);
            }
        }
    }

    async fn grant(&self, grant: Grant) -> Result<Position, JournalError> {
        let by = By::now();
        self.write(move |connection, ledger| spent::grant(connection, by, ledger, &grant)).await
    }

    async fn credit(&self, level: LevelId) -> Result<Option<Credit>, JournalError> {
        self.read(move |connection| spent::credit(connection, level)).await
    }

    async fn reprice(&self, repricing: &Repricing, write: bool) -> Result<Difference, JournalError> {
        let mut total = Difference::default();
        let mut next = Some(0);
        while let Some(pos) = next {
            let what = repricing.clone();
            let stretch = self.read(move |connection| reprice::stretch(connection, &what, pos)).await?;
            for calls in stretch.calls.chunks(CORRECTED_PER_COMMIT) {
                let (what, calls) = (repricing.clone(), calls.to_vec());
                let difference = if write {
                    self.write(move |connection, ledger| reprice::reprice(connection, &what, &calls, Some(ledger)))
                        .await?
                } else {
                    self.read(move |connection| reprice::reprice(connection, &what, &calls, None)).await?
                };
                total = reprice::plus(total, difference);
            }
            next = stretch.next;
        }
        Ok(total)
    }

    async fn verify(&self) -> Result<Verification, JournalError> {
        let db = self.db.clone();
        self.read(move |connection| verify::verify(&db, connection)).await
    }
}

#[async_trait]
impl Prices for SqliteLedger {
    async fn prices(&self) -> Result<Vec<Price>, JournalError> {
        self.db.read(prices::all).await.map_err(journal_error)
    }

    async fn add_price(&self, entry: NewPrice, now: i64) -> Result<Result<Price, PriceError>, JournalError> {
        let by = By::now();
        self.db.write(move |connection| prices::add(connection, by, &entry, now)).await.map_err(journal_error)
    }

    async fn fix_currency(&self, currency: &str) -> Result<(), JournalError> {
        let currency = currency.to_owned();
        self.db.write(move |connection| prices::fix_currency(connection, &currency)).await.map_err(journal_error)
    }
}

#[async_trait]
impl Leases for SqliteLedger {
    async fn lease(&self, level: LevelId, limits: &LevelLimits, at: i64) -> Result<Lease, JournalError> {
        let limits = limits.clone();
        self.read(move |connection| spent::lease(connection, level, &limits, at)).await
    }
}

/// The number that stands for a meter in stored rows.
pub(crate) const fn meter_number(meter: Meter) -> i64 {
    words::meter(meter)
}

/// The meter that a stored number stands for.
pub(crate) fn meter_of(number: i64) -> Result<Meter, DbError> {
    words::meter_of(number)
}

fn journal_error(error: DbError) -> JournalError {
    match error {
        DbError::Busy { waiting } => JournalError::Full { waiting },
        DbError::Failed { detail } | DbError::Disk { detail } => JournalError::Failed { detail },
        other => JournalError::Failed { detail: other.to_string() },
    }
}

#[cfg(test)]
pub(crate) mod tests;
