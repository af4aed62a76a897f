//! The money of one level: what was spent in each period that has calls, what is held, what credit is left.
//!
//! What was spent comes from the ledger ([`Lease`]) and is kept up here by the settlements that follow. Every
//! settlement has its [`Position`], so that none is counted twice or lost however it falls between the reading of a
//! lease and its arrival.

use mayfly_types::{LevelLimits, Money, Period, SpendCap};

use super::{Lease, obstacle::Obstacle};
use crate::{Position, period_start};

/// There once a level's money was limited.
#[derive(Debug)]
pub(super) struct Purse {
    cap: Option<SpendCap>,
    prepaid: bool,
    /// Held by all open calls.
    held: Money,
    /// Periods with open calls, and the newest.
    terms: Vec<Term>,
    credit: Option<Credit>,
    /// An answer to a purse that was here before may be on its way: the first one does not count for entering.
    stray: bool,
}

/// One period.
#[derive(Debug)]
struct Term {
    /// Its beginning, microseconds since the Unix epoch.
    start: i64,
    /// Calls that opened in it and are open.
    calls: u32,
    /// Held by them.
    held: Money,
    known: Option<Known>,
    /// Settlements since the ledger was asked.
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Known {
    spent: Money,
    /// The newest row that was contained when it was read; newer ones were added one by one.
    position: Position,
    /// The ledger has to be asked again before the next call enters.
    outdated: bool,
}

#[derive(Debug)]
struct Credit {
    /// None if nothing was ever granted.
    left: Option<Money>,
    position: Position,
}

#[derive(Debug)]
struct Reading {
    /// The newest settlement when the ledger was asked: an answer that does not contain it was asked for earlier.
    since: Position,
    settled: Vec<Settled>,
    /// The ledger may have been asked before something changed: the first answer does not count for entering.
    outdated: bool,
}

#[derive(Debug, Clone, Copy)]
struct Settled {
    opened_at: i64,
    cost: Money,
    /// None: the ledger does not have it.
    at: Option<Position>,
}

impl Settled {
    fn is_newer_than(&self, position: Position) -> bool {
        self.at.is_none_or(|at| at > position)
    }
}

/// So many periods are kept although no call of theirs may be open: that of now, and the one before, whose lease may be
/// on its way.
const TERMS_KEPT: usize = 2;

impl Purse {
    /// Nothing known yet. `open_calls`: when each opened and what it has reserved.
    pub(super) fn new(limits: &LevelLimits, open_calls: impl Iterator<Item = (i64, Money)>) -> Self {
        let (cap, prepaid) = (limits.spend, limits.prepaid);
        let mut purse = Self { cap, prepaid, held: Money::ZERO, terms: Vec::new(), credit: None, stray: false };
        for (opened_at, cost) in open_calls {
            purse.enter(opened_at);
            purse.shift(cost, opened_at);
        }
        purse
    }

    /// Other limits. Another length of period is another purse: all has to be read again.
    pub(super) fn limit<I: Iterator<Item = (i64, Money)>>(
        &mut self,
        limits: &LevelLimits,
        open_calls: impl FnOnce() -> I,
    ) {
        if limits.spend.map(|cap| cap.per) == self.cap.map(|cap| cap.per) {
            (self.cap, self.prepaid) = (limits.spend, limits.prepaid);
        } else {
            let stray = self.stray || self.terms.iter().any(|term| term.reading.is_some());
            *self = Self { stray, ..Self::new(limits, open_calls()) };
        }
    }

    fn start(&self, at: i64) -> i64 {
        period_start(self.cap.map_or(Period::Month, |cap| cap.per), at)
    }

    fn term(&self, at: i64) -> Option<&Term> {
        let start = self.start(at);
        self.terms.iter().find(|term| term.start == start)
    }

    fn term_mut(&mut self, at: i64) -> &mut Term {
        let start = self.start(at);
        let place = self.terms.iter().position(|term| term.start == start).unwrap_or_else(|| {
            if self.terms.len() >= TERMS_KEPT {
                self.terms.retain(|term| term.calls > 0);
            }
            self.terms.push(Term { start, calls: 0, held: Money::ZERO, known: None, reading: None });
            self.terms.len() - 1
        });
        &mut self.terms[place]
    }

    /// Whether the money is known for a call that enters at `now`. If not, settlements are remembered from now on.
    /// `newest`: the newest settlement so far.
    pub(super) fn ask(&mut self, now: i64, newest: Position) -> bool {
        let stray = self.stray;
        let term = self.term_mut(now);
        if term.known.as_ref().is_some_and(|known| !known.outdated) {
            return true;
        }
        term.reading.get_or_insert_with(|| Reading { since: newest, settled: Vec::new(), outdated: stray });
        false
    }

    /// The ledger's answer.
    pub(super) fn load(&mut self, lease: &Lease) {
        let Some(place) = self.terms.iter().position(|term| term.start == lease.period_start) else { return };
        let is_answer = |reading: &mut Reading| lease.position >= reading.since;
        let Some(mut reading) = self.terms[place].reading.take_if(is_answer) else { return };
        self.stray = false;
        reading.settled.retain(|settled| settled.is_newer_than(lease.position));
        let of_term = |settled: &&Settled| self.start(settled.opened_at) == lease.period_start;
        let spent: Money = reading.settled.iter().filter(of_term).map(|settled| settled.cost).sum();
        let spent_of_any: Money = reading.settled.iter().map(|settled| settled.cost).sum();
        if self.credit.as_ref().is_none_or(|credit| credit.position <= lease.position) {
            let left = lease.credit.map(|credit| credit.saturating_sub(spent_of_any));
            self.credit = Some(Credit { left, position: lease.position });
        }
        let term = &mut self.terms[place];
        term.known = Some(Known {
            spent: lease.spent.saturating_add(spent),
            position: lease.position,
            outdated: reading.outdated,
        });
        if reading.outdated {
            term.reading = Some(Reading { outdated: false, ..reading });
        }
    }

    /// What the ledger says has changed by more than settlements.
    pub(super) fn forget(&mut self) {
        for term in &mut self.terms {
            term.known.iter_mut().for_each(|known| known.outdated = true);
            term.reading.iter_mut().for_each(|reading| reading.outdated = true);
        }
    }

    /// What keeps a call from entering at `now`: there has to be something left.
    pub(super) fn door(&self, now: i64) -> Option<Obstacle> {
        let known = self.term(now).and_then(|term| term.known.as_ref()).filter(|known| !known.outdated);
        match known {
            None => Some(Obstacle::UnknownMoney),
            // The smallest amount there is: above zero is what has room for it.
            Some(_) => self.obstacle(Money::LEAST, now, None),
        }
    }

    /// What keeps a call that opened at `opened_at` from reserving `more`. Free work has no obstacle.
    pub(super) fn room(&self, more: Money, opened_at: i64) -> Option<Obstacle> {
        if more <= Money::ZERO {
            return None;
        }
        self.obstacle(more, opened_at, Some(more))
    }

    fn obstacle(&self, more: Money, opened_at: i64, requested: Option<Money>) -> Option<Obstacle> {
        if let Some(cap) = self.cap {
            let Some((spent, held)) =
                self.term(opened_at).and_then(|term| Some((term.known.as_ref()?.spent, term.held)))
            else {
                return Some(Obstacle::UnknownMoney);
            };
            if spent.saturating_add(held).saturating_add(more) > cap.amount {
                let too_dear = requested.filter(|requested| *requested > cap.amount);
                let spend = Obstacle::Spend { cap, spent, held, requested };
                return Some(too_dear.map_or(spend, |requested| Obstacle::TooDear { cap, requested }));
            }
        }
        if self.prepaid {
            let Some(credit) = &self.credit else { return Some(Obstacle::UnknownMoney) };
            let (left, held) = (credit.left, self.held);
            if held.saturating_add(more) > left.unwrap_or(Money::ZERO) {
                return Some(Obstacle::Credit { left, held, requested });
            }
        }
        None
    }

    pub(super) fn enter(&mut self, opened_at: i64) {
        let term = self.term_mut(opened_at);
        term.calls = term.calls.saturating_add(1);
    }

    /// What a call has reserved grows (or shrinks).
    pub(super) fn shift(&mut self, cost: Money, opened_at: i64) {
        self.held = self.held.saturating_add(cost);
        let term = self.term_mut(opened_at);
        term.held = term.held.saturating_add(cost);
    }

    /// A call ends: what it has reserved goes, what it owes is spent in the period it opened in.
    pub(super) fn leave(&mut self, opened_at: i64, reserved: Money, owed: Money, at: Option<Position>) {
        self.shift(Money::ZERO.saturating_sub(reserved), opened_at);
        let settled = Settled { opened_at, cost: owed, at };
        let term = self.term_mut(opened_at);
        term.calls = term.calls.saturating_sub(1);
        if owed == Money::ZERO {
            return;
        }
        if let Some(known) = term.known.as_mut().filter(|known| settled.is_newer_than(known.position)) {
            known.spent = known.spent.saturating_add(owed);
        }
        if let Some(credit) = self.credit.as_mut().filter(|credit| settled.is_newer_than(credit.position)) {
            credit.left = credit.left.map(|left| left.saturating_sub(owed));
        }
        for reading in self.terms.iter_mut().filter_map(|term| term.reading.as_mut()) {
            reading.settled.push(settled);
        }
    }
}
