//! Sums too large for 64 bits, as two columns: `high` x 10^12 + `low`, with `low` in `0..10^12`.

use crate::DbError;

const PART: i128 = 1_000_000_000_000;

/// The two columns of `sum`.
pub(super) fn split(sum: i128) -> Result<(i64, i64), DbError> {
    let too_large =
        |_error| DbError::Failed { detail: "a sum is larger than the ledger counts (2^63 x 10^12)".to_owned() };
    let high = i64::try_from(sum.div_euclid(PART)).map_err(too_large)?;
    let low = i64::try_from(sum.rem_euclid(PART)).expect("below 10^12");
    Ok((high, low))
}

/// The sum of two columns.
pub(super) fn join(high: i64, low: i64) -> i128 {
    i128::from(high) * PART + i128::from(low)
}

/// Whether the columns are as [`split`] makes them.
pub(super) fn is_split(low: i64) -> bool {
    (0..PART).contains(&i128::from(low))
}

/// SQL that sums a pair of columns over any number of rows: three numbers for [`joined`], starting at one column.
pub(super) fn sum_sql(table: &str, name: &str) -> String {
    format!("sum({table}.{name}_high), sum({table}.{name}_low / 1000000), sum({table}.{name}_low % 1000000)")
}

/// What [`sum_sql`] gave, from column `place` on. No rows sum to zero.
pub(super) fn joined(row: &rusqlite::Row<'_>, place: usize) -> rusqlite::Result<i128> {
    let part = |index: usize| row.get::<_, Option<i64>>(index).map(|value| i128::from(value.unwrap_or(0)));
    Ok(part(place)? * PART + part(place + 1)? * 1_000_000 + part(place + 2)?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn split_and_joined() {
        for sum in [0, 1, -1, PART, -PART, PART - 1, 1 - PART, i128::from(i64::MAX) * 3, i128::from(i64::MIN) * 5 - 7] {
            let (high, low) = split(sum).unwrap();
            assert!(is_split(low));
            assert_eq!(join(high, low), sum);
        }
        assert!(split(i128::MAX).is_err());
        assert!(!is_split(-1) && !is_split(1_000_000_000_000));
    }
}
