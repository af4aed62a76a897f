//! Header names of ours.

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
