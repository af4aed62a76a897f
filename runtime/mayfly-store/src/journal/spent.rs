//! The money of one level: what it spent, in a period and since its first grant, and what it was granted.

use mayfly_ledger::{Credit, Grant, Lease, Position, period_start};
use mayfly_types::{LevelId, LevelLimits, Money, Period};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::json;

use super::ledger::Ledger;
use super::{rollup, sums, words};
use crate::DbError;
use crate::records::audit::{self, AuditEntry, By};

/// Grants listed of one level.
const GRANTS_MAX: u32 = 1_000;
/// Microseconds from the beginning of a period to some time in the next one.
const fn into_next(period: Period) -> i64 {
    const HOUR: i64 = 3_600_000_000;
    match period {
        Period::Hour => HOUR,
        Period::Day => 24 * HOUR,
        Period::Month => 32 * 24 * HOUR,
    }
}

/// This node's part of a level's money: all of it.
pub(super) fn lease(connection: &Connection, level: LevelId, limits: &LevelLimits, at: i64) -> Result<Lease, DbError> {
    let period = limits.spend.map_or(Period::Month, |cap| cap.per);
    let start = period_start(period, at);
    let end = period_start(period, start.saturating_add(into_next(period)));
    let position: Option<i64> =
        connection.prepare_cached("SELECT max(pos) FROM ledger")?.query_row([], |row| row.get(0))?;
    let credit = match first_grant(connection, level)? {
        None => None,
        Some(then) => Some(Money::from_pico(granted(connection, level)? - (spent(connection, level, None)? - then))),
    };
    Ok(Lease {
        position: Position(position.unwrap_or(0)),
        period_start: start,
        spent: Money::from_pico(spent(connection, level, Some((rollup::hour(start), rollup::hour_up(end))))?),
        credit,
    })
}

/// Pico-units spent by the calls of `level`, in hours from..to or in all.
fn spent(connection: &Connection, level: LevelId, hours: Option<(i64, i64)>) -> Result<i128, DbError> {
    let column = match level {
        LevelId::Tenant(_) => "tenant",
        LevelId::Project(_) => "project",
        LevelId::Deployment(_) => "requested",
        LevelId::Key(_) => "key",
    };
    let sql = format!(
        "SELECT {} FROM ledger_subject s CROSS JOIN rollup r ON r.subject = s.id
         WHERE s.{column} = ?1 AND r.hour >= ?2 AND r.hour < ?3 AND r.price > 0",
        sums::sum_sql("r", "money")
    );
    let (from, to) = hours.unwrap_or((i64::MIN, i64::MAX));
    let (_, id) = words::level(level);
    Ok(connection.prepare_cached(&sql)?.query_row(params![id, from, to], |row| sums::joined(row, 0))?)
}

/// What the level had spent when its first grant was made; none if there is none.
fn first_grant(connection: &Connection, level: LevelId) -> Result<Option<i128>, DbError> {
    let (kind, id) = words::level(level);
    let sql = "SELECT spent_high, spent_low FROM ledger_grant WHERE level = ?1 AND id = ?2 ORDER BY pos LIMIT 1";
    let found: Option<(Option<i64>, Option<i64>)> = connection
        .prepare_cached(sql)?
        .query_row(params![kind, id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        None => Ok(None),
        Some((Some(high), Some(low))) => Ok(Some(sums::join(high, low))),
        Some(_) => Err(DbError::damaged("grant", "the first of its level does not say what was spent")),
    }
}

fn granted(connection: &Connection, level: LevelId) -> Result<i128, DbError> {
    let (kind, id) = words::level(level);
    let sql = format!("SELECT {} FROM ledger_grant g WHERE level = ?1 AND id = ?2", sums::sum_sql("g", "money"));
    Ok(connection.prepare_cached(&sql)?.query_row(params![kind, id], |row| sums::joined(row, 0))?)
}

/// Writes a grant row, and that it was granted.
pub(super) fn grant(connection: &Connection, by: By, ledger: &mut Ledger, grant: &Grant) -> Result<Position, DbError> {
    if grant.note.chars().count() > 200 {
        return Err(DbError::Failed { detail: "the note of a grant has more than 200 characters".to_owned() });
    }
    let (kind, id) = words::level(grant.level);
    let (high, low) = sums::split(grant.amount.pico())?;
    let before = match first_grant(connection, grant.level)? {
        None => Some(sums::split(spent(connection, grant.level, None)?)?),
        Some(_) => None,
    };
    let number = |value: Option<i64>| value.map_or(ValueRef::Null, ValueRef::Integer);
    let columns = [
        ValueRef::Integer(kind),
        ValueRef::Blob(&id),
        ValueRef::Integer(high),
        ValueRef::Integer(low),
        ValueRef::Text(grant.note.as_bytes()),
        number(before.map(|(high, _)| high)),
        number(before.map(|(_, low)| low)),
    ];
    let mut writing = ledger.begin(connection)?;
    let position = writing.grant(grant.at, &columns)?;
    writing.finish()?;
    let sql = "INSERT INTO ledger_grant (pos, level, id, money_high, money_low, note, spent_high, spent_low)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let (spent_high, spent_low) = before.unzip();
    connection
        .prepare_cached(sql)?
        .execute(params![position, kind, id, high, low, grant.note, spent_high, spent_low])?;
    let (tenant, project) = audit::owners(connection, grant.level)?;
    let details = json!({ "amount": grant.amount, "note": grant.note });
    let entry = AuditEntry { tenant, project, action: "credit.grant", target: grant.level.to_string(), details };
    audit::enter(connection, by, &entry)?;
    Ok(Position(position))
}

/// A level's credit; none if nothing was ever granted to it.
pub(super) fn credit(connection: &Connection, level: LevelId) -> Result<Option<Credit>, DbError> {
    let Some(then) = first_grant(connection, level)? else { return Ok(None) };
    let (kind, id) = words::level(level);
    let sql = "SELECT g.money_high, g.money_low, g.note, l.at FROM ledger_grant g JOIN ledger l ON l.pos = g.pos
               WHERE g.level = ?1 AND g.id = ?2 ORDER BY g.pos DESC LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let grant = |row: &rusqlite::Row<'_>| {
        let amount = Money::from_pico(sums::join(row.get(0)?, row.get(1)?));
        Ok(Grant { level, amount, note: row.get(2)?, at: row.get(3)? })
    };
    let mut grants = statement.query_map(params![kind, id, GRANTS_MAX], grant)?.collect::<Result<Vec<_>, _>>()?;
    grants.reverse();
    Ok(Some(Credit {
        granted: Money::from_pico(granted(connection, level)?),
        spent: Money::from_pico(spent(connection, level, None)? - then),
        grants,
    }))
}
