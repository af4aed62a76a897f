//! Points in time, as people and programs read them: RFC 3339 in UTC, to the microsecond.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch; in JSON `"2026-01-31T12:00:00Z"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(jiff::Timestamp);

/// The text is not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time (expected for example `2026-01-31T12:00:00Z`)")]
pub struct TimestampError(String);

impl Timestamp {
    /// From microseconds since the Unix epoch. What lies outside the years -9999 to 9999 is taken to the nearest end.
    pub fn from_micros(micros: i64) -> Self {
        let nearest = if micros < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        Self(jiff::Timestamp::from_microsecond(micros).unwrap_or(nearest))
    }

    /// Microseconds since the Unix epoch.
    pub fn micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// Whole seconds since the Unix epoch, as OpenAI's bodies have them.
    pub fn seconds(self) -> i64 {
        self.0.as_second()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        text.parse().map(Self).map_err(|_| TimestampError(text.chars().take(64).filter(|c| !c.is_control()).collect()))
    }
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;
    fn try_from(text: String) -> Result<Self, TimestampError> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> String {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let time = Timestamp::from_micros(1_769_860_800_000_001);
        assert_eq!(time.to_string(), "2026-01-31T12:00:00.000001Z");
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!(time.micros(), 1_769_860_800_000_001);
        assert_eq!("2026-01-31T13:00:00+01:00".parse::<Timestamp>().map(Timestamp::seconds), Ok(1_769_860_800));
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        let late = Timestamp::from_micros(i64::MAX);
        assert_eq!(late.to_string().parse(), Ok(Timestamp::from_micros(late.micros())));
        assert!(Timestamp::from_micros(i64::MIN) < late);
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
