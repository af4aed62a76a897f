//! Stored rows back as the ledger's types.

use std::sync::Arc;

use mayfly_ledger::{Call, Row, RowLine};
use mayfly_types::{DeploymentId, KeyId, ModelId, ProjectId, RequestId, RevisionId, TenantId};
use rusqlite::{Connection, OptionalExtension as _};

use super::lines::{self, Line};
use super::words;
use crate::DbError;

/// What [`row`] reads, of `ledger l JOIN ledger_subject s ON s.id = l.subject`.
pub(super) const COLUMNS: &str = "l.kind, l.call, l.part, l.opened_at, l.at, l.outcome, l.status, l.cold, l.duration, \
     l.end_user, l.parent, l.root, l.attempt, l.lines, s.tenant, s.payer, s.project, s.requested, s.served, \
     s.revision, s.deployment_name, s.key, s.channel, s.counted_by";

/// A row and its part; lines stay as they are stored.
pub(super) fn row(row: &rusqlite::Row<'_>) -> Result<(Row, i64, Option<String>), DbError> {
    let id = RequestId::from_bytes(row.get(1)?);
    let name: String = row.get(20)?;
    let root: Option<[u8; 16]> = row.get(11)?;
    let call = Call {
        id,
        parent: row.get::<_, Option<[u8; 16]>>(10)?.map(RequestId::from_bytes),
        root: root.map_or(id, RequestId::from_bytes),
        attempt: row.get::<_, Option<u32>>(12)?.unwrap_or(1),
        tenant: TenantId::from_bytes(row.get(14)?),
        payer: TenantId::from_bytes(row.get(15)?),
        project: ProjectId::from_bytes(row.get(16)?),
        requested: DeploymentId::from_bytes(row.get(17)?),
        served: DeploymentId::from_bytes(row.get(18)?),
        revision: RevisionId::from_bytes(row.get(19)?),
        deployment_name: name.parse().map_err(|error| DbError::damaged("ledger subject", error))?,
        key: KeyId::from_bytes(row.get(21)?),
        end_user: row.get::<_, Option<String>>(9)?.map(Into::into),
        channel: words::channel_of(row.get(22)?)?,
        counted_by: words::counted_by_of(row.get(23)?)?,
        opened_at: row.get(3)?,
    };
    let stored = Row {
        kind: words::kind_of(row.get(0)?)?,
        call: Arc::new(call),
        at: row.get(4)?,
        lines: Vec::new(),
        outcome: row.get::<_, Option<i64>>(5)?.map(words::outcome_of).transpose()?,
        status: row.get(6)?,
        cold: row.get::<_, Option<i64>>(7)?.map(words::cold_of).transpose()?,
        duration_micros: row.get(8)?,
    };
    Ok((stored, row.get(2)?, row.get(13)?))
}

/// Stored lines with their models.
pub(super) fn lines(connection: &Connection, text: Option<&str>) -> Result<Vec<RowLine>, DbError> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let mut stored = Vec::new();
    lines::read(text, &mut stored)?;
    stored.iter().map(|line| row_line(connection, line)).collect()
}

fn row_line(connection: &Connection, line: &Line) -> Result<RowLine, DbError> {
    Ok(RowLine {
        meter: words::meter_of(line.meter)?,
        model: model(connection, line.model)?,
        quantity: line.quantity,
        price: line.priced.map(|(price, _)| price),
        amount: line.priced.map(|(_, amount)| amount),
    })
}

fn model(connection: &Connection, id: i64) -> Result<Option<ModelId>, DbError> {
    if id == 0 {
        return Ok(None);
    }
    let sql = "SELECT model FROM ledger_model WHERE id = ?1";
    let bytes: Option<[u8; 16]> = connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
    let missing = || DbError::damaged("ledger row", format_args!("model {id} is not there"));
    bytes.map(|bytes| Some(ModelId::from_bytes(bytes))).ok_or_else(missing)
}
