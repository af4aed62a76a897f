//! Questions to the ledger: one call, and sums.

use std::sync::Arc;

use mayfly_ledger::{CallRecord, GroupBy, Kind, Row, UsageQuery, UsageRow};
use mayfly_types::{DeploymentId, KeyId, ModelId, ProjectId, RequestId, TenantId};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, params, params_from_iter};

use super::rows;
use crate::DbError;

/// Sums in one answer; a question with more is refused.
pub(super) const SUMS_MAX: usize = 10_000;

/// One call of `tenant`, as its newest row tells it.
pub(super) fn call(connection: &Connection, tenant: TenantId, id: RequestId) -> Result<Option<CallRecord>, DbError> {
    let sql = format!(
        "SELECT {}, l.kind, l.at, l.outcome, l.status, l.cold, l.duration
         FROM call c JOIN ledger l ON l.call = c.id
         WHERE c.id = ?1 AND c.tenant = ?2 ORDER BY l.boot DESC, l.seq DESC LIMIT 1",
        rows::CALL_COLUMNS
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params![id.to_bytes(), tenant.to_bytes()])?;
    let Some(row) = found.next()? else { return Ok(None) };
    let kind = rows::kind(&row.get::<_, String>(16)?)?;
    let latest = Row {
        kind,
        call: Arc::new(rows::call(row)?),
        at: row.get(17)?,
        lines: rows::lines(connection, id.to_bytes())?,
        outcome: row.get::<_, Option<String>>(18)?.map(|text| rows::outcome(&text)).transpose()?,
        status: row.get(19)?,
        cold: rows::shared(row.get(20)?),
        duration_micros: row.get(21)?,
    };
    Ok(Some(CallRecord { latest, ended: matches!(kind, Kind::Settle | Kind::Void) }))
}

/// Sums, calls first, then by meter; none if there would be more than [`SUMS_MAX`].
///
/// Calls are counted once each. Where models are asked for or kept apart, a call counts for each model it ran on
/// (and, kept apart, under the empty text if it ran on none).
pub(super) fn usage(connection: &Connection, query: &UsageQuery) -> Result<Option<Vec<UsageRow>>, DbError> {
    let by_model = query.model.is_some() || query.group_by.contains(&GroupBy::Model);
    let mut sums = Vec::new();
    let calls = if by_model {
        "call c LEFT JOIN (SELECT DISTINCT call, model FROM ledger_line WHERE model <> x'') l ON l.call = c.id"
    } else {
        "call c"
    };
    select(connection, query, calls, "NULL", "count(*)", &mut sums)?;
    select(connection, query, "call c JOIN ledger_line l ON l.call = c.id", "l.meter", "sum(l.quantity)", &mut sums)?;
    if sums.len() > SUMS_MAX {
        return Ok(None);
    }
    sums.sort_by(|a, b| (&a.group, a.meter).cmp(&(&b.group, b.meter)));
    Ok(Some(sums))
}

fn select(
    connection: &Connection,
    query: &UsageQuery,
    from: &str,
    meter: &str,
    sum: &str,
    sums: &mut Vec<UsageRow>,
) -> Result<(), DbError> {
    let mut values: Vec<Value> = Vec::new();
    let mut conditions = vec!["1"];
    let mut only = |condition, value: Option<Value>| {
        if let Some(value) = value {
            conditions.push(condition);
            values.push(value);
        }
    };
    let blob = |bytes: [u8; 16]| Value::Blob(bytes.to_vec());
    only("c.tenant = ?", query.tenant.map(|id| blob(id.to_bytes())));
    only("c.project = ?", query.project.map(|id| blob(id.to_bytes())));
    only("c.requested = ?", query.deployment.map(|id| blob(id.to_bytes())));
    only("c.key = ?", query.key.map(|id| blob(id.to_bytes())));
    only("l.model = ?", query.model.map(|id| blob(id.to_bytes())));
    only("c.opened_at >= ?", query.since.map(Value::Integer));
    only("c.opened_at < ?", query.until.map(Value::Integer));
    let groups: Vec<&str> = query.group_by.iter().map(|group| expression(*group)).collect();
    // Positions 1.. name the columns of GROUP BY: the meter, then the groups.
    let positions: Vec<String> = (1..=groups.len() + 1).map(|position| position.to_string()).collect();
    let sql = format!(
        "SELECT {meter}, {}{sum} FROM {from} WHERE {} GROUP BY {} LIMIT {}",
        groups.iter().map(|group| format!("{group}, ")).collect::<String>(),
        conditions.join(" AND "),
        positions.join(", "),
        SUMS_MAX + 1,
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        let group = query.group_by.iter().enumerate().map(|(place, group)| text(*group, row.get_ref(place + 1)?));
        sums.push(UsageRow {
            group: group.collect::<Result<_, DbError>>()?,
            meter: row.get::<_, Option<String>>(0)?.map(|text| rows::meter(&text)).transpose()?,
            quantity: row.get(groups.len() + 1)?,
        });
    }
    Ok(())
}

fn expression(group: GroupBy) -> &'static str {
    match group {
        GroupBy::Tenant => "c.tenant",
        GroupBy::Project => "c.project",
        GroupBy::Deployment => "c.requested",
        GroupBy::Model => "ifnull(l.model, x'')",
        GroupBy::Key => "c.key",
        GroupBy::EndUser => "ifnull(c.end_user, '')",
        GroupBy::Hour => "strftime('%Y-%m-%dT%H:00:00Z', c.opened_at / 1000000, 'unixepoch')",
        GroupBy::Day => "strftime('%Y-%m-%dT00:00:00Z', c.opened_at / 1000000, 'unixepoch')",
    }
}

/// A group as text: an id in its text form, times and names as they are, the empty text for none.
fn text(group: GroupBy, value: ValueRef<'_>) -> Result<String, DbError> {
    let bytes = match value {
        ValueRef::Blob([]) => return Ok(String::new()),
        ValueRef::Blob(bytes) => bytes.try_into().map_err(|error| DbError::damaged("id", error))?,
        other => return Ok(other.as_str().map_err(|error| DbError::damaged("call", error))?.to_owned()),
    };
    Ok(match group {
        GroupBy::Tenant => TenantId::from_bytes(bytes).to_string(),
        GroupBy::Project => ProjectId::from_bytes(bytes).to_string(),
        GroupBy::Deployment => DeploymentId::from_bytes(bytes).to_string(),
        GroupBy::Model => ModelId::from_bytes(bytes).to_string(),
        GroupBy::Key => KeyId::from_bytes(bytes).to_string(),
        GroupBy::EndUser | GroupBy::Hour | GroupBy::Day => {
            return Err(DbError::damaged("call", "bytes where text belongs"));
        }
    })
}
