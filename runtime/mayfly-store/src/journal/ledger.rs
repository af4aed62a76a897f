//! Rows go in: in the order their calls lived, numbered without a gap, each linked to the one before.

use std::collections::HashMap;

use mayfly_ledger::{Append, Call, Kind, Position, Row, RowLine};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};

use super::chain::{self, Hash, Link};
use super::intern::Interned;
use super::lines::{self, Line};
use super::order::check_line;
use super::rollup::Rollups;
use super::{answers, words};
use crate::{DbError, Node};

/// Columns of `ledger` before `hash`, in the order that the hash covers them.
pub(super) const COLUMNS: usize = 17;
const INSERT: &str = "
    INSERT INTO ledger (pos, boot, kind, call, part, subject, opened_at, at, outcome, status, cold, duration, end_user,
                        parent, root, attempt, lines, hash)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";

/// The writer's side of the ledger: what it would otherwise read before each row. Forgotten when a transaction is
/// undone, and read again.
#[derive(Debug)]
pub(crate) struct Ledger {
    node: Node,
    state: Option<State>,
}

#[derive(Debug)]
struct State {
    boot: i64,
    /// The newest row.
    last: i64,
    hash: Hash,
    /// The newest part of each call that was opened and has not ended.
    live: HashMap<[u8; 16], i64>,
    interned: Interned,
    link: Link,
}

/// One transaction's work on the ledger. Nothing of it counts before [`Writing::finish`].
pub(super) struct Writing<'a> {
    pub(super) connection: &'a Connection,
    state: &'a mut State,
    rollups: Rollups,
}

/// A row as it goes in.
struct Entry<'a> {
    kind: i64,
    call: Option<&'a [u8; 16]>,
    part: i64,
    /// Its number and its digest.
    subject: Option<(i64, Hash)>,
    opened_at: i64,
    at: i64,
    outcome: Option<i64>,
    status: i64,
    cold: Option<i64>,
    duration: Option<i64>,
    end_user: Option<&'a str>,
    parent: Option<&'a [u8; 16]>,
    root: Option<&'a [u8; 16]>,
    attempt: Option<i64>,
    lines: Option<&'a str>,
    /// What else the hash covers: the models of the lines, the columns of a grant.
    more: &'a [ValueRef<'a>],
}

impl Ledger {
    pub(crate) fn new(node: Node) -> Self {
        Self { node, state: None }
    }

    /// A transaction was undone: what is remembered may be wrong.
    pub(crate) fn forget(&mut self) {
        self.state = None;
    }

    /// Appends all of `appends`; the position of the last row. If one cannot be written, none is to stand.
    pub(crate) fn append_all<'a>(
        &mut self,
        connection: &Connection,
        appends: impl Iterator<Item = &'a Append>,
    ) -> Result<Position, DbError> {
        let mut writing = self.begin(connection)?;
        for append in appends {
            writing.append(append)?;
        }
        let last = Position(writing.state.last);
        writing.finish()?;
        Ok(last)
    }

    /// Begins work within a transaction.
    pub(super) fn begin<'a>(&'a mut self, connection: &'a Connection) -> Result<Writing<'a>, DbError> {
        if self.state.is_none() {
            self.state = Some(State::read(connection, self.node)?);
        }
        let state = self.state.as_mut().expect("set just above");
        Ok(Writing { connection, state, rollups: Rollups::default() })
    }
}

impl State {
    fn read(connection: &Connection, node: Node) -> Result<Self, DbError> {
        let sql = "SELECT id FROM ledger_boot WHERE node = ?1 AND boot = ?2";
        let known = connection.prepare_cached(sql)?.query_row(params![node.id, node.boot], |row| row.get(0));
        let boot: i64 = match known.optional()? {
            Some(id) => id,
            None => {
                let sql = "INSERT INTO ledger_boot (node, boot) VALUES (?1, ?2) RETURNING id";
                connection.query_row(sql, params![node.id, node.boot], |row| row.get(0))?
            }
        };
        let sql = "SELECT pos, boot, hash FROM ledger ORDER BY pos DESC LIMIT 1";
        let newest = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let newest: Option<(i64, i64, Hash)> = connection.prepare_cached(sql)?.query_row([], newest).optional()?;
        let (last, hash) = match newest {
            Some((last, of, hash)) if of == boot => (last, hash),
            other => (other.map_or(0, |(last, ..)| last), chain::genesis(&node.id, node.boot)),
        };
        let sql = "SELECT call, (SELECT max(part) FROM ledger l WHERE l.call = ledger_live.call) FROM ledger_live";
        let mut statement = connection.prepare_cached(sql)?;
        let live = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        Ok(Self { boot, last, hash, live, interned: Interned::default(), link: Link::default() })
    }
}

impl Writing<'_> {
    /// Appends rows and the answer that goes with them.
    fn append(&mut self, append: &Append) -> Result<(), DbError> {
        let mut ended = None;
        for row in &append.rows {
            self.row(row)?;
            if matches!(row.kind, Kind::Settle | Kind::Void) {
                ended = Some(row.call.id);
            }
        }
        if let Some(answer) = &append.answer {
            if ended != Some(answer.call) {
                return Err(failed(format!("an answer of {} without its end", answer.call)));
            }
            answers::keep(self.connection, answer)?;
        }
        Ok(())
    }

    /// Appends one row.
    pub(super) fn row(&mut self, row: &Row) -> Result<(), DbError> {
        let call = &*row.call;
        let id = call.id.to_bytes();
        let part = self.part(call, row.kind, &id)?;
        let (subject, digest) = self.state.interned.subject(self.connection, call)?;
        let mut stored = Vec::with_capacity(row.lines.len());
        for line in &row.lines {
            stored.push(self.line(row.kind, line)?);
        }
        let mut models: Vec<[u8; 16]> =
            row.lines.iter().filter_map(|line| line.model).map(|id| id.to_bytes()).collect();
        models.dedup();
        let more: Vec<ValueRef<'_>> = models.iter().map(|model| ValueRef::Blob(model)).collect();
        let text = lines::write(&stored);
        let (root, parent) = (call.root.to_bytes(), call.parent.map(|parent| parent.to_bytes()));
        let position = self.insert(&Entry {
            kind: words::kind(row.kind),
            call: Some(&id),
            part,
            subject: Some((subject, digest)),
            opened_at: call.opened_at,
            at: row.at,
            outcome: row.outcome.map(words::outcome),
            status: row.status.into(),
            cold: row.cold.as_deref().map(words::cold).transpose()?,
            duration: row.duration_micros,
            end_user: call.end_user.as_deref(),
            parent: parent.as_ref(),
            root: (call.root != call.id).then_some(&root),
            attempt: (call.attempt != 1).then_some(call.attempt.into()),
            lines: text.as_deref(),
            more: &more,
        })?;
        match row.kind {
            Kind::Open => {
                let sql = "INSERT INTO ledger_live (call, boot, pos) VALUES (?1, ?2, ?3)";
                self.connection.prepare_cached(sql)?.execute(params![id, self.state.boot, position])?;
                self.state.live.insert(id, part);
            }
            Kind::Progress => {
                self.state.live.insert(id, part);
            }
            Kind::Settle | Kind::Void => {
                if self.state.live.remove(&id).is_some() {
                    self.connection.prepare_cached("DELETE FROM ledger_live WHERE call = ?1")?.execute([id])?;
                }
                self.rollups.add(subject, call.opened_at, call.end_user.as_ref(), true, &stored);
            }
            Kind::Correct => self.rollups.add(subject, call.opened_at, call.end_user.as_ref(), false, &stored),
        }
        Ok(())
    }

    /// The part of its call that a row is.
    fn part(&self, call: &Call, kind: Kind, id: &[u8; 16]) -> Result<i64, DbError> {
        let live = self.state.live.get(id);
        let ended = || -> Result<bool, DbError> {
            let sql = "SELECT EXISTS (SELECT 1 FROM ledger WHERE call = ?1 AND part = 0)";
            Ok(self.connection.prepare_cached(sql)?.query_row([id], |row| row.get(0))?)
        };
        match (kind, live) {
            (Kind::Open, Some(_)) => Err(failed(format!("{} was opened twice", call.id))),
            (Kind::Open, None) if ended()? => Err(failed(format!("open after the end of {}", call.id))),
            (Kind::Open, None) => Ok(1),
            (Kind::Progress, Some(part)) => Ok(part + 1),
            (Kind::Progress, None) if ended()? => Err(failed(format!("progress after the end of {}", call.id))),
            (Kind::Progress, None) => Err(failed(format!("progress before the opening of {}", call.id))),
            // The unique index refuses a second end.
            (Kind::Settle | Kind::Void, _) => Ok(0),
            (Kind::Correct, _) => {
                let sql = "SELECT min(part), max(part = 0) FROM ledger WHERE call = ?1";
                let mut statement = self.connection.prepare_cached(sql)?;
                let found: (Option<i64>, Option<bool>) =
                    statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
                match found {
                    (Some(least), Some(true)) => Ok(least.min(0) - 1),
                    _ => Err(failed(format!("a correction before the end of {}", call.id))),
                }
            }
        }
    }

    fn line(&mut self, kind: Kind, line: &RowLine) -> Result<Line, DbError> {
        check_line(kind, line)?;
        let priced = line.price.zip(line.amount);
        let model = self.state.interned.model(self.connection, line.model)?;
        Ok(Line { meter: words::meter(line.meter), model, quantity: line.quantity, priced })
    }

    /// Appends a row that belongs to no call; `columns` are those of its own table, without the position, which is
    /// returned.
    pub(super) fn grant(&mut self, at: i64, columns: &[ValueRef<'_>]) -> Result<i64, DbError> {
        self.insert(&Entry {
            kind: words::GRANT,
            call: None,
            part: 0,
            subject: None,
            opened_at: at,
            at,
            outcome: None,
            status: 0,
            cold: None,
            duration: None,
            end_user: None,
            parent: None,
            root: None,
            attempt: None,
            lines: None,
            more: columns,
        })
    }

    fn insert(&mut self, entry: &Entry<'_>) -> Result<i64, DbError> {
        let state = &mut *self.state;
        let position = state.last + 1;
        let values: [ValueRef<'_>; COLUMNS] = [
            ValueRef::Integer(position),
            ValueRef::Integer(state.boot),
            ValueRef::Integer(entry.kind),
            blob(entry.call),
            ValueRef::Integer(entry.part),
            int(entry.subject.map(|(id, _)| id)),
            ValueRef::Integer(entry.opened_at),
            ValueRef::Integer(entry.at),
            int(entry.outcome),
            ValueRef::Integer(entry.status),
            int(entry.cold),
            int(entry.duration),
            text(entry.end_user),
            blob(entry.parent),
            blob(entry.root),
            int(entry.attempt),
            text(entry.lines),
        ];
        for value in values {
            state.link.value(value);
        }
        if let Some((_, digest)) = &entry.subject {
            state.link.value(ValueRef::Blob(digest));
        }
        for value in entry.more {
            state.link.value(*value);
        }
        let hash = state.link.close(&state.hash);
        let all = values.into_iter().chain([ValueRef::Blob(&hash)]).map(ToSqlOutput::Borrowed);
        self.connection.prepare_cached(INSERT)?.execute(params_from_iter(all))?;
        state.last = position;
        state.hash = hash;
        Ok(position)
    }

    /// Brings the sums up to the rows.
    pub(super) fn finish(self) -> Result<(), DbError> {
        self.rollups.write(self.connection)
    }
}

fn int<'a>(value: Option<i64>) -> ValueRef<'a> {
    value.map_or(ValueRef::Null, ValueRef::Integer)
}

fn text(value: Option<&str>) -> ValueRef<'_> {
    value.map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes()))
}

fn blob(value: Option<&[u8; 16]>) -> ValueRef<'_> {
    value.map_or(ValueRef::Null, |bytes| ValueRef::Blob(bytes))
}

fn failed(detail: String) -> DbError {
    DbError::Failed { detail }
}
