//! The account of one call as the [`Budget`] that host and inference see.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mayfly_ledger::{Account, Call, Outcome, Row};
use mayfly_types::{Budget, HoldId, Line, Refusal, RefusalKind};

/// One call's account, shared between those who work on it and the task that settles it.
#[derive(Debug)]
pub(crate) struct CallBudget(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    account: Account,
    /// The last hold that a limit refused.
    refusal: Option<Refusal>,
}

impl CallBudget {
    pub(crate) fn new(call: Arc<Call>) -> Self {
        Self(Mutex::new(Inner { account: Account::new(call), refusal: None }))
    }

    /// The last hold that a limit refused. That the call is over is no limit.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.lock().refusal.clone()
    }

    pub(crate) fn close(&self) {
        self.lock().account.close();
    }

    pub(crate) fn record(&self, lines: &[Line]) {
        self.lock().account.record(lines);
    }

    pub(crate) fn used(&self) -> Vec<Line> {
        self.lock().account.used()
    }

    pub(crate) fn before_frame(&self, at: i64, status: u16) -> Vec<Row> {
        self.lock().account.before_frame(at, status)
    }

    pub(crate) fn end(&self, at: i64, status: u16, outcome: Outcome, cold: &str) -> Option<Row> {
        self.lock().account.end(at, status, outcome, cold)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget for CallBudget {
    fn hold<'a>(&'a self, lines: &'a [Line]) -> BoxFuture<'a, Result<HoldId, Refusal>> {
        let mut inner = self.lock();
        let held = inner.account.hold(lines);
        if let Err(refusal) = &held
            && refusal.kind != RefusalKind::Closed
        {
            inner.refusal = Some(refusal.clone());
        }
        std::future::ready(held).boxed()
    }

    fn charge(&self, hold: HoldId, lines: &[Line]) {
        self.lock().account.charge(hold, lines);
    }

    fn release(&self, hold: HoldId) {
        self.lock().account.release(hold);
    }
}
