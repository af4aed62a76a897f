//! Settled calls that the book now prices differently, and the corrections that make it so.

use mayfly_ledger::{CallRecord, Difference, Kind, Repricing, Row, RowLine, Tariff};
use mayfly_types::{Money, Name, RequestId};
use rusqlite::{Connection, params};

use super::ledger::Ledger;
use super::{lines, query, words};
use crate::DbError;

/// Rows that one read walks.
const ROWS_PER_READ: u32 = 20_000;

/// One stretch of the ledger.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// Settled calls that may have to be priced again.
    pub(super) calls: Vec<RequestId>,
    /// Where the next stretch begins; none at the end.
    pub(super) next: Option<i64>,
}

/// Looks at rows from `pos` on.
pub(super) fn stretch(connection: &Connection, repricing: &Repricing, pos: i64) -> Result<Stretch, DbError> {
    let sql = "SELECT l.pos, l.kind, l.opened_at, l.call, l.lines, s.tenant
               FROM ledger l LEFT JOIN ledger_subject s ON s.id = l.subject
               WHERE l.pos >= ?1 ORDER BY l.pos LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![pos, ROWS_PER_READ])?;
    let (mut found, mut stored, mut walked) = (Stretch::default(), Vec::new(), 0);
    let (settle, meter) = (words::kind(Kind::Settle), words::meter(repricing.meter));
    while let Some(row) = rows.next()? {
        walked += 1;
        found.next = Some(row.get::<_, i64>(0)? + 1);
        let opened_at: i64 = row.get(2)?;
        if row.get::<_, i64>(1)? != settle || !(repricing.from..repricing.until).contains(&opened_at) {
            continue;
        }
        let tenant: Option<[u8; 16]> = row.get(5)?;
        if repricing.tenant.is_some_and(|only| tenant != Some(only.to_bytes())) {
            continue;
        }
        let text = row.get_ref(4)?.as_str_or_null().map_err(|error| DbError::damaged("ledger row", error))?;
        let Some(text) = text else { continue };
        lines::read(text, &mut stored)?;
        if stored.iter().any(|line| line.meter == meter) {
            found.calls.push(RequestId::from_bytes(row.get(3)?));
        }
    }
    if walked < ROWS_PER_READ {
        found.next = None;
    }
    Ok(found)
}

/// What repricing `calls` changes; with a ledger the corrections are written too.
pub(super) fn reprice(
    connection: &Connection,
    repricing: &Repricing,
    calls: &[RequestId],
    ledger: Option<&mut Ledger>,
) -> Result<Difference, DbError> {
    let mut difference = Difference::default();
    let mut corrections = Vec::new();
    for call in calls {
        let Some(CallRecord { latest, ended: true }) = query::call(connection, None, *call)? else { continue };
        let lines = correction(repricing, &latest)?;
        if lines.is_empty() {
            continue;
        }
        let change: i128 = amounts(&lines);
        let before: i128 = amounts(&latest.lines);
        difference = plus(
            difference,
            Difference { calls: 1, before: Money::from_pico(before), after: Money::from_pico(before + change) },
        );
        corrections.push(Row {
            kind: Kind::Correct,
            at: repricing.at,
            lines,
            outcome: None,
            status: 0,
            cold: None,
            duration_micros: None,
            call: latest.call,
        });
    }
    if let Some(ledger) = ledger {
        let mut writing = ledger.begin(connection)?;
        for row in &corrections {
            writing.row(row)?;
        }
        writing.finish()?;
    }
    Ok(difference)
}

/// Both together.
pub(super) fn plus(a: Difference, b: Difference) -> Difference {
    Difference {
        calls: a.calls + b.calls,
        before: Money::from_pico(a.before.pico() + b.before.pico()),
        after: Money::from_pico(a.after.pico() + b.after.pico()),
    }
}

fn amounts(lines: &[RowLine]) -> i128 {
    lines.iter().filter_map(|line| line.amount).map(i128::from).sum()
}

/// The lines that take a settled call to the prices of the book: of each line on the meter whose amount changes, it as
/// it stands away, and as it should be instead.
fn correction(repricing: &Repricing, settled: &Row) -> Result<Vec<RowLine>, DbError> {
    let call = &settled.call;
    let tariff = Tariff {
        book: repricing.book.clone(),
        tenant: call.tenant,
        pool: shared_pool(),
        at: call.opened_at,
        models: repricing.models.clone(),
    };
    let mut lines = Vec::new();
    for line in settled.lines.iter().filter(|line| line.meter == repricing.meter) {
        let Some((price, amount)) = tariff.amount(line.meter, line.model, line.quantity) else { continue };
        if amount == line.amount.unwrap_or(0) {
            continue;
        }
        let opposite = |value: i64| {
            let too_small = || DbError::damaged("ledger row", "an amount has no opposite");
            value.checked_neg().ok_or_else(too_small)
        };
        let away = opposite(line.quantity)?;
        lines.push(RowLine { quantity: away, amount: line.amount.map(opposite).transpose()?, ..*line });
        lines.push(RowLine { price: Some(price), amount: Some(amount), ..*line });
    }
    Ok(lines)
}

/// The pool that all deployments run in.
fn shared_pool() -> Name {
    "shared".parse().expect("it is a name")
}
