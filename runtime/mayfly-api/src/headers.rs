//! Header names of ours, and those of others that calls read or write.

/// How cold the call was: `none`, `instance`, `code` or `model`.
pub const COLD: &str = "x-mayfly-cold";
/// The call's id; callers find it again at `GET /v1/requests/{id}`.
pub const REQUEST_ID: &str = "x-request-id";
/// Tokens the models read.
pub const USAGE_INPUT_TOKENS: &str = "x-mayfly-usage-input-tokens";
/// Tokens the models produced.
pub const USAGE_OUTPUT_TOKENS: &str = "x-mayfly-usage-output-tokens";
/// All usage of the call as JSON: `{"input_tokens": 8, "rows": 1}`.
pub const USAGE: &str = "x-mayfly-usage";
/// `false` where a retry of the same call cannot help, or would be charged again.
pub const SHOULD_RETRY: &str = "x-should-retry";
/// What the call costs, a decimal string in [`CURRENCY`].
pub const COST: &str = "x-mayfly-cost";
/// The host's currency.
pub const CURRENCY: &str = "x-mayfly-currency";
/// `true` on an answer that was sent before and is sent again.
pub const REPLAYED: &str = "x-mayfly-replayed";
/// `true` where `retry-after` is an estimate: the end of other calls cannot be foreseen.
pub const RETRY_ESTIMATE: &str = "x-mayfly-retry-estimate";
/// `retry-after` in milliseconds.
pub const RETRY_AFTER_MS: &str = "retry-after-ms";
/// The limits of a call, as in draft-ietf-httpapi-ratelimit-headers.
pub const RATE_LIMIT_POLICY: &str = "ratelimit-policy";
/// What is left of them.
pub const RATE_LIMIT: &str = "ratelimit";
/// From the caller: the same text on the same request gives the same answer, billed once.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// From the caller: who its user is.
pub const END_USER: &str = "x-mayfly-end-user";
/// From the caller: `1` prices the call instead of running its models.
pub const DRY_RUN: &str = "x-mayfly-dry-run";
/// From the caller: the most the call may cost.
pub const MAX_COST: &str = "x-mayfly-max-cost";
