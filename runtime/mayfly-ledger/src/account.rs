//! The account of one call while it lives.

use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_types::{HoldId, Line, Meter, ModelId, Refusal, RefusalKind};

use crate::{Call, Kind, Outcome, Row, RowLine};

/// What sums are kept by.
type Sums = BTreeMap<(Meter, Option<ModelId>), i64>;

/// Usage of one call: holds, charges, and the rows that tell of them. Pure: whoever owns it brings the time.
#[derive(Debug)]
pub struct Account {
    call: Arc<Call>,
    /// What is left of each live hold.
    holds: BTreeMap<u64, Sums>,
    /// The sum of `holds`.
    held: Sums,
    used: Sums,
    next_hold: u64,
    closed: bool,
    ended: bool,
    opened: bool,
    /// Usage has grown since the last row.
    grown: bool,
}

impl Account {
    /// Nothing used yet.
    pub fn new(call: Arc<Call>) -> Self {
        Self {
            call,
            holds: BTreeMap::new(),
            held: Sums::new(),
            used: Sums::new(),
            next_hold: 0,
            closed: false,
            ended: false,
            opened: false,
            grown: false,
        }
    }

    /// Who called what.
    pub fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// Sets `lines` aside.
    ///
    /// # Errors
    /// [`Refusal`] with `Closed` after [`Account::close`] or the end; with `NeverFits` if a sum would leave `i64`.
    pub fn hold(&mut self, lines: &[Line]) -> Result<HoldId, Refusal> {
        if self.closed || self.ended {
            return Err(refusal(RefusalKind::Closed, "the call is over: no more work can start on it"));
        }
        let asked = merged(lines).ok_or_else(never_fits)?;
        for (key, quantity) in &asked {
            let held = self.held.get(key).copied().unwrap_or(0);
            let used = self.used.get(key).copied().unwrap_or(0);
            held.checked_add(used).and_then(|sum| sum.checked_add(*quantity)).ok_or_else(never_fits)?;
        }
        for (key, quantity) in &asked {
            // Cannot saturate: the loop above has shown that every sum fits.
            let held = self.held.entry(*key).or_insert(0);
            *held = held.saturating_add(*quantity);
        }
        let id = self.next_hold;
        self.next_hold += 1;
        self.holds.insert(id, asked);
        Ok(HoldId(id))
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
            let key = (line.meter, line.model);
            let quantity = i64::try_from(line.quantity).unwrap_or(i64::MAX);
            let used = self.used.entry(key).or_insert(0);
            *used = used.saturating_add(quantity);
            self.grown = true;
            let left = hold.and_then(|hold| self.holds.get_mut(&hold.0)).and_then(|left| left.get_mut(&key));
            if let Some(left) = left {
                let drawn = quantity.min(*left);
                *left -= drawn;
                take(&mut self.held, key, drawn);
            }
        }
    }

    /// Gives back what was not charged. A hold that is not there (any more) is none.
    pub fn release(&mut self, hold: HoldId) {
        for (key, left) in self.holds.remove(&hold.0).into_iter().flatten() {
            take(&mut self.held, key, left);
        }
    }

    /// No more holds: the response body has ended, or the call is being cut.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Usage so far, one line per (meter, model).
    pub fn used(&self) -> Vec<Line> {
        lines(&self.used)
    }

    /// What is set aside and not charged yet, one line per (meter, model).
    pub fn held(&self) -> Vec<Line> {
        lines(&self.held)
    }

    /// The rows to make durable before the next frame leaves: `Open` and `Progress` the first time, `Progress` when
    /// usage has grown since, none otherwise.
    pub fn before_frame(&mut self, at: i64, status: u16) -> Vec<Row> {
        if self.ended || (self.opened && !self.grown) {
            return Vec::new();
        }
        let mut rows = Vec::with_capacity(2);
        if !self.opened {
            rows.push(Row { lines: Vec::new(), ..self.row(Kind::Open, at, status) });
        }
        rows.push(self.row(Kind::Progress, at, status));
        self.opened = true;
        self.grown = false;
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
        self.held.clear();
        let row = Row {
            outcome: Some(outcome),
            cold: Some(cold.into()),
            duration_micros: Some(at.saturating_sub(self.call.opened_at).max(0)),
            ..self.row(Kind::Settle, at, status)
        };
        Some(if outcome.is_owed() { row } else { row.into_void(outcome) })
    }

    fn row(&self, kind: Kind, at: i64, status: u16) -> Row {
        let lines = self.used.iter().map(|(&(meter, model), &quantity)| RowLine {
            meter,
            model,
            quantity,
            price: None,
            amount: None,
        });
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

/// Takes `quantity` off a sum that contains it, and the sum away once it is empty.
fn take(sums: &mut Sums, key: (Meter, Option<ModelId>), quantity: i64) {
    if let Some(sum) = sums.get_mut(&key) {
        *sum -= quantity;
        if *sum == 0 {
            sums.remove(&key);
        }
    }
}

fn lines(sums: &Sums) -> Vec<Line> {
    let line = |(&(meter, model), &quantity)| Line { meter, model, quantity: u64::try_from(quantity).unwrap_or(0) };
    sums.iter().map(line).collect()
}

fn refusal(kind: RefusalKind, message: &str) -> Refusal {
    Refusal { kind, message: message.to_owned(), retry_after_ms: None }
}

fn never_fits() -> Refusal {
    refusal(RefusalKind::NeverFits, "the work asked for is larger than any account can count (2^63 - 1 of a meter)")
}

#[cfg(test)]
mod tests;
