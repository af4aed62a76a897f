//! The ledger's rows in SQLite. What rows mean and when they are written is left to `mayfly-ledger` and its users.
//!
//! `ledger` is append-only. Beside it stand `call` (one row for each call) and `ledger_line` (usage of each call so
//! far), so that sums and look-ups never read the history. A row that breaks the order (progress after the end, a
//! second end) is refused, and with it everything it was to be written with.

mod query;
mod rows;
mod write;

use std::sync::Arc;

use async_trait::async_trait;
use mayfly_ledger::{CallRecord, Journal, JournalError, Row, UsageQuery, UsageRow};
use mayfly_types::{RequestId, TenantId};

use crate::db::Db;
use crate::{DbError, Node, Store};

/// Calls that one transaction of a recovery ends.
const RECOVERED_PER_COMMIT: u32 = 1_000;

#[derive(Debug, Clone)]
struct SqliteJournal {
    db: Db,
    node: Node,
}

impl Store {
    /// The ledger, written as this node and this start of it.
    pub fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(SqliteJournal { db: self.db.clone(), node: self.node })
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn append(&self, rows: Vec<Row>) -> Result<(), JournalError> {
        if rows.is_empty() {
            return Ok(());
        }
        let node = self.node;
        self.db.write(move |connection| write::append(connection, node, &rows)).await.map_err(journal_error)
    }

    async fn call(&self, tenant: TenantId, id: RequestId) -> Result<Option<CallRecord>, JournalError> {
        self.db.read(move |connection| query::call(connection, tenant, id)).await.map_err(journal_error)
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, JournalError> {
        let query = query.clone();
        self.db
            .read(move |connection| query::usage(connection, &query))
            .await
            .map_err(journal_error)?
            .ok_or(JournalError::TooMany { limit: query::SUMS_MAX })
    }

    async fn recover(&self, at: i64) -> Result<u64, JournalError> {
        let node = self.node;
        let mut total = 0;
        loop {
            let work =
                move |connection: &rusqlite::Connection| write::recover(connection, node, at, RECOVERED_PER_COMMIT);
            let count = self.db.write(work).await.map_err(journal_error)?;
            total += u64::from(count);
            if count < RECOVERED_PER_COMMIT {
                return Ok(total);
            }
        }
    }
}

fn journal_error(error: DbError) -> JournalError {
    match error {
        DbError::Busy { waiting } => JournalError::Full { waiting },
        DbError::Failed { detail } => JournalError::Failed { detail },
        other => JournalError::Failed { detail: other.to_string() },
    }
}

#[cfg(test)]
mod tests;
