//! The account of one call while it lives.

use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_types::{HoldId, Line, Meter, ModelId, Money, Refusal, RefusalKind};

use crate::{Ask, Call, Kind, Outcome, Rate, Row, RowLine, Tariff};

mod marks;

use marks::Marks;

/// What is counted apart.
type Subject = (Meter, Option<ModelId>);
type Sums = BTreeMap<Subject, i64>;

/// One subject of the call.
#[derive(Debug)]
struct Tally {
    /// What a unit costs; none if it is unpriced. Looked up once: the prices of a call never change.
    rate: Option<Rate>,
    held: i64,
    used: i64,
}

impl Tally {
    /// What is held and used, in whole; the checks of a hold keep it in `i64` until work exceeds a hold.
    fn exposed(&self) -> i64 {
        self.held.saturating_add(self.used)
    }

    fn cost(&self, quantity: i64) -> Money {
        Money::from_pico(self.rate.map_or(0, |rate| rate.amount(quantity)).into())
    }

    fn row_line(&self, (meter, model): Subject, quantity: i64) -> RowLine {
        let price = self.rate.map(|rate| rate.price);
        RowLine { meter, model, quantity, price, amount: self.rate.map(|rate| rate.amount(quantity)) }
    }
}

/// The most a call may hold and cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CostMax {
    /// So much.
    pub amount: Money,
    /// Who says so, for the caller to read: `tenant limit request_cost_max`.
    pub of: &'static str,
}

/// Usage of one call: holds, charges, and the rows that tell of them. Pure: whoever owns it brings the time.
#[derive(Debug)]
pub struct Account {
    call: Arc<Call>,
    tariff: Tariff,
    cost_max: Option<CostMax>,
    /// What is left of each live hold.
    holds: BTreeMap<u64, Sums>,
    tallies: BTreeMap<Subject, Tally>,
    next_hold: u64,
    closed: bool,
    ended: bool,
    opened: bool,
    /// How often usage has grown, and how often it had in the last row.
    grown: u64,
    told: u64,
    /// Where in the answer usage grew: what stands behind bytes that have not left.
    marks: Marks,
}

impl Account {
    /// Nothing used yet.
    pub fn new(call: Arc<Call>, tariff: Tariff, cost_max: Option<CostMax>) -> Self {
        Self {
            call,
            tariff,
            cost_max,
            holds: BTreeMap::new(),
            tallies: BTreeMap::new(),
            next_hold: 0,
            closed: false,
            ended: false,
            opened: false,
            grown: 0,
            told: 0,
            marks: Marks::default(),
        }
    }

    /// Who called what.
    pub fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// Sets `lines` aside.
    ///
    /// # Errors
    /// [`Refusal`] with `Closed` after [`Account::close`] or the end; with `NeverFits` if a sum would leave `i64`; with
    /// `Money` if the call would come to more than it may cost.
    pub fn hold(&mut self, lines: &[Line]) -> Result<HoldId, Refusal> {
        if self.closed || self.ended {
            return Err(refusal(RefusalKind::Closed, "the call is over: no more work can start on it".to_owned()));
        }
        let asked = merged(lines).ok_or_else(never_fits)?;
        for (subject, quantity) in &asked {
            let exposed = self.tallies.get(subject).map_or(0, Tally::exposed);
            exposed.checked_add(*quantity).ok_or_else(never_fits)?;
        }
        self.check_cost(&asked)?;
        for (subject, quantity) in &asked {
            // Cannot saturate: the loop above has shown that every sum fits.
            let tally = self.tally(*subject);
            tally.held = tally.held.saturating_add(*quantity);
        }
        let id = self.next_hold;
        self.next_hold += 1;
        self.holds.insert(id, asked);
        Ok(HoldId(id))
    }

    fn check_cost(&self, asked: &Sums) -> Result<(), Refusal> {
        let Some(CostMax { amount, of }) = self.cost_max else { return Ok(()) };
        let (so_far, more) = (self.exposure().cost, self.cost_of(asked));
        // Free work is no reason to refuse, even where the call has come to more than it may.
        if more == Money::ZERO || so_far.saturating_add(more) <= amount {
            return Ok(());
        }
        let message = format!(
            "{of} = {amount}: {so_far} held and used, {more} requested; ask for less work or allow a higher cost"
        );
        Err(refusal(RefusalKind::Money, message))
    }

    fn cost_of(&self, sums: &Sums) -> Money {
        sums.iter().map(|(subject, quantity)| self.priced(*subject).cost(*quantity)).sum()
    }

    /// An empty tally that knows its price.
    fn priced(&self, (meter, model): Subject) -> Tally {
        let known = self.tallies.get(&(meter, model)).map(|tally| tally.rate);
        Tally { rate: known.unwrap_or_else(|| self.tariff.rate(meter, model)), held: 0, used: 0 }
    }

    fn tally(&mut self, subject: Subject) -> &mut Tally {
        let Self { tallies, tariff, .. } = self;
        let rate = || tariff.rate(subject.0, subject.1);
        tallies.entry(subject).or_insert_with(|| Tally { rate: rate(), held: 0, used: 0 })
    }

    /// Turns `lines` into usage (even beyond the hold, even after the close: work that was done is owed). After the
    /// end it does nothing. A sum stops growing at `i64::MAX`.
    pub fn charge(&mut self, hold: HoldId, lines: &[Line]) {
        self.count(Some(hold), lines);
    }

    /// Counts what nobody has to hold first, because it is recorded and never priced (guest CPU).
    pub fn record(&mut self, lines: &[Line]) {
        self.count(None, lines);
    }

    fn count(&mut self, hold: Option<HoldId>, lines: &[Line]) {
        if self.ended {
            return;
        }
        for line in lines.iter().filter(|line| line.quantity > 0) {
            let subject = (line.meter, line.model);
            let quantity = i64::try_from(line.quantity).unwrap_or(i64::MAX);
            let left = hold.and_then(|hold| self.holds.get_mut(&hold.0)).and_then(|left| left.get_mut(&subject));
            let drawn = left.map_or(0, |left| {
                let drawn = quantity.min(*left);
                *left -= drawn;
                drawn
            });
            let tally = self.tally(subject);
            tally.used = tally.used.saturating_add(quantity);
            tally.held -= drawn;
            self.grown = self.grown.saturating_add(1);
        }
    }

    /// Gives back what was not charged. A hold that is not there (any more) is none.
    pub fn release(&mut self, hold: HoldId) {
        for (subject, left) in self.holds.remove(&hold.0).into_iter().flatten() {
            if let Some(tally) = self.tallies.get_mut(&subject) {
                tally.held -= left;
            }
        }
    }

    /// No more holds: the response body has ended, or the call is being cut.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Usage so far, one line per (meter, model).
    pub fn used(&self) -> Vec<Line> {
        self.lines(|tally| tally.used)
    }

    /// What is set aside and not charged yet, one line per (meter, model).
    pub fn held(&self) -> Vec<Line> {
        self.lines(|tally| tally.held)
    }

    fn lines(&self, quantity: impl Fn(&Tally) -> i64) -> Vec<Line> {
        let line = |(&(meter, model), tally): (&Subject, &Tally)| {
            let quantity = u64::try_from(quantity(tally)).ok().filter(|&quantity| quantity > 0)?;
            Some(Line { meter, model, quantity })
        };
        self.tallies.iter().filter_map(line).collect()
    }

    /// What is held and used, as the limits of the call's levels count it.
    pub fn exposure(&self) -> Ask {
        self.ask(Tally::exposed)
    }

    /// What was used, likewise: what is owed if the call's outcome says so.
    pub fn usage(&self) -> Ask {
        self.ask(|tally| tally.used)
    }

    fn ask(&self, quantity: impl Fn(&Tally) -> i64) -> Ask {
        let tokens = |((meter, _), tally): (&Subject, &Tally)| match meter {
            Meter::InputTokens | Meter::CachedInputTokens | Meter::OutputTokens => {
                u64::try_from(quantity(tally)).unwrap_or(0)
            }
            Meter::Rows | Meter::Elements | Meter::InferenceMicros | Meter::GuestCpuMicros => 0,
        };
        Ask {
            tokens: self.tallies.iter().map(tokens).fold(0, u64::saturating_add),
            cost: self.tallies.values().map(|tally| tally.cost(quantity(tally))).sum(),
        }
    }

    /// What the usage so far costs.
    pub fn cost(&self) -> Money {
        self.usage().cost
    }

    /// What `lines` would cost this call, one line per (meter, model). A sum stops growing at `i64::MAX`.
    pub fn quote(&self, lines: &[Line]) -> Vec<RowLine> {
        let mut sums = Sums::new();
        for line in lines.iter().filter(|line| line.quantity > 0) {
            let sum = sums.entry((line.meter, line.model)).or_insert(0);
            *sum = sum.saturating_add(i64::try_from(line.quantity).unwrap_or(i64::MAX));
        }
        sums.into_iter().map(|(subject, quantity)| self.priced(subject).row_line(subject, quantity)).collect()
    }

    /// The next `bytes` of the answer were made; usage so far stands behind them. A handler may write to several bodies, of
    /// which one is its answer, and nobody can tell which: then all usage stands behind whatever leaves.
    pub fn answers(&mut self, body: u32, bytes: usize) {
        let Self { marks, tallies, grown, .. } = self;
        marks.add(body, bytes, *grown, || tallies.iter().map(|(subject, tally)| (*subject, tally.used)).collect());
    }

    /// The rows to make durable before the bytes of the answer up to `upto` leave (0: the head alone): `Open` and
    /// `Progress` the first time, `Progress` when the usage behind them has grown since, none otherwise.
    ///
    /// What was done for later bytes already is not in them: a crash would bill what nobody can have received.
    pub fn before_frame(&mut self, at: i64, status: u16, upto: u64) -> Vec<Row> {
        if self.ended {
            return Vec::new();
        }
        self.marks.leave(upto);
        let mark = self.marks.first();
        let grown = mark.map_or(self.grown, |mark| mark.grown);
        if self.opened && grown <= self.told {
            return Vec::new();
        }
        let mut progress = self.row(Kind::Progress, at, status);
        if let Some(mark) = mark {
            progress.lines = mark.used.iter().filter_map(|&(subject, used)| self.line(subject, used)).collect();
        }
        let mut rows = Vec::with_capacity(2);
        if !self.opened {
            rows.push(Row { lines: Vec::new(), ..self.row(Kind::Open, at, status) });
        }
        rows.push(progress);
        self.opened = true;
        self.told = self.told.max(grown);
        rows
    }

    /// The one row that ends the call. The second time: none.
    ///
    /// Holds that are still out end with it. Where the outcome says that nothing is owed, the row has no lines, so
    /// that no sum can ever count them.
    pub fn end(&mut self, at: i64, status: u16, outcome: Outcome, cold: &str) -> Option<Row> {
        if self.ended {
            return None;
        }
        self.ended = true;
        self.holds.clear();
        self.tallies.values_mut().for_each(|tally| tally.held = 0);
        let row = Row {
            outcome: Some(outcome),
            cold: Some(cold.into()),
            duration_micros: Some(at.saturating_sub(self.call.opened_at).max(0)),
            ..self.row(Kind::Settle, at, status)
        };
        Some(if outcome.is_owed() { row } else { row.into_void(outcome) })
    }

    /// None for nothing.
    fn line(&self, subject: Subject, used: i64) -> Option<RowLine> {
        (used > 0).then(|| self.priced(subject).row_line(subject, used))
    }

    fn row(&self, kind: Kind, at: i64, status: u16) -> Row {
        let lines = self.tallies.iter().filter_map(|(subject, tally)| self.line(*subject, tally.used));
        Row {
            kind,
            call: self.call.clone(),
            at,
            lines: lines.collect(),
            outcome: None,
            status,
            cold: None,
            duration_micros: None,
        }
    }
}

/// `lines` summed by (meter, model), without zeros; none if a sum leaves `i64`.
fn merged(lines: &[Line]) -> Option<Sums> {
    let mut sums = Sums::new();
    for line in lines.iter().filter(|line| line.quantity > 0) {
        let sum = sums.entry((line.meter, line.model)).or_insert(0);
        *sum = sum.checked_add(i64::try_from(line.quantity).ok()?)?;
    }
    Some(sums)
}

fn refusal(kind: RefusalKind, message: String) -> Refusal {
    Refusal { kind, message, retry_after_ms: None }
}

fn never_fits() -> Refusal {
    let message = "the work asked for is larger than any account can count (2^63 - 1 of a meter)";
    refusal(RefusalKind::NeverFits, message.to_owned())
}

#[cfg(test)]
mod tests;
