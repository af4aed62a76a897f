//! Where rows become durable, and what can be asked of them. `mayfly-store` implements it.

use async_trait::async_trait;
use mayfly_types::{RequestId, TenantId};

use crate::{Row, UsageQuery, UsageRow};

/// The journal could not take or give rows.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// More rows are waiting than the journal holds back.
    #[error("the ledger cannot keep up ({waiting} rows are waiting)")]
    Full {
        /// Rows waiting.
        waiting: usize,
    },
    /// The question has more sums than one answer holds.
    #[error("the answer would have more than {limit} sums; ask for a shorter time or keep less apart")]
    TooMany {
        /// The most sums of one answer.
        limit: usize,
    },
    /// The store failed; details are in the log.
    #[error("the ledger could not be written")]
    Failed {
        /// For the log.
        detail: String,
    },
}

/// A call, as its rows tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// The newest row of the call: its end, or its usage so far.
    pub latest: Row,
    /// Whether it has ended.
    pub ended: bool,
}

/// Durable rows.
#[async_trait]
pub trait Journal: Send + Sync + std::fmt::Debug {
    /// Makes `rows` durable together (survives SIGKILL) before it returns.
    ///
    /// # Errors
    /// [`JournalError`]; none of `rows` is written.
    async fn append(&self, rows: Vec<Row>) -> Result<(), JournalError>;

    /// One call of one tenant; another tenant's call is none.
    ///
    /// # Errors
    /// [`JournalError`].
    async fn call(&self, tenant: TenantId, id: RequestId) -> Result<Option<CallRecord>, JournalError>;

    /// Sums of ended calls, and of open ones as far as they are durable.
    ///
    /// # Errors
    /// [`JournalError`].
    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, JournalError>;

    /// Ends every call that this node's earlier boots left open, with [`crate::Outcome::HostCrash`] and what durable
    /// progress covers. Returns how many. `at`: microseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`JournalError`].
    async fn recover(&self, at: i64) -> Result<u64, JournalError>;
}
