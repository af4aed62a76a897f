//! Settings of the call path.

use serde::{Deserialize, Serialize};

/// Settings of [`crate::Calls`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Calls open at once on this node, those that wait included; one more is refused with 503. While it fills up, who
    /// holds most is refused first: a tenant may hold 8 times what is free, a deployment 4 times.
    pub calls_max: u32,
    /// Calls of one deployment that run at once, whatever its scale.concurrency_max says; one more waits or is refused
    /// with 429.
    pub calls_per_deployment_max: u32,
    /// Calls of one deployment that wait at once, whatever its scale.queue_max says; one more is refused with 429.
    pub waiting_per_deployment_max: u32,
    /// An answer this short, whose handler has ended, is settled before its head leaves and needs one row.
    pub short_answer_bytes_max: u64,
    /// How long the head waits for a short answer to end.
    pub short_answer_wait_ms: u64,
    /// Request bodies that come with an `Idempotency-Key`; they are read whole before the call begins.
    pub idempotent_request_bytes_max: u64,
    /// Bytes of such bodies held at once, over all calls; beyond, 503.
    pub idempotent_held_bytes_max: u64,
    /// Calls with an `Idempotency-Key` that run at once; one more is refused with 503.
    pub idempotent_calls_max: u32,
    /// An answer this long is kept for who sends the same `Idempotency-Key` again; of a longer one only that it was.
    pub idempotent_answer_bytes_max: u64,
    /// How long an answer is kept.
    pub idempotent_answer_seconds_max: u64,
    /// Bytes of all kept answers; the oldest go first.
    pub idempotent_answers_bytes_max: u64,
    /// Log lines kept in memory for each deployment that has written any.
    pub log_lines_per_deployment_max: u32,
    /// Bytes of those lines together.
    pub log_bytes_per_deployment_max: u32,
    /// Deployments whose lines are kept.
    pub log_deployments_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            calls_max: 10_000,
            calls_per_deployment_max: 1_000,
            waiting_per_deployment_max: 1_000,
            short_answer_bytes_max: 256 * 1024,
            short_answer_wait_ms: 2,
            idempotent_request_bytes_max: 4 << 20,
            idempotent_held_bytes_max: 256 << 20,
            idempotent_calls_max: 10_000,
            idempotent_answer_bytes_max: 256 * 1024,
            idempotent_answer_seconds_max: 24 * 60 * 60,
            idempotent_answers_bytes_max: 256 << 20,
            log_lines_per_deployment_max: 1_000,
            log_bytes_per_deployment_max: 256 * 1024,
            log_deployments_max: 1_000,
        }
    }
}
