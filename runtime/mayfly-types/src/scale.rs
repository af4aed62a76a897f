//! How many calls of one revision run at once, how many wait, what becomes of their instances, and what is kept warm.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::LimitError;

/// The most calls that any revision may let run at once.
const CONCURRENCY_MAX: u32 = 1_000_000;
/// The most calls that any revision may let wait.
const QUEUE_MAX: u32 = 1_000_000;
/// The most requests that any revision may let one instance answer; the host may allow less.
const REUSE_MAX: u32 = 1_000_000;
/// The longest that any revision may let an instance wait for its next request: an hour; the host may allow less.
const INSTANCE_IDLE_MS_MAX: u32 = 3_600_000;
/// Code and models are kept, or they are not: an instance takes microseconds to make, so none is kept.
const MIN_WARM_MAX: u32 = 1;
/// As long as a burst pauses.
const INSTANCE_IDLE_MS: u32 = 10_000;

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
    /// Requests that one instance answers, one at a time. 1, as without it, is a fresh instance for each, and nothing goes
    /// from one caller to the next; with more, what an earlier request left in the guest's memory is there for a later one,
    /// whoever sends it. Everything else dies with its request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reuse: Option<u32>,
    /// How long an instance waits for its next request before it goes; 10 s without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_idle_ms: Option<u32>,
    /// 1 keeps its code mapped and its models loaded while it is the active revision, and the engine of what it generates
    /// with, within what the host sets aside for that (`inference.pinned_bytes_max`). 0, as without it, keeps nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_warm: Option<u32>,
}

impl ScaleSpec {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Requests of one instance, and how long it waits for the next; none where each request gets a fresh one.
    pub fn reuse(&self) -> Option<(u32, Duration)> {
        let requests = self.reuse.filter(|requests| *requests > 1)?;
        let idle = self.instance_idle_ms.unwrap_or(INSTANCE_IDLE_MS);
        Some((requests, Duration::from_millis(idle.into())))
    }

    /// Whether code and models are kept while nobody calls.
    pub fn is_warm(&self) -> bool {
        self.min_warm.is_some_and(|warm| warm > 0)
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
            check("scale.reuse", self.reuse, 1, REUSE_MAX),
            check("scale.instance_idle_ms", self.instance_idle_ms, 1, INSTANCE_IDLE_MS_MAX),
            check("scale.min_warm", self.min_warm, 0, MIN_WARM_MAX),
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
        let scale = ScaleSpec {
            concurrency_max: Some(0),
            queue_max: Some(1_000_001),
            reuse: Some(0),
            instance_idle_ms: Some(0),
            min_warm: Some(2),
        };
        let errors = scale.validate().expect_err("all are out of range");
        let names: Vec<_> = errors.iter().map(|e| e.name).collect();
        assert_eq!(
            names,
            ["scale.concurrency_max", "scale.queue_max", "scale.reuse", "scale.instance_idle_ms", "scale.min_warm"]
        );
        assert!(ScaleSpec { queue_max: Some(0), ..ScaleSpec::default() }.validate().is_ok(), "nobody waits");
    }

    #[test]
    fn fresh_unless_asked_for() {
        let reuse = |reuse, instance_idle_ms| ScaleSpec { reuse, instance_idle_ms, ..ScaleSpec::default() }.reuse();
        assert_eq!((reuse(None, Some(5)), reuse(Some(1), None)), (None, None));
        assert_eq!(reuse(Some(7), None), Some((7, Duration::from_secs(10))));
        assert_eq!(reuse(Some(7), Some(50)), Some((7, Duration::from_millis(50))));
    }

    #[test]
    fn cold_unless_asked_for() {
        let warm = |min_warm| ScaleSpec { min_warm, ..ScaleSpec::default() }.is_warm();
        assert_eq!([warm(None), warm(Some(0)), warm(Some(1))], [false, false, true]);
    }

    #[test]
    fn unknown_keys_are_errors() {
        assert!(serde_json::from_str::<ScaleSpec>(r#"{"concurrency_max": 4, "queue_max": 8}"#).is_ok());
        assert!(serde_json::from_str::<ScaleSpec>(r#"{"concurrency": 4}"#).is_err());
        assert!(serde_json::from_str::<ScaleSpec>(r#"{"concurrency_max": -4}"#).is_err());
    }
}
