//! The span of a call. All its fields are declared here.

use mayfly_ledger::Row;
use tracing::Span;
use tracing::field::Empty;

use crate::Context;

/// One for each call that was let in. It carries the request's id only, which finds everything else: putting fields into
/// words costs as much as a guest's run, and most calls say nothing.
pub(crate) fn span(context: &Context) -> Span {
    tracing::info_span!(
        "call",
        request = %context.request_id,
        outcome = Empty,
        status = Empty,
        cold = Empty,
        micros = Empty,
    )
}

/// Completes the span of the running call, if anybody listens at that level.
pub(crate) fn ended(row: &Row) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let span = Span::current();
    span.record("status", row.status);
    if let Some(outcome) = row.outcome {
        span.record("outcome", outcome.as_str());
    }
    if let Some(cold) = &row.cold {
        span.record("cold", cold.as_ref());
    }
    if let Some(micros) = row.duration_micros {
        span.record("micros", micros);
    }
    tracing::debug!("call ended");
}
