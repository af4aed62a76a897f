//! Rows go in: in the order their calls lived, or not at all.

use mayfly_ledger::{Call, Kind, Outcome, Row};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::model_bytes;
use crate::{DbError, Node};

/// Appends `rows` in their order, as `node`.
pub(super) fn append(connection: &Connection, node: Node, rows: &[Row]) -> Result<(), DbError> {
    let boot = boot_id(connection, node)?;
    let first = next_seq(connection, boot)?;
    for (seq, row) in (first..).zip(rows) {
        let ends = matches!(row.kind, Kind::Settle | Kind::Void);
        enter_call(connection, boot, &row.call, row.kind)?;
        let lines = match row.kind {
            Kind::Progress => Some(serde_json::to_string(&row.lines).map_err(|error| failed(error.to_string()))?),
            Kind::Open | Kind::Settle | Kind::Void => None,
        };
        connection
            .prepare_cached(
                "INSERT INTO ledger (boot, seq, kind, call, at, outcome, status, cold, duration, lines)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                boot,
                seq,
                row.kind.as_str(),
                row.call.id.to_bytes(),
                row.at,
                row.outcome.map(Outcome::as_str),
                row.status,
                row.cold.as_deref(),
                row.duration_micros,
                lines,
            ])?;
        if ends && row.kind == Kind::Void {
            connection.prepare_cached("DELETE FROM ledger_line WHERE call = ?1")?.execute([row.call.id.to_bytes()])?;
        }
        for line in &row.lines {
            connection
                .prepare_cached(
                    "INSERT INTO ledger_line (call, meter, model, quantity, price, amount) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT DO UPDATE SET quantity = excluded.quantity, price = excluded.price, amount = excluded.amount",
                )?
                .execute(params![
                    row.call.id.to_bytes(),
                    line.meter.as_str(),
                    model_bytes(line.model),
                    line.quantity,
                    line.price,
                    line.amount,
                ])?;
        }
    }
    Ok(())
}

/// Makes the call's row, or checks that it is there and open, and marks it ended if `kind` ends it.
fn enter_call(connection: &Connection, boot: i64, call: &Call, kind: Kind) -> Result<(), DbError> {
    let id = call.id.to_bytes();
    let sql = "SELECT ended FROM call WHERE id = ?1";
    let ended: Option<bool> = connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
    match (kind, ended) {
        (_, Some(true)) => Err(failed(format!("{} after the end of {}", kind.as_str(), call.id))),
        (Kind::Open, Some(false)) => Err(failed(format!("{} was opened twice", call.id))),
        (Kind::Progress, None) => Err(failed(format!("progress before the opening of {}", call.id))),
        (Kind::Progress, Some(false)) => Ok(()),
        (Kind::Open, None) => insert_call(connection, boot, call, false),
        (Kind::Settle | Kind::Void, None) => insert_call(connection, boot, call, true),
        (Kind::Settle | Kind::Void, Some(false)) => {
            connection.prepare_cached("UPDATE call SET ended = 1 WHERE id = ?1")?.execute([id])?;
            Ok(())
        }
    }
}

fn insert_call(connection: &Connection, boot: i64, call: &Call, ended: bool) -> Result<(), DbError> {
    connection
        .prepare_cached(
            "INSERT INTO call (id, parent, root, attempt, tenant, payer, project, requested, served, revision,
                               deployment_name, key, end_user, channel, counted_by, opened_at, boot, ended)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        )?
        .execute(params![
            call.id.to_bytes(),
            call.parent.map(|id| id.to_bytes()),
            (call.root != call.id).then(|| call.root.to_bytes()),
            call.attempt,
            call.tenant.to_bytes(),
            (call.payer != call.tenant).then(|| call.payer.to_bytes()),
            call.project.to_bytes(),
            call.requested.to_bytes(),
            (call.served != call.requested).then(|| call.served.to_bytes()),
            call.revision.to_bytes(),
            call.deployment_name.as_str(),
            call.key.to_bytes(),
            call.end_user.as_deref(),
            call.channel.as_str(),
            call.counted_by.as_str(),
            call.opened_at,
            boot,
            ended,
        ])?;
    Ok(())
}

/// Ends at most `limit` calls that earlier boots of `node` left open; says how many. Their lines stay as the last
/// durable progress left them; how long they lived is known up to their last row.
pub(super) fn recover(connection: &Connection, node: Node, at: i64, limit: u32) -> Result<u32, DbError> {
    let left: Vec<([u8; 16], i64, u16, i64)> = connection
        .prepare_cached(
            "SELECT c.id, c.opened_at,
                    (SELECT status FROM ledger l WHERE l.call = c.id ORDER BY boot DESC, seq DESC LIMIT 1),
                    (SELECT at FROM ledger l WHERE l.call = c.id ORDER BY boot DESC, seq DESC LIMIT 1)
             FROM call c JOIN ledger_boot b ON b.id = c.boot
             WHERE c.ended = 0 AND b.node = ?1 AND b.boot < ?2 LIMIT ?3",
        )?
        .query_map(params![node.id, node.boot, limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<Result<_, _>>()?;
    if left.is_empty() {
        return Ok(0);
    }
    let boot = boot_id(connection, node)?;
    let first = next_seq(connection, boot)?;
    for (seq, (id, opened_at, status, last_at)) in (first..).zip(&left) {
        connection
            .prepare_cached(
                "INSERT INTO ledger (boot, seq, kind, call, at, outcome, status, duration)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                boot,
                seq,
                Kind::Settle.as_str(),
                id,
                at,
                Outcome::HostCrash.as_str(),
                status,
                last_at.saturating_sub(*opened_at).max(0),
            ])?;
        connection.prepare_cached("UPDATE call SET ended = 1 WHERE id = ?1")?.execute([id])?;
    }
    u32::try_from(left.len()).map_err(|error| failed(error.to_string()))
}

/// The short id of this boot, made at its first row.
fn boot_id(connection: &Connection, node: Node) -> Result<i64, DbError> {
    let sql = "SELECT id FROM ledger_boot WHERE node = ?1 AND boot = ?2";
    let known = connection.prepare_cached(sql)?.query_row(params![node.id, node.boot], |row| row.get(0)).optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    let sql = "INSERT INTO ledger_boot (node, boot) VALUES (?1, ?2) RETURNING id";
    Ok(connection.query_row(sql, params![node.id, node.boot], |row| row.get(0))?)
}

/// Rows are numbered from 1, without a gap: one thread writes, and what fails is undone with its number.
fn next_seq(connection: &Connection, boot: i64) -> Result<i64, DbError> {
    let sql = "SELECT ifnull(max(seq), 0) + 1 FROM ledger WHERE boot = ?1";
    Ok(connection.prepare_cached(sql)?.query_row([boot], |row| row.get(0))?)
}

fn failed(detail: String) -> DbError {
    DbError::Failed { detail }
}
