//! Hours, days and months in UTC, without a clock.

use mayfly_types::Period;

const MICROS_PER_HOUR: i64 = 3_600_000_000;
const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

/// The beginning of the period that contains `at`, microseconds since the Unix epoch. Before what `i64` can tell, its
/// least.
pub fn period_start(period: Period, at: i64) -> i64 {
    match period {
        Period::Hour => whole(at, MICROS_PER_HOUR),
        Period::Day => whole(at, MICROS_PER_DAY),
        Period::Month => {
            let day = at.div_euclid(MICROS_PER_DAY);
            (day - (day_of_month(day) - 1)).saturating_mul(MICROS_PER_DAY)
        }
    }
}

const fn whole(at: i64, length: i64) -> i64 {
    at.saturating_sub(at.rem_euclid(length))
}

/// 1 to 31, for a day counted from 1970-01-01 (Hinnant's `civil_from_days`: years that begin in March put the leap day
/// at their end, so one formula gives every month).
const fn day_of_month(day: i64) -> i64 {
    const DAYS_PER_ERA: i64 = 146_097;
    const FROM_MARCH_OF_YEAR_0: i64 = 719_468;
    let day_of_era = (day + FROM_MARCH_OF_YEAR_0).rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    day_of_year - (153 * month_from_march + 2) / 5 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn known_moments() {
        // 2026-11-20T12:34:56Z
        let at = 1_795_178_096 * SECOND + 789;
        assert_eq!(period_start(Period::Hour, at), 1_795_176_000 * SECOND);
        assert_eq!(period_start(Period::Day, at), 1_795_132_800 * SECOND);
        assert_eq!(period_start(Period::Month, at), 1_793_491_200 * SECOND);
        assert_eq!(period_start(Period::Month, 0), 0);
        // 1969-12-31T23:59:59.999999Z is in December 1969.
        assert_eq!(period_start(Period::Month, -1), -31 * MICROS_PER_DAY);
        assert_eq!(period_start(Period::Hour, -1), -MICROS_PER_HOUR);
    }

    /// Walks every day of 1600 to 2400 with a calendar that only counts.
    #[test]
    fn months_follow_the_calendar() {
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        // 1600-01-01 is 135,140 days before 1970-01-01.
        let (mut day, mut begins) = (-135_140, Vec::new());
        for year in 1600..2400 {
            for length in [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
                begins.push((day, length));
                day += length;
            }
        }
        assert!(begins.contains(&(0, 31)), "January 1970");
        for (begin, length) in begins {
            for day in begin..begin + length {
                for at in [day * MICROS_PER_DAY, (day + 1) * MICROS_PER_DAY - 1] {
                    assert_eq!(period_start(Period::Month, at), begin * MICROS_PER_DAY);
                    assert_eq!(period_start(Period::Day, at), day * MICROS_PER_DAY);
                }
            }
        }
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        for period in [Period::Hour, Period::Day, Period::Month] {
            for at in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
                let start = period_start(period, at);
                assert!(start <= at);
                assert_eq!(period_start(period, start), start, "{period:?} {at}");
            }
        }
    }
}
