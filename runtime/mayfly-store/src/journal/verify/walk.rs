//! The rows in their order: numbers, lines, and the sums they make.

use std::collections::HashSet;

use mayfly_ledger::Kind;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row};

use super::Problems;
use super::chains::Links;
use super::fingerprint::{Fingerprints, Seed};
use super::tables::Tables;
use crate::DbError;
use crate::journal::chain::Link;
use crate::journal::ledger::COLUMNS;
use crate::journal::lines::{self, Line};
use crate::journal::{rollup, sums, words};

#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) rows: u64,
    /// What the rollups must be.
    pub(super) sums: Fingerprints,
    /// What the index of calls must have.
    pub(super) calls: u64,
}

/// What is kept from row to row, so that nothing is allocated for each.
struct Walk<'a> {
    tables: &'a mut Tables,
    seed: &'a Seed,
    problems: &'a mut Problems,
    walked: Walked,
    link: Link,
    links: Links,
    lines: Vec<Line>,
    /// Levels that have been granted something.
    granted: HashSet<(i64, Vec<u8>)>,
}

pub(super) fn walk(
    connection: &Connection,
    tables: &mut Tables,
    seed: &Seed,
    links: Links,
    problems: &mut Problems,
) -> Result<Walked, DbError> {
    let sql = "SELECT pos, boot, kind, call, part, subject, opened_at, at, outcome, status, cold, duration, end_user,
                      parent, root, attempt, lines, hash FROM ledger ORDER BY pos";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut walk = Walk {
        tables,
        seed,
        problems,
        walked: Walked::default(),
        link: Link::default(),
        links,
        lines: Vec::new(),
        granted: HashSet::new(),
    };
    let mut last = 0;
    while let Some(row) = rows.next()? {
        let pos: i64 = row.get(0)?;
        if pos != last + 1 {
            walk.problems.add(|| format!("row {pos} follows row {last}"));
        }
        last = pos;
        walk.walked.rows += 1;
        walk.row(pos, row)?;
    }
    let mut lost: Vec<i64> = walk.tables.grants.keys().copied().collect();
    lost.sort_unstable();
    for pos in lost {
        walk.problems.add(|| format!("the grant of row {pos} has no row"));
    }
    walk.links.finish();
    Ok(walk.walked)
}

impl Walk<'_> {
    fn row(&mut self, pos: i64, row: &Row<'_>) -> Result<(), DbError> {
        let kind: i64 = row.get(2)?;
        for column in 0..COLUMNS {
            self.link.value(row.get_ref(column)?);
        }
        let subject: Option<i64> = row.get(5)?;
        if let Some(subject) = subject {
            match self.tables.subjects.get(&subject) {
                Some(subject) => self.link.value(ValueRef::Blob(&subject.digest)),
                None => self.problems.add(|| format!("row {pos} is of subject {subject}, which is not there")),
            }
        }
        self.lines.clear();
        let readable = match row.get_ref(16)? {
            ValueRef::Null => true,
            ValueRef::Text(text) => {
                std::str::from_utf8(text).is_ok_and(|text| lines::read(text, &mut self.lines).is_ok())
            }
            _ => false,
        };
        if !readable {
            self.problems.add(|| format!("the lines of row {pos} cannot be read"));
        }
        self.lines(pos, kind);
        if kind == words::GRANT {
            self.grant(pos);
        }
        let stored = bytes(row.get_ref(17)?).unwrap_or_default();
        self.links.add(pos, row.get(1)?, &mut self.link, stored);
        if let (Some(call), Some(subject)) = (bytes(row.get_ref(3)?), subject) {
            let part: i64 = row.get(4)?;
            self.walked.calls = self.walked.calls.wrapping_add(self.seed.entry(call, part, pos));
            self.call(pos, kind, part, subject, row)?;
        } else if kind != words::GRANT {
            self.problems.add(|| format!("row {pos} belongs to no call"));
        }
        Ok(())
    }

    /// Links the models of the lines, and checks amounts against the prices they name.
    fn lines(&mut self, pos: i64, kind: i64) {
        let negative = kind == words::kind(Kind::Correct);
        let mut linked = 0;
        for line in &self.lines {
            // Once for lines in a row, as they were written.
            if line.model != 0 && line.model != linked {
                linked = line.model;
                match self.tables.models.get(&line.model) {
                    Some(model) => self.link.value(ValueRef::Blob(model)),
                    None => self.problems.add(|| format!("row {pos} is of model {}, which is not there", line.model)),
                }
            }
            if line.quantity < 0 && !negative {
                self.problems.add(|| format!("row {pos} has a quantity below zero"));
            }
            let Some((price, amount)) = line.priced else { continue };
            match self.tables.prices.get(&price) {
                None => self.problems.add(|| format!("row {pos} has price {price}, which the book does not have")),
                Some(pico) => {
                    let most = i128::from(i64::MAX);
                    let expected = (i128::from(line.quantity) * i128::from(*pico)).clamp(-most, most);
                    if expected != i128::from(amount) {
                        self.problems
                            .add(|| format!("row {pos} has an amount that is not its quantity at price {price}"));
                    }
                }
            }
        }
    }

    /// A row of a call: its place among the others, and what it adds to the sums.
    fn call(&mut self, pos: i64, kind: i64, part: i64, subject: i64, row: &Row<'_>) -> Result<(), DbError> {
        let Ok(kind) = words::kind_of(kind) else {
            self.problems.add(|| format!("row {pos} is of kind {kind}, which there is not"));
            return Ok(());
        };
        let fits = match kind {
            Kind::Open => part == 1,
            Kind::Progress => part > 1,
            Kind::Settle | Kind::Void => part == 0,
            Kind::Correct => part < 0,
        };
        let ends = part == 0;
        if !fits || ends != row.get::<_, Option<i64>>(8)?.is_some() {
            self.problems.add(|| format!("row {pos} ({}) is not in the place of its kind", kind.as_str()));
        }
        if kind == Kind::Void && !self.lines.is_empty() {
            self.problems.add(|| format!("row {pos} is void and has lines"));
        }
        if part > 0 {
            return Ok(());
        }
        let hour = rollup::hour(row.get(6)?);
        let base = self.seed.base(subject, hour, bytes(row.get_ref(12)?).unwrap_or_default());
        let sums = self.walked.sums.of(hour);
        let mut cost = 0;
        rollup::additions(ends, &self.lines, |meter, model, price, quantity, amount| {
            sums.add(base, model, meter, price, quantity.into(), amount.into());
            cost += i128::from(amount);
        });
        if let Some(subject) = self.tables.subjects.get_mut(&subject) {
            subject.spent += cost;
        }
        Ok(())
    }

    /// Links what a grant says, and checks what its level had spent if it is the first.
    fn grant(&mut self, pos: i64) {
        let Some(columns) = self.tables.grants.remove(&pos) else {
            self.problems.add(|| format!("row {pos} is a grant, of which nothing else is there"));
            return;
        };
        for column in &columns {
            self.link.value(column.into());
        }
        let [Value::Integer(level), Value::Blob(id), .., spent_high, spent_low] = columns.as_slice() else {
            self.problems.add(|| format!("the grant of row {pos} cannot be read"));
            return;
        };
        let first = self.granted.insert((*level, id.clone()));
        let expected = usize::try_from(*level).ok().filter(|_| first).map(|level| {
            let subjects = self.tables.subjects.values();
            let of = subjects.filter(|subject| subject.levels.get(level) == Some(id));
            of.map(|subject| subject.spent).sum::<i128>()
        });
        let noted = match (spent_high, spent_low) {
            (Value::Integer(high), Value::Integer(low)) => Some(sums::join(*high, *low)),
            _ => None,
        };
        if noted != expected {
            self.problems.add(|| format!("the grant of row {pos} notes another sum than its level had spent"));
        }
    }
}

/// The bytes of a text or a blob.
pub(super) fn bytes(value: ValueRef<'_>) -> Option<&[u8]> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
        _ => None,
    }
}
