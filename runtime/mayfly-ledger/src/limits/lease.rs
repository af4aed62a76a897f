//! The seam between admission and the ledger: how much of each limit this node may give out.

use async_trait::async_trait;
use mayfly_types::{LevelId, LevelLimits, Money};

use crate::{JournalError, Position};

/// This node's part of a level's money, as the ledger stood at `position`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The newest row that is contained.
    pub position: Position,
    /// Beginning of the period asked about, microseconds since the Unix epoch.
    pub period_start: i64,
    /// Spent by calls opened in the period, corrections included.
    pub spent: Money,
    /// Credit granted less what was spent since the first grant; none if nothing was ever granted.
    pub credit: Option<Money>,
}

/// Gives out leases. One node's lease is the whole limit; in a cluster it is a slice.
#[async_trait]
pub trait Leases: Send + Sync + std::fmt::Debug {
    /// The money of one level in the period of its cap (the month, if it has none) that contains `at` (microseconds
    /// since the Unix epoch).
    ///
    /// # Errors
    /// [`JournalError`].
    async fn lease(&self, level: LevelId, limits: &LevelLimits, at: i64) -> Result<Lease, JournalError>;
}
