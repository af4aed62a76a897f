//! May these rows be appended? Asked before they are acknowledged, long before they get into the tables.
//!
//! What the tables would refuse is refused here: a second opening, progress before the opening or after the end, a second
//! end, a correction before the end, a line that no account makes. Which calls are open is known. Which have ended is
//! known of the newest [`ENDED_MAX`], and of all whose ids are later than every one forgotten, because ids are ordered by
//! their time; an older one is looked up in the tables, where all that was forgotten is.

use std::collections::{HashMap, HashSet, VecDeque};

use mayfly_ledger::{Append, Kind, Row, RowLine};
use rusqlite::Connection;

use super::words;
use crate::DbError;

/// Ended calls that are remembered.
const ENDED_MAX: usize = 65_536;

type Id = [u8; 16];

/// What is known of calls, up to the newest append.
#[derive(Debug)]
pub(crate) struct Order {
    /// The position of the newest row.
    last: i64,
    /// Calls that were opened by a row of their own and have not ended.
    live: HashSet<Id>,
    /// Calls that have ended, and the append that ended them.
    ended: HashMap<Id, u64>,
    /// The same, oldest first.
    endings: VecDeque<Id>,
    /// Every ended call that is not in `ended` has this id or an earlier one.
    forgotten: Id,
}

/// What one append changed, to be undone if it could not be written.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    rows: i64,
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Opened(Id),
    Ended(Id, bool),
}

impl Order {
    /// As the tables have it; nothing else has been appended.
    pub(crate) fn read(connection: &Connection) -> Result<Self, DbError> {
        let mut order =
            Self { last: 0, live: HashSet::new(), ended: HashMap::new(), endings: VecDeque::new(), forgotten: [0; 16] };
        order.read_again(connection)?;
        Ok(order)
    }

    /// The tables have everything, and rows that were not appended here besides.
    pub(crate) fn read_again(&mut self, connection: &Connection) -> Result<(), DbError> {
        let last: Option<i64> =
            connection.prepare_cached("SELECT max(pos) FROM ledger")?.query_row([], |row| row.get(0))?;
        self.last = last.unwrap_or(0);
        let newest: Option<Id> =
            connection.prepare_cached("SELECT max(call) FROM ledger")?.query_row([], |row| row.get(0))?;
        self.forgotten = self.forgotten.max(newest.unwrap_or_default());
        let mut statement = connection.prepare_cached("SELECT call FROM ledger_live")?;
        self.live = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// The position of the newest row.
    pub(crate) fn last(&self) -> i64 {
        self.last
    }

    /// Takes the rows of append `number` as appended. `tables`: a connection that reads.
    ///
    /// # Errors
    /// They do not fit behind those that are there; nothing is changed.
    pub(crate) fn take(&mut self, append: &Append, number: u64, tables: &Connection) -> Result<Taken, DbError> {
        let mut taken = Taken::default();
        match self.take_all(append, number, tables, &mut taken) {
            Ok(()) => Ok(taken),
            Err(error) => {
                self.undo(taken);
                Err(error)
            }
        }
    }

    fn take_all(
        &mut self,
        append: &Append,
        number: u64,
        tables: &Connection,
        taken: &mut Taken,
    ) -> Result<(), DbError> {
        let mut ended = None;
        for row in &append.rows {
            self.row(row, number, tables, &mut taken.changes)?;
            self.last += 1;
            taken.rows += 1;
            if matches!(row.kind, Kind::Settle | Kind::Void) {
                ended = Some(row.call.id);
            }
        }
        match &append.answer {
            Some(answer) if ended != Some(answer.call) => {
                Err(failed(format!("an answer of {} without its end", answer.call)))
            }
            _ => Ok(()),
        }
    }

    /// The newest append taken was not written.
    pub(crate) fn undo(&mut self, taken: Taken) {
        self.last -= taken.rows;
        for change in taken.changes.into_iter().rev() {
            match change {
                Change::Opened(id) => {
                    self.live.remove(&id);
                }
                Change::Ended(id, was_live) => {
                    self.ended.remove(&id);
                    self.endings.pop_back();
                    if was_live {
                        self.live.insert(id);
                    }
                }
            }
        }
    }

    /// Appends up to `applied` are in the tables: of their endings only the newest need be remembered.
    pub(crate) fn forget(&mut self, applied: u64) {
        while self.endings.len() > ENDED_MAX {
            let Some(id) = self.endings.front().copied() else { return };
            if self.ended.get(&id).is_some_and(|number| *number > applied) {
                return;
            }
            self.endings.pop_front();
            self.ended.remove(&id);
            self.forgotten = self.forgotten.max(id);
        }
    }

    fn row(&mut self, row: &Row, number: u64, tables: &Connection, changes: &mut Vec<Change>) -> Result<(), DbError> {
        if let Some(cold) = &row.cold {
            words::cold(cold)?;
        }
        for line in &row.lines {
            check_line(row.kind, line)?;
        }
        let (call, id) = (&row.call, row.call.id.to_bytes());
        let live = self.live.contains(&id);
        match row.kind {
            Kind::Open if live => return Err(failed(format!("{} was opened twice", call.id))),
            Kind::Open if self.has_ended(&id, tables)? => {
                return Err(failed(format!("open after the end of {}", call.id)));
            }
            Kind::Open => {
                self.live.insert(id);
                changes.push(Change::Opened(id));
            }
            Kind::Progress if !live => {
                let when = if self.has_ended(&id, tables)? { "after the end" } else { "before the opening" };
                return Err(failed(format!("progress {when} of {}", call.id)));
            }
            Kind::Progress => {}
            Kind::Settle | Kind::Void => {
                if !live && self.has_ended(&id, tables)? {
                    return Err(failed(format!("a second end of {}", call.id)));
                }
                self.live.remove(&id);
                self.ended.insert(id, number);
                self.endings.push_back(id);
                changes.push(Change::Ended(id, live));
            }
            Kind::Correct => {
                if live || !self.has_ended(&id, tables)? {
                    return Err(failed(format!("a correction before the end of {}", call.id)));
                }
            }
        }
        Ok(())
    }

    fn has_ended(&self, id: &Id, tables: &Connection) -> Result<bool, DbError> {
        if self.ended.contains_key(id) {
            return Ok(true);
        }
        if *id > self.forgotten {
            return Ok(false);
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM ledger WHERE call = ?1 AND part = 0)";
        Ok(tables.prepare_cached(sql)?.query_row([id], |row| row.get(0))?)
    }
}

/// A line as an account makes it: priced or not, and below zero only in a correction.
pub(super) fn check_line(kind: Kind, line: &RowLine) -> Result<(), DbError> {
    let least = if kind == Kind::Correct { i64::MIN + 1 } else { 0 };
    match (line.price, line.amount) {
        (Some(price), Some(amount)) if price > 0 && amount >= least => {}
        (None, None) => {}
        _ => return Err(failed(format!("a line with price {:?} and amount {:?}", line.price, line.amount))),
    }
    if line.quantity < least {
        return Err(failed(format!("a line of {} {}", line.quantity, line.meter)));
    }
    Ok(())
}

fn failed(detail: String) -> DbError {
    DbError::Failed { detail }
}
