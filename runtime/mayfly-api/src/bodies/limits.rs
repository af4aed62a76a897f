//! What the calls below a tenant, project, deployment or key may use together.

use mayfly_types::{LevelLimits, Money, Period, SpendCap};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The limits of one level; all levels of a call hold. A missing key is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Calls open at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Calls begun per minute; a minute's worth may come at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Input, cached and output tokens together, per minute. On a project it is the pool that its deployments' own come
    /// out of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Calls per minute that wake code or a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wakeups_per_minute: Option<u64>,
    /// Money per period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend: Option<SpendLimit>,
    /// Only what was granted as credit may be spent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prepaid: bool,
    /// The most one call may hold and cost: a decimal as a string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request_cost_max: Option<Money>,
}

/// At most so much money in each period; periods begin at whole UTC hours, days and months.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpendLimit {
    /// A decimal as a string.
    #[schema(value_type = String)]
    pub amount: Money,
    /// `hour`, `day` or `month`.
    #[schema(value_type = String)]
    pub per: Period,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl From<Limits> for LevelLimits {
    fn from(limits: Limits) -> Self {
        Self {
            concurrency: limits.concurrency,
            requests_per_minute: limits.requests_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            wakeups_per_minute: limits.wakeups_per_minute,
            spend: limits.spend.map(|cap| SpendCap { amount: cap.amount, per: cap.per }),
            prepaid: limits.prepaid,
            request_cost_max: limits.request_cost_max,
        }
    }
}

impl From<&LevelLimits> for Limits {
    fn from(limits: &LevelLimits) -> Self {
        Self {
            concurrency: limits.concurrency,
            requests_per_minute: limits.requests_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            wakeups_per_minute: limits.wakeups_per_minute,
            spend: limits.spend.map(|cap| SpendLimit { amount: cap.amount, per: cap.per }),
            prepaid: limits.prepaid,
            request_cost_max: limits.request_cost_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_and_only_what_is_set() {
        let text = r#"{"concurrency":3,"tokens_per_minute":1000,"spend":{"amount":"2.5","per":"day"},"prepaid":true}"#;
        let limits: Limits = serde_json::from_str(text).expect("limits");
        let level = LevelLimits::from(limits.clone());
        assert_eq!((level.concurrency, level.tokens_per_minute, level.prepaid), (Some(3), Some(1000), true));
        assert_eq!(serde_json::to_string(&Limits::from(&level)).expect("plain data"), text);
        assert_eq!(serde_json::to_string(&Limits::default()).expect("plain data"), "{}");
    }

    #[test]
    fn what_is_refused() {
        for text in [
            r#"{"concurrency":-1}"#,
            r#"{"concurrency":1.5}"#,
            r#"{"concurrency":4294967296}"#,
            r#"{"tokens_per_minute":18446744073709551616}"#,
            r#"{"tokens_per_minute":NaN}"#,
            r#"{"tokens_per_minute":1e400}"#,
            r#"{"tokens":1}"#,
            r#"{"spend":{"amount":"1"}}"#,
            r#"{"spend":{"amount":1,"per":"day"}}"#,
            r#"{"spend":{"amount":"NaN","per":"day"}}"#,
            r#"{"spend":{"amount":"1","per":"year"}}"#,
            r#"{"request_cost_max":"0.0000000000001"}"#,
        ] {
            assert!(serde_json::from_str::<Limits>(text).is_err(), "{text}");
        }
    }
}
