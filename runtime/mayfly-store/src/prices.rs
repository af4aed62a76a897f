//! The price book in SQLite: append-only, checked in the transaction that adds to it and writes that down.

use mayfly_ledger::{NewPrice, Price, PriceBook, PriceError};
use mayfly_types::{Meter, TenantId};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::json;

use crate::DbError;
use crate::journal::{meter_number, meter_of};
use crate::records::audit::{self, AuditEntry, By};

/// All prices, by id.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Price>, DbError> {
    let sql = "SELECT id, tenant, model, pool, meter, pico, begins_at, ends_at, created_at FROM price ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut prices = Vec::new();
    while let Some(row) = rows.next()? {
        let (pool, meter): (String, i64) = (row.get(3)?, row.get(4)?);
        let meter: Meter = meter_of(meter)?;
        prices.push(Price {
            id: row.get(0)?,
            tenant: row.get::<_, Option<[u8; 16]>>(1)?.map(TenantId::from_bytes),
            model: row.get(2)?,
            pool: pool.parse().map_err(|error| DbError::damaged("price", error))?,
            meter,
            pico_per_unit: row.get(5)?,
            from: row.get(6)?,
            until: row.get(7)?,
            created_at: row.get(8)?,
        });
    }
    Ok(prices)
}

/// Adds a price that the stored book accepts.
pub(crate) fn add(
    connection: &Connection,
    by: By,
    entry: &NewPrice,
    now: i64,
) -> Result<Result<Price, PriceError>, DbError> {
    let unset = || DbError::Failed { detail: "the host's currency is not fixed yet".to_owned() };
    let currency = currency(connection)?.ok_or_else(unset)?;
    let mut price = match PriceBook::new(all(connection)?).check(entry, &currency, now) {
        Ok(price) => price,
        Err(error) => return Ok(Err(error)),
    };
    let sql = "INSERT INTO price (tenant, model, pool, meter, pico, begins_at, ends_at, created_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id";
    let values = params![
        price.tenant.map(|tenant| tenant.to_bytes()),
        price.model,
        price.pool.as_str(),
        meter_number(price.meter),
        price.pico_per_unit,
        price.from,
        price.until,
        price.created_at,
    ];
    price.id = connection.prepare_cached(sql)?.query_row(values, |row| row.get(0))?;
    let details = json!({
        "model": entry.model,
        "pool": entry.pool,
        "meter": entry.meter,
        "amount": entry.amount,
        "per": entry.per,
        "currency": currency,
        "from_micros": price.from,
        "until_micros": price.until,
    });
    let (tenant, target) = (price.tenant, format!("price {}", price.id));
    let entry = AuditEntry { tenant, project: None, action: "price.add", target, details };
    audit::enter(connection, by, &entry)?;
    Ok(Ok(price))
}

/// Sets the host's currency once.
pub(crate) fn fix_currency(connection: &Connection, wanted: &str) -> Result<(), DbError> {
    if wanted.len() != 3 || !wanted.bytes().all(|byte| byte.is_ascii_uppercase()) {
        let detail = "the currency must be three capital letters, such as USD".to_owned();
        return Err(DbError::Failed { detail });
    }
    match currency(connection)? {
        Some(fixed) if fixed == wanted => Ok(()),
        Some(fixed) => {
            let detail = format!(
                "the ledger's currency is {fixed}: what was billed in it cannot become {wanted}; set ledger.currency back"
            );
            Err(DbError::Failed { detail })
        }
        None => {
            let sql = "INSERT INTO ledger_setting (name, value) VALUES ('currency', ?1)";
            connection.prepare_cached(sql)?.execute([wanted])?;
            Ok(())
        }
    }
}

fn currency(connection: &Connection) -> Result<Option<String>, DbError> {
    let sql = "SELECT value FROM ledger_setting WHERE name = 'currency'";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?)
}
