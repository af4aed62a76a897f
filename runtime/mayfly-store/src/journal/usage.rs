//! Sums over ended calls, from the rollups.

use mayfly_ledger::{GroupBy, UsageQuery, UsageRow};
use mayfly_types::{DeploymentId, KeyId, ModelId, Money, ProjectId, TenantId};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, params_from_iter};

use super::{rollup, sums, words};
use crate::DbError;

/// Sums in one answer; a question with more is refused.
pub(super) const SUMS_MAX: usize = 10_000;

/// Sums, calls first, then by meter; none if there would be more than [`SUMS_MAX`].
///
/// Calls are counted once each. Where models are asked for or kept apart, a call counts for each model it ran on
/// (and, kept apart, under the empty text if it ran on none).
pub(super) fn usage(connection: &Connection, query: &UsageQuery) -> Result<Option<Vec<UsageRow>>, DbError> {
    let mut values: Vec<Value> = Vec::new();
    let mut conditions = vec!["1".to_owned()];
    let mut only = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            conditions.push(condition.to_owned());
            values.push(value);
        }
    };
    let blob = |bytes: [u8; 16]| Value::Blob(bytes.to_vec());
    only("s.tenant = ?", query.tenant.map(|id| blob(id.to_bytes())));
    only("s.project = ?", query.project.map(|id| blob(id.to_bytes())));
    only("s.requested = ?", query.deployment.map(|id| blob(id.to_bytes())));
    only("s.key = ?", query.key.map(|id| blob(id.to_bytes())));
    only("m.model = ?", query.model.map(|id| blob(id.to_bytes())));
    only("r.end_user = ?", query.end_user.clone().map(Value::Text));
    only("r.hour >= ?", query.since.map(|at| Value::Integer(rollup::hour(at))));
    only("r.hour < ?", query.until.map(|at| Value::Integer(rollup::hour_up(at))));
    let by_model = query.model.is_some() || query.group_by.contains(&GroupBy::Model);
    conditions.push(format!("r.meter <> {}", if by_model { words::CALLS } else { words::RAN }));
    let groups: Vec<&str> = query.group_by.iter().map(|group| expression(*group)).collect();
    // Positions 1.. name the columns of GROUP BY: the meter, then the groups.
    let positions: Vec<String> = (1..=groups.len() + 1).map(|position| position.to_string()).collect();
    // The order of the tables is fixed: few subjects, then of each a range of hours.
    let sql = format!(
        "SELECT r.meter, {}{}, {}, max(r.price)
         FROM ledger_subject s CROSS JOIN rollup r ON r.subject = s.id LEFT JOIN ledger_model m ON m.id = r.model
         WHERE {} GROUP BY {} LIMIT {}",
        groups.iter().map(|group| format!("{group}, ")).collect::<String>(),
        sums::sum_sql("r", "quantity"),
        sums::sum_sql("r", "money"),
        conditions.join(" AND "),
        positions.join(", "),
        SUMS_MAX + 1,
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    let after = groups.len() + 1;
    while let Some(row) = rows.next()? {
        let group = query.group_by.iter().enumerate().map(|(place, group)| text(*group, row.get_ref(place + 1)?));
        let meter: i64 = row.get(0)?;
        let meter = if matches!(meter, words::CALLS | words::RAN) { None } else { Some(words::meter_of(meter)?) };
        let quantity = sums::joined(row, after)?;
        let priced = row.get::<_, i64>(after + 6)? > 0;
        found.push(UsageRow {
            group: group.collect::<Result<_, DbError>>()?,
            meter,
            quantity: i64::try_from(quantity).unwrap_or(if quantity < 0 { i64::MIN } else { i64::MAX }),
            cost: if priced { Some(Money::from_pico(sums::joined(row, after + 3)?)) } else { None },
        });
    }
    if found.len() > SUMS_MAX {
        return Ok(None);
    }
    found.sort_by(|a, b| (&a.group, a.meter).cmp(&(&b.group, b.meter)));
    Ok(Some(found))
}

fn expression(group: GroupBy) -> &'static str {
    match group {
        GroupBy::Tenant => "s.tenant",
        GroupBy::Project => "s.project",
        GroupBy::Deployment => "s.requested",
        GroupBy::Model => "ifnull(m.model, x'')",
        GroupBy::Key => "s.key",
        GroupBy::EndUser => "r.end_user",
        GroupBy::Hour => "strftime('%Y-%m-%dT%H:00:00Z', r.hour * 3600, 'unixepoch')",
        GroupBy::Day => "strftime('%Y-%m-%dT00:00:00Z', r.hour * 3600, 'unixepoch')",
    }
}

/// A group as text: an id in its text form, times and names as they are, the empty text for none.
fn text(group: GroupBy, value: ValueRef<'_>) -> Result<String, DbError> {
    let bytes = match value {
        ValueRef::Blob([]) => return Ok(String::new()),
        ValueRef::Blob(bytes) => bytes.try_into().map_err(|error| DbError::damaged("id", error))?,
        other => return Ok(other.as_str().map_err(|error| DbError::damaged("rollup", error))?.to_owned()),
    };
    Ok(match group {
        GroupBy::Tenant => TenantId::from_bytes(bytes).to_string(),
        GroupBy::Project => ProjectId::from_bytes(bytes).to_string(),
        GroupBy::Deployment => DeploymentId::from_bytes(bytes).to_string(),
        GroupBy::Model => ModelId::from_bytes(bytes).to_string(),
        GroupBy::Key => KeyId::from_bytes(bytes).to_string(),
        GroupBy::EndUser | GroupBy::Hour | GroupBy::Day => {
            return Err(DbError::damaged("rollup", "bytes where text belongs"));
        }
    })
}
