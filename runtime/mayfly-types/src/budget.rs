//! The seam between those who do work (host, inference) and those who account for it (calls, ledger).
//!
//! A hold is taken before any model work; drawing on it makes usage; dropping it gives back what was not drawn.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::Line;

/// Names a hold within its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HoldId(pub u64);

/// Why a hold was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// A rate or concurrency limit; waiting helps.
    Rate,
    /// A cap on money or credit; waiting does not help.
    Money,
    /// More than the limit could ever give.
    NeverFits,
    /// The call is over (its body ended, its caller left, or its deadline passed).
    Closed,
}

/// A hold was refused; `message` names the level, the limit, what was used and what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of limit said no.
    pub kind: RefusalKind,
    /// For the caller to read.
    pub message: String,
    /// When a retry will fit, if that is known exactly.
    pub retry_after_ms: Option<u64>,
}

/// The account of one call. One implementation lives in `mayfly-calls`; tests bring their own.
pub trait Budget: Send + Sync + fmt::Debug {
    /// Sets `lines` aside at all levels or at none.
    ///
    /// # Errors
    /// [`Refusal`] if any level has no room; nothing is held.
    fn hold<'a>(&'a self, lines: &'a [Line]) -> BoxFuture<'a, Result<HoldId, Refusal>>;

    /// Turns `lines` into usage of the call. What exceeds the hold is counted too: work that was done is owed.
    fn charge(&self, hold: HoldId, lines: &[Line]);

    /// Gives back what was not charged. Called once for each hold.
    fn release(&self, hold: HoldId);

    /// The guest has written the next `bytes` of its `body`th body, and what was charged until now stands behind them. Told
    /// before anybody can see them. An account that bills nothing while its call runs need not know.
    fn answers(&self, body: u32, bytes: usize) {
        let _ = (body, bytes);
    }
}

/// A hold as a value: nothing can forget to give it back.
#[derive(Debug)]
pub struct Hold {
    budget: Arc<dyn Budget>,
    id: HoldId,
}

impl Hold {
    /// Takes a hold on `budget`.
    ///
    /// # Errors
    /// As [`Budget::hold`].
    pub async fn take(budget: Arc<dyn Budget>, lines: &[Line]) -> Result<Self, Refusal> {
        let id = budget.hold(lines).await?;
        Ok(Self { budget, id })
    }

    /// Turns `lines` into usage.
    pub fn charge(&self, lines: &[Line]) {
        self.budget.charge(self.id, lines);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.budget.release(self.id);
    }
}
