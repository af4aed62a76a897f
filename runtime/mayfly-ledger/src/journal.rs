//! Where rows become durable, and what can be asked of them. `mayfly-store` implements it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use mayfly_types::{LevelId, Meter, ModelId, Money, RequestId, TenantId};

use crate::{AnswerScope, KeptAnswer, NewPrice, Price, PriceBook, PriceError, Row, UsageQuery, UsageRow};

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

/// Where a row stands in the ledger: grows with every row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position(pub i64);

/// Rows to make durable in one transaction.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// In their order.
    pub rows: Vec<Row>,
    /// The answer that goes with the end of a call.
    pub answer: Option<KeptAnswer>,
}

/// Prepaid credit for one level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who may spend it.
    pub level: LevelId,
    /// Above zero to give, below zero to take back.
    pub amount: Money,
    /// For people, at most 200 characters.
    pub note: String,
    /// Microseconds since the Unix epoch.
    pub at: i64,
}

/// A level's credit account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    /// All grants together.
    pub granted: Money,
    /// Spent since the first grant.
    pub spent: Money,
    /// The grants, oldest first (the newest 1,000).
    pub grants: Vec<Grant>,
}

/// Which settled calls to price again: those opened in `[from, until)` with lines on `meter` to which the book now
/// gives another price.
#[derive(Debug, Clone)]
pub struct Repricing {
    /// The book that is right.
    pub book: Arc<PriceBook>,
    /// How models are called in the book.
    pub models: Arc<BTreeMap<ModelId, String>>,
    /// Only this tenant's calls.
    pub tenant: Option<TenantId>,
    /// Only this meter.
    pub meter: Meter,
    /// Opened at or after.
    pub from: i64,
    /// Opened before.
    pub until: i64,
    /// The time of the correction rows.
    pub at: i64,
}

/// What a repricing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Difference {
    /// Calls whose amount changes.
    pub calls: u64,
    /// Their lines as they stand, together.
    pub before: Money,
    /// As they would be.
    pub after: Money,
}

/// What a walk over the whole ledger found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Rows walked.
    pub rows: u64,
    /// Starts of nodes: one chain each.
    pub boots: u64,
    /// Calls that have ended.
    pub calls: u64,
    /// Calls that are open.
    pub open: u64,
    /// What is wrong, at most 100 of them, in words; empty if all is well.
    pub problems: Vec<String>,
}

/// Durable rows.
#[async_trait]
pub trait Journal: Send + Sync + std::fmt::Debug {
    /// Makes rows durable together (survives SIGKILL) before it returns the position of the last.
    ///
    /// # Errors
    /// [`JournalError`]; nothing is written.
    async fn append(&self, append: Append) -> Result<Position, JournalError>;

    /// One call: of one tenant (another tenant's call is none), or of any.
    ///
    /// # Errors
    /// [`JournalError`].
    async fn call(&self, tenant: Option<TenantId>, id: RequestId) -> Result<Option<CallRecord>, JournalError>;

    /// Sums of ended calls, from rollups. `since` and `until` are taken to whole hours (down and up).
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

    /// The answer kept for `scope`, if it is younger than `oldest` (microseconds since the Unix epoch).
    ///
    /// # Errors
    /// [`JournalError`].
    async fn answer(&self, scope: AnswerScope, oldest: i64) -> Result<Option<KeptAnswer>, JournalError>;

    /// Forgets answers kept before `oldest`, and the oldest beyond `bytes_max` of all. Returns how many.
    ///
    /// # Errors
    /// [`JournalError`].
    async fn forget_answers(&self, oldest: i64, bytes_max: u64) -> Result<u64, JournalError>;

    /// Writes a grant row.
    ///
    /// # Errors
    /// [`JournalError`].
    async fn grant(&self, grant: Grant) -> Result<Position, JournalError>;

    /// A level's credit; none if nothing was ever granted to it.
    ///
    /// # Errors
    /// [`JournalError`].
    async fn credit(&self, level: LevelId) -> Result<Option<Credit>, JournalError>;

    /// Compares settled calls with the book and, if `write` says so, appends correction rows. Doing it twice changes
    /// nothing the second time.
    ///
    /// # Errors
    /// [`JournalError`]; rows written so far stand and need not be written again.
    async fn reprice(&self, repricing: &Repricing, write: bool) -> Result<Difference, JournalError>;

    /// Walks every row: the chains, the sums of lines, one ending for each call, rollups equal to rows.
    ///
    /// # Errors
    /// [`JournalError`] if the store could not be read; what is wrong with the rows is in the answer.
    async fn verify(&self) -> Result<Verification, JournalError>;
}

/// The durable price book. Prices are never changed or removed.
#[async_trait]
pub trait Prices: Send + Sync + std::fmt::Debug {
    /// All prices.
    ///
    /// # Errors
    /// [`JournalError`].
    async fn prices(&self) -> Result<Vec<Price>, JournalError>;

    /// Adds a price that [`PriceBook::check`] accepts against the stored book, in one transaction with the check.
    ///
    /// # Errors
    /// The inner error says why the price was refused.
    async fn add_price(&self, entry: NewPrice, now: i64) -> Result<Result<Price, PriceError>, JournalError>;

    /// The host's currency: three capital letters. Set once; another one later is refused.
    ///
    /// # Errors
    /// [`JournalError::Failed`] if it was set to another before.
    async fn fix_currency(&self, currency: &str) -> Result<(), JournalError>;
}
