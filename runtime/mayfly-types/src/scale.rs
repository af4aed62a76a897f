//! How many calls of one revision run at once, and how many wait.

use serde::{Deserialize, Serialize};

use crate::LimitError;

/// The most calls that any revision may let run at once.
const CONCURRENCY_MAX: u32 = 1_000_000;
/// The most calls that any revision may let wait.
const QUEUE_MAX: u32 = 1_000_000;

/// The places of a revision. What the host allows comes first, whatever is written here. Unknown keys are errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleSpec {
    /// Calls that run at once; more wait for a place. Without it as many run as the host allows, and none waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_max: Option<u32>,
    /// Calls that wait for a place, in the order they came and within their deadline; one more is refused with 429.
    /// Without it as many may wait as may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_max: Option<u32>,
}

impl ScaleSpec {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All values that are out of range, at once.
    ///
    /// # Errors
    /// One [`LimitError`] for each.
    pub fn validate(&self) -> Result<(), Vec<LimitError>> {
        let check = |name, value: Option<u32>, least: u32, most: u32| {
            let value = value.filter(|value| !(least..=most).contains(value))?;
            Some(LimitError { name, value: value.into(), least: least.into(), most: most.into() })
        };
        let errors: Vec<_> = [
            check("scale.concurrency_max", self.concurrency_max, 1, CONCURRENCY_MAX),
            check("scale.queue_max", self.queue_max, 0, QUEUE_MAX),
        ]
        .into_iter()
        .flatten()
        .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_given_is_nothing_asked_for() {
        let scale: ScaleSpec = serde_json::from_str("{}").expect("it is whole");
        assert!(scale.is_empty() && scale.validate().is_ok());
        assert_eq!(serde_json::to_string(&scale).expect("it can be written"), "{}");
    }

    #[test]
    fn all_problems_at_once() {
        let scale = ScaleSpec { concurrency_max: Some(0), queue_max: Some(1_000_001) };
        let errors = scale.validate().expect_err("both are out of range");
        assert_eq!(errors.iter().map(|e| e.name).collect::<Vec<_>>(), ["scale.concurrency_max", "scale.queue_max"]);
        assert!(ScaleSpec { queue_max: Some(0), ..ScaleSpec::default() }.validate().is_ok(), "nobody waits");
    }

    #[test]
    fn unknown_keys_are_errors() {
        assert!(serde_json::from_str::<ScaleSpec>(r#"{"concurrency_max": 4, "queue_max": 8}"#).is_ok());
        assert!(serde_json::from_str::<ScaleSpec>(r#"{"concurrency": 4}"#).is_err());
        assert!(serde_json::from_str::<ScaleSpec>(r#"{"concurrency_max": -4}"#).is_err());
    }
}
