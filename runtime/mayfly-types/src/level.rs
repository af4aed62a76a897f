//! The levels a call is limited at, and what each may be limited to.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::{DeploymentId, KeyId, Money, ProjectId, TenantId};

/// One bearer of limits. A call has four: its tenant, project, deployment and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LevelId {
    Tenant(TenantId),
    Project(ProjectId),
    Deployment(DeploymentId),
    Key(KeyId),
}

impl LevelId {
    /// `tenant`, `project`, `deployment` or `key`.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Project(_) => "project",
            Self::Deployment(_) => "deployment",
            Self::Key(_) => "key",
        }
    }
}

/// What kind of level and which: `tenant ten_…`.
impl Display for LevelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Tenant(id) => write!(f, " {id}"),
            Self::Project(id) => write!(f, " {id}"),
            Self::Deployment(id) => write!(f, " {id}"),
            Self::Key(id) => write!(f, " {id}"),
        }
    }
}

/// The time a cap on money is for. Periods begin at whole UTC hours, days and months.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Period {
    Hour,
    Day,
    Month,
}

impl Period {
    /// `hour`, `day` or `month`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// At most so much money in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpendCap {
    /// The most.
    pub amount: Money,
    /// In each of these.
    pub per: Period,
}

/// What calls below one level may use together. A missing key is no limit; unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LevelLimits {
    /// Calls open at once.
    pub concurrency: Option<u32>,
    /// Calls begun per minute; a minute's worth may come at once.
    pub requests_per_minute: Option<u64>,
    /// Tokens (input, cached and output together) per minute; a minute's worth may come at once. On a project it is the
    /// pool its deployments' share comes out of: their sum never exceeds it.
    pub tokens_per_minute: Option<u64>,
    /// Calls per minute that have to wake code or a model.
    pub wakeups_per_minute: Option<u64>,
    /// Money per period.
    pub spend: Option<SpendCap>,
    /// Only what was granted as credit may be spent.
    pub prepaid: bool,
    /// The most one call may hold and cost.
    pub request_cost_max: Option<Money>,
}

/// A limit of a level is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limit `{name}` is {value}; it must be between {least} and {most}")]
pub struct LevelLimitError {
    /// The limit's name.
    pub name: &'static str,
    /// What was asked for.
    pub value: String,
    /// The least it may be.
    pub least: String,
    /// The most it may be.
    pub most: String,
}

/// The most of anything counted per minute.
const PER_MINUTE_MAX: u64 = 1_000_000_000_000;
/// The most calls open at once.
const CONCURRENCY_MAX: u32 = 1_000_000;

impl LevelLimits {
    /// All values that are out of range, at once. Counts: 1 to 10^12 (concurrency to 10^6); amounts: above zero.
    ///
    /// # Errors
    /// One [`LevelLimitError`] for each.
    pub fn validate(&self) -> Result<(), Vec<LevelLimitError>> {
        let amount = self.spend.map(|cap| cap.amount);
        let errors: Vec<_> = [
            check("concurrency", self.concurrency, 1, CONCURRENCY_MAX),
            check("requests_per_minute", self.requests_per_minute, 1, PER_MINUTE_MAX),
            check("tokens_per_minute", self.tokens_per_minute, 1, PER_MINUTE_MAX),
            check("wakeups_per_minute", self.wakeups_per_minute, 1, PER_MINUTE_MAX),
            check("spend", amount, Money::LEAST, Money::MOST),
            check("request_cost_max", self.request_cost_max, Money::LEAST, Money::MOST),
        ]
        .into_iter()
        .flatten()
        .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Whether this level's money has to be known before a call may enter.
    pub const fn counts_money(&self) -> bool {
        self.spend.is_some() || self.prepaid
    }
}

/// The error, if there is a value and it is out of range.
fn check<T: PartialOrd + Display>(name: &'static str, value: Option<T>, least: T, most: T) -> Option<LevelLimitError> {
    let value = value.filter(|value| !(&least..=&most).contains(&value))?;
    Some(LevelLimitError { name, value: value.to_string(), least: least.to_string(), most: most.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: &str) -> LevelLimits {
        serde_json::from_str(json).expect("the shape is right")
    }

    #[test]
    fn nothing_given_is_no_limit() {
        assert_eq!(limits("{}"), LevelLimits::default());
        assert_eq!(LevelLimits::default().validate(), Ok(()));
        assert!(!LevelLimits::default().counts_money());
    }

    #[test]
    fn all_problems_at_once() {
        let wrong = limits(
            r#"{"concurrency": 0, "requests_per_minute": 0, "tokens_per_minute": 1000000000001, "wakeups_per_minute": 0,
                "spend": {"amount": "0", "per": "day"}, "request_cost_max": "-0.5"}"#,
        );
        let errors = wrong.validate().expect_err("all six are out of range");
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts[0], "limit `concurrency` is 0; it must be between 1 and 1000000");
        assert_eq!(texts[2], "limit `tokens_per_minute` is 1000000000001; it must be between 1 and 1000000000000");
        assert_eq!(
            texts[5],
            "limit `request_cost_max` is -0.5; it must be between 0.000000000001 and 999999999999999.999999999999"
        );
        assert_eq!(texts.len(), 6);
    }

    #[test]
    fn bad_shapes_are_refused() {
        for bad in [
            r#"{"tokens": 1}"#,
            r#"{"concurrency": -1}"#,
            r#"{"concurrency": 1.5}"#,
            r#"{"concurrency": "many"}"#,
            r#"{"requests_per_minute": 1e30}"#,
            r#"{"spend": {"amount": 1, "per": "day"}}"#,
            r#"{"spend": {"amount": "1", "per": "week"}}"#,
            r#"{"spend": {"amount": "NaN", "per": "day"}}"#,
            r#"{"spend": {"amount": "1"}}"#,
            r#"{"spend": {"amount": "1", "per": "day", "rolls": true}}"#,
        ] {
            assert!(serde_json::from_str::<LevelLimits>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_and_back() {
        let some = limits(r#"{"concurrency": 4, "spend": {"amount": "12.5", "per": "month"}, "prepaid": true}"#);
        assert!(some.counts_money() && some.validate().is_ok());
        assert_eq!(limits(&serde_json::to_string(&some).expect("it can be written")), some);
    }
}
