//! Sums by hour, kept in the same transaction as the rows they are of.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::lines::Line;
use super::sums::split;
use super::words;
use crate::DbError;

const HOUR: i64 = 3_600_000_000;

/// Adds to a sum: the low columns are below 10^12 each, so their sum carries at most one.
const UPSERT: &str = "
    INSERT INTO rollup (subject, hour, end_user, model, meter, price,
                        quantity_high, quantity_low, money_high, money_low)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT DO UPDATE SET
        quantity_high = quantity_high + ?7 + (quantity_low + ?8) / 1000000000000,
        quantity_low = (quantity_low + ?8) % 1000000000000,
        money_high = money_high + ?9 + (money_low + ?10) / 1000000000000,
        money_low = (money_low + ?10) % 1000000000000";

/// The hour, counted from the Unix epoch, that a time (microseconds) is in.
pub(super) const fn hour(at: i64) -> i64 {
    at.div_euclid(HOUR)
}

/// The first hour that begins at `at` or after.
pub(super) const fn hour_up(at: i64) -> i64 {
    at.div_euclid(HOUR) + (at.rem_euclid(HOUR) > 0) as i64
}

/// Whose sum it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) subject: i64,
    pub(super) hour: i64,
    /// Empty for none.
    pub(super) end_user: Option<Arc<str>>,
    pub(super) model: i64,
    pub(super) meter: i64,
    pub(super) price: i64,
}

/// What one row adds, line by line: meter, model, price, quantity, amount.
pub(super) fn additions(ends: bool, lines: &[Line], mut add: impl FnMut(i64, i64, i64, i64, i64)) {
    for line in lines {
        let (price, amount) = line.priced.unwrap_or((0, 0));
        add(line.meter, line.model, price, line.quantity, amount);
    }
    if !ends {
        return;
    }
    add(words::CALLS, 0, 0, 1, 0);
    let mut on_none = true;
    for (place, line) in lines.iter().enumerate().filter(|(_, line)| line.model != 0) {
        on_none = false;
        if lines[..place].iter().all(|earlier| earlier.model != line.model) {
            add(words::RAN, line.model, 0, 1, 0);
        }
    }
    if on_none {
        add(words::RAN, 0, 0, 1, 0);
    }
}

/// What a transaction adds to the sums: each is written once, however many rows add to it.
#[derive(Debug, Default)]
pub(super) struct Rollups(BTreeMap<Key, (i128, i128)>);

impl Rollups {
    /// Adds an ended call, or the lines of a correction (`ends` is false).
    pub(super) fn add(
        &mut self,
        subject: i64,
        opened_at: i64,
        end_user: Option<&Arc<str>>,
        ends: bool,
        lines: &[Line],
    ) {
        additions(ends, lines, |meter, model, price, quantity, amount| {
            let end_user = end_user.filter(|user| !user.is_empty()).cloned();
            let key = Key { subject, hour: hour(opened_at), end_user, model, meter, price };
            let sum = self.0.entry(key).or_default();
            // 2^63 additions of 2^63 fit; a transaction has some thousands.
            sum.0 += i128::from(quantity);
            sum.1 += i128::from(amount);
        });
    }

    /// Writes what was added.
    pub(super) fn write(self, connection: &Connection) -> Result<(), DbError> {
        let mut upsert = connection.prepare_cached(UPSERT)?;
        for (key, (quantity, money)) in self.0 {
            let ((quantity_high, quantity_low), (money_high, money_low)) = (split(quantity)?, split(money)?);
            upsert.execute(params![
                key.subject,
                key.hour,
                key.end_user.as_deref().unwrap_or_default(),
                key.model,
                key.meter,
                key.price,
                quantity_high,
                quantity_low,
                money_high,
                money_low,
            ])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_down_and_up() {
        assert_eq!((hour(0), hour(HOUR - 1), hour(HOUR), hour(-1)), (0, 0, 1, -1));
        assert_eq!((hour_up(0), hour_up(1), hour_up(HOUR), hour_up(-1)), (0, 1, 1, 0));
        assert_eq!(hour_up(i64::MAX), i64::MAX / HOUR + 1);
    }

    #[test]
    fn a_call_counts_once_for_each_model() {
        let line = |meter, model| Line { meter, model, quantity: 1, priced: None };
        let count = |lines: &[Line]| {
            let mut ran = Vec::new();
            additions(true, lines, |meter, model, _, quantity, _| {
                if meter == words::RAN {
                    ran.push((model, quantity));
                }
            });
            ran
        };
        assert_eq!(count(&[line(1, 4), line(2, 4), line(1, 5), line(7, 0)]), [(4, 1), (5, 1)]);
        assert_eq!(count(&[line(7, 0)]), [(0, 1)]);
        assert_eq!(count(&[]), [(0, 1)]);
    }
}
