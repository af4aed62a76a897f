//! What a span says, and what it never says.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use mayfly_calls::{Operation, Seen, TraceParent};
use mayfly_ledger::{Call, Channel, CountedBy, Kind, RowLine};
use mayfly_types::{DeploymentId, KeyId, ModelId, ProjectId, RequestId, RevisionId, TenantId};

use super::*;

pub(crate) fn row(outcome: Outcome, status: u16) -> Row {
    let deployment = DeploymentId::from_bytes([1; 16]);
    let id = RequestId::new();
    let line = |meter, model: Option<u8>, quantity| RowLine {
        meter,
        model: model.map(|model| ModelId::from_bytes([model; 16])),
        quantity,
        price: None,
        amount: None,
    };
    Row {
        kind: Kind::Settle,
        call: Arc::new(Call {
            id,
            parent: None,
            root: id,
            attempt: 1,
            tenant: TenantId::from_bytes([2; 16]),
            payer: TenantId::from_bytes([2; 16]),
            project: ProjectId::from_bytes([3; 16]),
            requested: deployment,
            served: deployment,
            revision: RevisionId::from_bytes([4; 16]),
            deployment_name: "bot".parse().unwrap(),
            key: KeyId::from_bytes([5; 16]),
            end_user: Some("anna-the-user".into()),
            channel: Channel::Api,
            counted_by: CountedBy::Host,
            opened_at: 1_000_000,
        }),
        at: 3_000_000,
        lines: vec![
            line(Meter::InputTokens, Some(7), 10),
            line(Meter::CachedInputTokens, Some(7), 4),
            line(Meter::OutputTokens, Some(7), 6),
            line(Meter::GuestCpuMicros, None, 90),
        ],
        outcome: Some(outcome),
        status,
        cold: Some("instance".into()),
        duration_micros: Some(2_000_000),
    }
}

pub(crate) fn seen(trace: Option<TraceParent>, path: &str) -> Seen {
    Seen {
        trace,
        method: http::Method::POST,
        operation: Operation::at(path),
        project: "shop".parse().unwrap(),
        models: Arc::new([(ModelId::from_bytes([7; 16]), "tiny".to_owned())].into()),
    }
}

fn of(row: &Row, seen: &Seen) -> Span {
    let first_token = Some(Duration::from_millis(250));
    span(&EndedCall { row, took: Duration::from_millis(2_500), first_token, finishes: &["stop", "length"], seen })
}

fn get(span: &Span, key: &str) -> Option<Value> {
    let mut found = span.attributes.iter().filter(|attribute| attribute.key == key);
    let value = found.next()?.value.clone()?.value;
    assert!(found.next().is_none(), "{key} twice");
    value
}

fn words(span: &Span, key: &str) -> String {
    match get(span, key) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn a_chat() {
    let (row, seen) = (row(Outcome::Completed, 200), seen(None, "/v1/chat/completions"));
    let span = of(&row, &seen);
    assert_eq!((span.name.as_str(), span.kind), ("chat bot", SpanKind::Server as i32));
    assert_eq!(span.trace_id, row.call.id.to_bytes(), "without a parent the trace is the request");
    assert_eq!((span.span_id.len(), span.parent_span_id.len()), (8, 0));
    assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (500_000_000, 3_000_000_000));
    assert_eq!(span.status, None);
    assert_eq!(words(&span, "gen_ai.operation.name"), "chat");
    assert_eq!(words(&span, "gen_ai.request.model"), "bot");
    assert_eq!(words(&span, "gen_ai.response.model"), "tiny");
    assert_eq!(words(&span, "http.route"), "/v1/chat/completions");
    assert_eq!(get(&span, "gen_ai.usage.input_tokens"), Some(Value::IntValue(14)), "cached ones are input, too");
    assert_eq!(get(&span, "gen_ai.usage.cache_read.input_tokens"), Some(Value::IntValue(4)));
    assert_eq!(get(&span, "gen_ai.usage.output_tokens"), Some(Value::IntValue(6)));
    assert_eq!(get(&span, "http.response.status_code"), Some(Value::IntValue(200)));
    assert_eq!(words(&span, "mayfly.outcome"), "completed");
    assert_eq!(get(&span, "error.type"), None);
    let told = format!("{:?}", get(&span, "gen_ai.response.finish_reasons"));
    assert!(told.contains("stop") && told.contains("length"), "{told}");
    assert_eq!(get(&span, "gen_ai.response.time_to_first_chunk"), Some(Value::DoubleValue(0.25)));
}

#[test]
fn the_caller_s_trace_goes_on() {
    let parent = TraceParent { trace: [9; 16], span: [8; 8], sampled: true };
    let span = of(&row(Outcome::Completed, 200), &seen(Some(parent), "/"));
    assert_eq!((span.trace_id, span.parent_span_id), (vec![9; 16], vec![8; 8]));
    assert_eq!(span.flags, 0x301);
}

#[test]
fn what_is_no_operation_of_openai_is_its_method() {
    let mut row = row(Outcome::Completed, 200);
    row.lines.retain(|line| line.model.is_none());
    let mut seen = seen(None, "/secret/path");
    seen.method = "BREW".parse().unwrap();
    let span = of(&row, &seen);
    assert_eq!(span.name, "_OTHER");
    for absent in ["gen_ai.operation.name", "http.route", "gen_ai.usage.input_tokens", "gen_ai.response.model"] {
        assert_eq!(get(&span, absent), None, "{absent}");
    }
}

#[test]
fn failures_are_errors() {
    let check = |outcome, status, error: Option<&str>| {
        let span = of(&row(outcome, status), &seen(None, "/"));
        let told = error.is_some().then(|| words(&span, "error.type"));
        assert_eq!((told.as_deref(), span.status.is_some()), (error, error.is_some()), "{outcome:?} {status}");
    };
    check(Outcome::Completed, 404, None);
    check(Outcome::Completed, 500, Some("500"));
    check(Outcome::ClientLeft, 0, None);
    check(Outcome::Deadline, 504, Some("deadline"));
    check(Outcome::Refused, 429, Some("refused"));
    let left = of(&row(Outcome::ClientLeft, 0), &seen(None, "/"));
    assert_eq!(get(&left, "http.response.status_code"), None, "nothing was sent");
}

#[test]
fn nothing_that_somebody_wrote_is_in_it() {
    let row = row(Outcome::Completed, 200);
    let told = format!("{:?}", of(&row, &seen(None, "/d/secret?x=secret")));
    for absent in ["anna", "secret", &row.call.key.to_string()] {
        assert!(!told.contains(absent), "{absent} is in {told}");
    }
}
