//! The account of one call as the [`Budget`] that host and inference see: each hold is taken on the account and, in one
//! step, on the limits of all levels.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mayfly_ledger::{Account, Ask, Call, CostMax, KeptAnswer, Outcome, Position, Row, RowLine, Standing, Tariff};
use mayfly_types::{Budget, HoldId, Line, Refusal, RefusalKind};
use tokio_util::sync::CancellationToken;

use crate::admission::Ticket;
use crate::bill::Bill;
use crate::idempotency::Once;

/// One call's account, shared between those who work on it and the task that settles it.
#[derive(Debug)]
pub(crate) struct CallBudget(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    account: Account,
    /// What the call has taken of its limits; gone with its end. None where no limits apply (a replay).
    ticket: Option<Ticket>,
    /// How near the limits were when the call ended.
    standing: Option<Standing>,
    /// The last hold that a limit refused.
    refusal: Option<Refusal>,
    dry: Option<Dry>,
}

/// A call that is to be priced, not run.
#[derive(Debug)]
struct Dry {
    /// Ends the call at its first hold.
    cancel: CancellationToken,
    quote: Option<Quote>,
}

/// What the first hold of a dry run asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Quote {
    /// Priced.
    pub(crate) lines: Vec<RowLine>,
    /// Why it would have been refused.
    pub(crate) refusal: Option<String>,
}

/// The end of a call on its way into the ledger. What the call took of its limits goes with it.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) row: Row,
    /// What is kept for a caller who asks again.
    pub(crate) answer: Option<KeptAnswer>,
    /// Held until the row is durable.
    _once: Option<Arc<Once>>,
    ticket: Option<Ticket>,
    owed: Ask,
}

impl Ending {
    /// What is owed.
    pub(crate) fn bill(&self) -> Bill {
        Bill(self.row.lines.clone())
    }

    /// Until the row is durable, nobody else runs the same request.
    pub(crate) fn hold_back(&mut self, once: Option<Arc<Once>>) {
        self._once = once;
    }

    /// The same end, but not owed.
    pub(crate) fn into_void(self, outcome: Outcome) -> Self {
        Self { row: self.row.into_void(outcome), answer: None, owed: Ask::default(), ..self }
    }

    /// The row is durable.
    pub(crate) fn recorded(self, at: Position) {
        if let Some(ticket) = self.ticket {
            ticket.leave(self.owed, at);
        }
    }
}

impl CallBudget {
    pub(crate) fn new(call: Arc<Call>, tariff: Tariff, cost_max: Option<CostMax>, ticket: Option<Ticket>) -> Self {
        let account = Account::new(call, tariff, cost_max);
        Self(Mutex::new(Inner { account, ticket, standing: None, refusal: None, dry: None }))
    }

    /// From now on the first hold is priced and refused, and `cancel` is cancelled.
    pub(crate) fn only_quote(&self, cancel: CancellationToken) {
        self.lock().dry = Some(Dry { cancel, quote: None });
    }

    /// What the first hold of a dry run asked for.
    pub(crate) fn quote(&self) -> Option<Quote> {
        self.lock().dry.as_ref().and_then(|dry| dry.quote.clone())
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

    /// See [`Account::before_frame`].
    pub(crate) fn before_frame(&self, at: i64, status: u16, upto: u64) -> Vec<Row> {
        self.lock().account.before_frame(at, status, upto)
    }

    /// The end of the call; none if it has ended.
    pub(crate) fn end(&self, at: i64, status: u16, outcome: Outcome, cold: &str, woke: bool) -> Option<Ending> {
        let mut inner = self.lock();
        let row = inner.account.end(at, status, outcome, cold)?;
        // Holds have ended with the call: what is left is used.
        let owed = if outcome.is_owed() { inner.account.exposure() } else { Ask::default() };
        let mut ticket = inner.ticket.take();
        if let Some(ticket) = &mut ticket {
            ticket.woke(woke);
            ticket.correct(owed);
            inner.standing = ticket.standing();
        }
        Some(Ending { row, answer: None, _once: None, ticket, owed })
    }

    /// How near the call's limits are, or were when it ended; none if there are none.
    pub(crate) fn standing(&self) -> Option<Standing> {
        let inner = self.lock();
        inner.ticket.as_ref().map_or(inner.standing, Ticket::standing)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// On the account and on all levels, or not at all.
    fn hold(&mut self, lines: &[Line]) -> Result<HoldId, Refusal> {
        let held = self.account.hold(lines)?;
        let exposure = self.account.exposure();
        if let Some(ticket) = &mut self.ticket
            && let Err(refusal) = ticket.reserve(exposure)
        {
            self.account.release(held);
            return Err(refusal);
        }
        Ok(held)
    }

    /// Prices a hold, asks the limits, and takes nothing.
    fn ask(&mut self, lines: &[Line]) -> Result<(), Refusal> {
        let held = self.account.hold(lines)?;
        let exposure = self.account.exposure();
        self.account.release(held);
        self.ticket.as_ref().map_or(Ok(()), |ticket| ticket.probe(exposure))
    }

    /// The levels follow the account.
    fn follow(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.correct(self.account.exposure());
        }
    }
}

impl Budget for CallBudget {
    fn hold<'a>(&'a self, lines: &'a [Line]) -> BoxFuture<'a, Result<HoldId, Refusal>> {
        let mut inner = self.lock();
        let held = match &inner.dry {
            None => inner.hold(lines),
            Some(dry) => {
                if dry.quote.is_none() {
                    let refusal = inner.ask(lines).err().map(|refusal| refusal.message);
                    let lines = inner.account.quote(lines);
                    if let Some(dry) = &mut inner.dry {
                        dry.quote = Some(Quote { lines, refusal });
                        dry.cancel.cancel();
                    }
                }
                let message = "this is a dry run: models are not run".to_owned();
                Err(Refusal { kind: RefusalKind::Closed, message, retry_after_ms: None })
            }
        };
        if let Err(refusal) = &held
            && refusal.kind != RefusalKind::Closed
        {
            inner.refusal = Some(refusal.clone());
        }
        std::future::ready(held).boxed()
    }

    fn charge(&self, hold: HoldId, lines: &[Line]) {
        let mut inner = self.lock();
        inner.account.charge(hold, lines);
        inner.follow();
    }

    fn release(&self, hold: HoldId) {
        let mut inner = self.lock();
        inner.account.release(hold);
        inner.follow();
    }

    fn answers(&self, body: u32, bytes: usize) {
        self.lock().account.answers(body, bytes);
    }
}
