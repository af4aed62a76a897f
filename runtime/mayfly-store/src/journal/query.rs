//! One call, as its rows tell it.

use std::collections::BTreeMap;

use mayfly_ledger::{CallRecord, Row, RowLine};
use mayfly_types::{Meter, ModelId, RequestId, TenantId};
use rusqlite::Connection;

use super::rows;
use crate::DbError;

/// One call, of `tenant` or of any: its end with corrections applied, or its usage so far.
pub(super) fn call(
    connection: &Connection,
    tenant: Option<TenantId>,
    id: RequestId,
) -> Result<Option<CallRecord>, DbError> {
    let sql = format!(
        "SELECT {} FROM ledger l JOIN ledger_subject s ON s.id = l.subject WHERE l.call = ?1 AND l.part <= 0
         UNION ALL SELECT * FROM (
             SELECT {} FROM ledger l JOIN ledger_subject s ON s.id = l.subject
             WHERE l.call = ?1 AND l.part > 0 ORDER BY l.part DESC LIMIT 1)",
        rows::COLUMNS,
        rows::COLUMNS
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query([id.to_bytes()])?;
    let (mut end, mut progress, mut lines): (Option<Row>, Option<Row>, Vec<RowLine>) = (None, None, Vec::new());
    let mut corrected = false;
    while let Some(row) = found.next()? {
        let (mut row, part, text) = rows::row(row)?;
        let own = rows::lines(connection, text.as_deref())?;
        if part > 0 {
            row.lines = own;
            progress = Some(row);
        } else {
            corrected |= part < 0;
            lines.extend(own);
            if part == 0 {
                end = Some(row);
            }
        }
    }
    let ended = end.is_some();
    let latest = match end {
        Some(end) => Some(Row { lines: if corrected { netted(lines) } else { lines }, ..end }),
        None => progress,
    };
    let latest = latest.filter(|row| tenant.is_none_or(|tenant| tenant == row.call.tenant));
    Ok(latest.map(|latest| CallRecord { latest, ended }))
}

/// Lines of an end and of its corrections as one line for each meter, model and price; what came to nothing is left
/// out.
pub(super) fn netted(lines: Vec<RowLine>) -> Vec<RowLine> {
    type Key = (Meter, Option<ModelId>, Option<i64>);
    let mut sums: BTreeMap<Key, (i64, Option<i64>)> = BTreeMap::new();
    for line in lines {
        let sum = sums.entry((line.meter, line.model, line.price)).or_default();
        sum.0 = sum.0.saturating_add(line.quantity);
        sum.1 = match (sum.1, line.amount) {
            (sum, None) => sum,
            (sum, Some(amount)) => Some(sum.unwrap_or(0).saturating_add(amount)),
        };
    }
    let left = sums.into_iter().filter(|(_, (quantity, amount))| *quantity != 0 || amount.unwrap_or(0) != 0);
    left.map(|((meter, model, price), (quantity, amount))| RowLine { meter, model, quantity, price, amount }).collect()
}
