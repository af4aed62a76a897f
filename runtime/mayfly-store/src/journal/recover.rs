//! After a kill: calls that an earlier start left open are ended as far as they were durable.

use mayfly_ledger::{Kind, Outcome, Row};
use rusqlite::{Connection, params};

use super::ledger::Ledger;
use super::rows;
use crate::{DbError, Node};

/// Ends at most `limit` calls that earlier boots of `node` left open; says how many. Their lines are those of their
/// newest row; how long they lived is known up to it.
pub(super) fn recover(
    connection: &Connection,
    ledger: &mut Ledger,
    node: Node,
    at: i64,
    limit: u32,
) -> Result<u32, DbError> {
    let sql = format!(
        "SELECT {} FROM ledger_live v JOIN ledger_boot b ON b.id = v.boot
         JOIN ledger l ON l.call = v.call AND l.part = (SELECT max(part) FROM ledger p WHERE p.call = v.call)
         JOIN ledger_subject s ON s.id = l.subject
         WHERE b.node = ?1 AND b.boot < ?2 LIMIT ?3",
        rows::COLUMNS
    );
    let mut left = Vec::new();
    {
        let mut statement = connection.prepare_cached(&sql)?;
        let mut found = statement.query(params![node.id, node.boot, limit])?;
        while let Some(row) = found.next()? {
            let (row, _part, text) = rows::row(row)?;
            left.push((row, text));
        }
    }
    let mut writing = ledger.begin(connection)?;
    for (newest, text) in &left {
        writing.row(&Row {
            kind: Kind::Settle,
            at,
            lines: rows::lines(connection, text.as_deref())?,
            outcome: Some(Outcome::HostCrash),
            duration_micros: Some(newest.at.saturating_sub(newest.call.opened_at).max(0)),
            ..newest.clone()
        })?;
    }
    writing.finish()?;
    u32::try_from(left.len()).map_err(|error| DbError::Failed { detail: error.to_string() })
}
