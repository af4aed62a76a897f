//! What a span says of a call: OpenTelemetry's conventions where there is one, `mayfly.*` elsewhere.
//!
//! Ids, names and counts only. Nothing that a caller or a guest wrote is in it: no path, no header, no text, no key.

use mayfly_calls::EndedCall;
use mayfly_ledger::{Outcome, Row};
use mayfly_types::Meter;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span::SpanKind, status::StatusCode};

/// This span's flags: it is recorded (W3C Trace Context).
const FLAGS_SAMPLED: u32 = 1;
/// Flags of the parent: it is known, and it is on another machine.
const FLAGS_REMOTE_PARENT: u32 = 0x300;
/// The same for a span without one.
const FLAGS_LOCAL: u32 = 0x100;

/// The trace a call belongs to: the caller's, or one of its own with the request's id.
pub(crate) fn trace_id(call: &EndedCall<'_>) -> [u8; 16] {
    call.seen.trace.map_or_else(|| call.row.call.id.to_bytes(), |parent| parent.trace)
}

/// The span of one call.
pub(crate) fn span(call: &EndedCall<'_>) -> Span {
    let EndedCall { row, took, seen, .. } = call;
    let id = row.call.id.to_bytes();
    let end = u64::try_from(row.at).unwrap_or(0).saturating_mul(1_000);
    let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let name = match seen.operation {
        Some(operation) => format!("{} {}", operation.name, row.call.deployment_name),
        None => method(call).to_owned(),
    };
    Span {
        trace_id: trace_id(call).to_vec(),
        // No two requests of a node have the same last 62 bits in their ids, and hardly any two of several.
        span_id: id[8..].to_vec(),
        parent_span_id: seen.trace.map(|parent| parent.span.to_vec()).unwrap_or_default(),
        flags: FLAGS_SAMPLED | if seen.trace.is_some() { FLAGS_REMOTE_PARENT } else { FLAGS_LOCAL },
        name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: end.saturating_sub(took),
        end_time_unix_nano: end,
        attributes: attributes(call),
        status: failed(row).then(|| Status { code: StatusCode::Error.into(), message: String::new() }),
        ..Span::default()
    }
}

fn attributes(call: &EndedCall<'_>) -> Vec<KeyValue> {
    let EndedCall { row, seen, .. } = call;
    let mut all = vec![
        text("gen_ai.provider.name", "mayfly"),
        text("gen_ai.request.model", row.call.deployment_name.as_str()),
        text("http.request.method", method(call)),
        text("mayfly.request.id", row.call.id.to_string()),
        text("mayfly.tenant.id", row.call.tenant.to_string()),
        text("mayfly.project", seen.project.as_str()),
        text("mayfly.deployment", row.call.deployment_name.as_str()),
        text("mayfly.deployment.id", row.call.served.to_string()),
        text("mayfly.revision.id", row.call.revision.to_string()),
    ];
    if let Some(operation) = seen.operation {
        all.push(text("gen_ai.operation.name", operation.name));
        all.push(text("http.route", operation.route));
    }
    if row.status != 0 {
        all.push(number("http.response.status_code", row.status.into()));
    }
    usage(row, &mut all);
    let mut models = row.lines.iter().filter_map(|line| line.model.and_then(|model| seen.models.get(&model)));
    if let Some(model) = models.next()
        && models.all(|other| other == model)
    {
        all.push(text("gen_ai.response.model", model.as_str()));
    }
    if !call.finishes.is_empty() {
        let values = call.finishes.iter().map(|word| any(Value::StringValue((*word).to_owned()))).collect();
        all.push(attribute("gen_ai.response.finish_reasons", Value::ArrayValue(ArrayValue { values })));
    }
    if let Some(first) = call.first_token {
        all.push(attribute("gen_ai.response.time_to_first_chunk", Value::DoubleValue(first.as_secs_f64())));
    }
    if let Some(outcome) = row.outcome {
        all.push(text("mayfly.outcome", outcome.as_str()));
    }
    if let Some(cold) = &row.cold {
        all.push(text("mayfly.cold", cold.as_ref()));
    }
    if failed(row) {
        let by_outcome = row.outcome.filter(|outcome| is_fault(*outcome)).map(|outcome| outcome.as_str().to_owned());
        all.push(text("error.type", by_outcome.unwrap_or_else(|| row.status.to_string())));
    }
    all
}

/// Tokens under their conventional names, if there were any; other meters under ours. What is not owed has none.
fn usage(row: &Row, all: &mut Vec<KeyValue>) {
    let of = |meter: Meter| {
        let lines = row.lines.iter().filter(|line| line.meter == meter);
        lines.map(|line| line.quantity).reduce(i64::saturating_add)
    };
    let (input, cached, output) = (of(Meter::InputTokens), of(Meter::CachedInputTokens), of(Meter::OutputTokens));
    if input.is_some() || cached.is_some() || output.is_some() {
        let cached = cached.unwrap_or(0);
        all.push(number("gen_ai.usage.input_tokens", input.unwrap_or(0).saturating_add(cached)));
        all.push(number("gen_ai.usage.output_tokens", output.unwrap_or(0)));
        if cached > 0 {
            all.push(number("gen_ai.usage.cache_read.input_tokens", cached));
        }
    }
    for (meter, name) in [
        (Meter::Rows, "mayfly.usage.rows"),
        (Meter::Elements, "mayfly.usage.elements"),
        (Meter::InferenceMicros, "mayfly.usage.inference_micros"),
        (Meter::GuestCpuMicros, "mayfly.usage.guest_cpu_micros"),
    ] {
        all.extend(of(meter).map(|quantity| number(name, quantity)));
    }
}

/// The method, if it is one of those that everybody knows.
fn method<'a>(call: &'a EndedCall<'_>) -> &'a str {
    match call.seen.method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known,
        _ => "_OTHER",
    }
}

fn failed(row: &Row) -> bool {
    row.outcome.is_some_and(is_fault) || row.status >= 500
}

/// Whether the call ended otherwise than its handler and its caller wanted.
fn is_fault(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Completed | Outcome::ClientLeft | Outcome::Replayed => false,
        Outcome::Deadline | Outcome::GuestFault | Outcome::Refused | Outcome::HostFault | Outcome::HostCrash => true,
    }
}

pub(crate) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)), ..KeyValue::default() }
}

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

#[cfg(test)]
pub(crate) mod tests;
