//! From rows to values and back; what a constraint means to the caller.

use mayfly_types::{LevelLimits, Name};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row, ffi};
use serde::de::DeserializeOwned;

use crate::DbError;

/// The first row of a query, if there is one.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    map: impl FnOnce(&Row<'_>) -> Result<T, DbError>,
) -> Result<Option<T>, DbError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(map).transpose()
}

/// Every row of a query.
pub(super) fn many<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    map: impl Fn(&Row<'_>) -> Result<T, DbError>,
) -> Result<Vec<T>, DbError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut values = Vec::new();
    while let Some(row) = rows.next()? {
        values.push(map(row)?);
    }
    Ok(values)
}

/// The truth of a query of one column.
pub(super) fn is_true(connection: &Connection, sql: &str, params: impl Params) -> Result<bool, DbError> {
    Ok(one(connection, sql, params, |row| Ok(row.get(0)?))?.unwrap_or(false))
}

/// Runs a statement; returns how many rows it changed.
pub(super) fn execute(connection: &Connection, sql: &str, params: impl Params) -> Result<usize, DbError> {
    Ok(connection.prepare_cached(sql)?.execute(params)?)
}

/// Runs an insert. A row that is there already is `taken`, one that it refers to and is not there is `missing`.
pub(super) fn insert(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    taken: impl FnOnce() -> String,
    missing: &'static str,
) -> Result<(), DbError> {
    let Err(error) = connection.prepare_cached(sql)?.execute(params) else { return Ok(()) };
    match error.sqlite_error().map(|error| error.extended_code) {
        Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => Err(DbError::Taken(taken())),
        Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => Err(DbError::NotFound(missing)),
        _ => Err(error.into()),
    }
}

/// A name as stored.
pub(super) fn name(row: &Row<'_>, column: &str) -> Result<Name, DbError> {
    row.get::<_, String>(column)?.parse().map_err(|error| DbError::damaged("name", error))
}

/// A JSON text as stored.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &'static str) -> Result<T, DbError> {
    serde_json::from_str(row.get_ref(column)?.as_str().map_err(|error| DbError::damaged(column, error))?)
        .map_err(|error| DbError::damaged(column, error))
}

/// A level's limits as stored.
pub(super) fn limits(row: &Row<'_>) -> Result<LevelLimits, DbError> {
    match row.get_ref("limits")? {
        ValueRef::Null => Ok(LevelLimits::default()),
        _text => json(row, "limits"),
    }
}

/// The text to store of a level's limits: none if it has none.
pub(super) fn limits_text(limits: &LevelLimits) -> Result<Option<String>, DbError> {
    (*limits != LevelLimits::default()).then(|| to_json(limits)).transpose()
}

/// How many names a refusal lists.
const NAMES_LISTED_MAX: usize = 5;

/// The names of what is in the way, for people.
pub(super) fn listed(names: &[String]) -> String {
    let mut text = names.iter().take(NAMES_LISTED_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMES_LISTED_MAX);
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// The JSON text to store.
pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::Failed { detail: error.to_string() })
}
