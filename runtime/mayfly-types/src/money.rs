//! Money as whole pico-units of the host's one currency. No float touches it.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Digits before the point that an amount may have as text.
const WHOLE_DIGITS_MAX: usize = 15;
/// Digits after the point: a pico-unit is the twelfth.
const FRACTION_DIGITS: usize = 12;
/// Pico-units of one unit of the currency.
const UNIT: i128 = 1_000_000_000_000;

/// Pico-units (10^-12) of the host's currency. As text and in JSON a decimal string with at most 12 digits after the
/// point (`"0.00002"`), exact both ways.
///
/// Text is read below 10^15 units, which is more than any cap, bill or yearly sum; a price or a ledger line has its own,
/// tighter bound (`i64`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Money(i128);

/// The text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount of money (a decimal number with at most 12 digits after the point, below 10^15)")]
pub struct MoneyError(String);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The smallest amount above zero.
    pub const LEAST: Self = Self(1);
    /// The largest amount that can be read from text.
    pub const MOST: Self = Self(1_000_000_000_000_000 * UNIT - 1);

    /// So many pico-units.
    pub const fn from_pico(pico: i128) -> Self {
        Self(pico)
    }

    /// The pico-units.
    pub const fn pico(self) -> i128 {
        self.0
    }

    /// The sum. It stops at the bounds of `i128`, 10^11 times [`Money::MOST`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference. It stops at the bounds of `i128`.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

impl FromStr for Money {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        // The error repeats the text: shortened, and without what could move a terminal's cursor.
        parse(text).ok_or_else(|| MoneyError(text.chars().filter(|c| !c.is_control()).take(40).collect()))
    }
}

fn parse(text: &str) -> Option<Money> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (digits, ""),
    };
    let all_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if !all_digits || whole.is_empty() || whole.len() > WHOLE_DIGITS_MAX || fraction.len() > FRACTION_DIGITS {
        return None;
    }
    let padding = FRACTION_DIGITS - fraction.len();
    // At most 27 digits: far inside i128.
    let read = |pico: i128, digit: u8| pico * 10 + i128::from(digit - b'0');
    let pico = whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat_n(b'0', padding)).fold(0, read);
    Some(Money(if negative { -pico } else { pico }))
}

impl fmt::Display for Money {
    /// The shortest form that is exact: no digits that are not needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) =
            (self.0.unsigned_abs() / UNIT.unsigned_abs(), self.0.unsigned_abs() % UNIT.unsigned_abs());
        if fraction == 0 {
            return f.pad(&format!("{sign}{whole}"));
        }
        let fraction = format!("{fraction:0FRACTION_DIGITS$}");
        f.pad(&format!("{sign}{whole}.{}", fraction.trim_end_matches('0')))
    }
}

impl TryFrom<String> for Money {
    type Error = MoneyError;
    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl From<Money> for String {
    fn from(money: Money) -> Self {
        money.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(text: &str, pico: i128, canonical: &str) {
        assert_eq!(text.parse(), Ok(Money(pico)), "{text}");
        assert_eq!(Money(pico).to_string(), canonical);
        assert_eq!(canonical.parse(), Ok(Money(pico)));
    }

    #[test]
    fn text_and_back_is_exact() {
        check("0", 0, "0");
        check("-0", 0, "0");
        check("0.00", 0, "0");
        check("1", UNIT, "1");
        check("007.50", 7_500_000_000_000, "7.5");
        check("0.00002", 20_000_000, "0.00002");
        check("0.000000000001", 1, "0.000000000001");
        check("-12.000000000001", -12_000_000_000_001, "-12.000000000001");
        check("999999999999999.999999999999", Money::MOST.pico(), "999999999999999.999999999999");
    }

    #[test]
    fn what_is_not_an_amount_is_refused() {
        let long = "9".repeat(100_000);
        let bad = [
            "",
            "-",
            ".",
            ".5",
            "5.",
            "+5",
            "--5",
            "1e3",
            "1E3",
            "0x1",
            "NaN",
            "inf",
            "-Infinity",
            "1,5",
            "1_000",
            " 1",
            "1 ",
            "1.2.3",
            "1.-2",
            "٣",
            "1.٣",
            "0.0000000000001",
            "1.0000000000000",
            "1000000000000000",
            "\u{1b}[2J1",
            &long,
        ];
        for text in bad {
            let error = text.parse::<Money>().expect_err(text).to_string();
            assert!(error.len() < 200 && !error.contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn sums_beyond_what_is_read_are_still_written_and_stop_at_the_bounds() {
        assert_eq!(
            Money(i128::MAX).saturating_add(Money::LEAST).to_string(),
            "170141183460469231731687303.715884105727"
        );
        assert_eq!(
            Money(i128::MIN).saturating_sub(Money::LEAST).to_string(),
            "-170141183460469231731687303.715884105728"
        );
        assert_eq!([Money(2), Money(-5)].into_iter().sum::<Money>(), Money(-3));
    }

    #[test]
    fn json_is_a_string() {
        assert_eq!(serde_json::to_string(&Money(20_000_000)).unwrap(), r#""0.00002""#);
        assert_eq!(serde_json::from_str::<Money>(r#""0.00002""#).unwrap(), Money(20_000_000));
        for bad in ["0.1", "1", "null", r#""1e-5""#] {
            assert!(serde_json::from_str::<Money>(bad).is_err(), "{bad}");
        }
    }
}
