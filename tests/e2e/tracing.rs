//! Spans for a collector: one for each call, with the ledger's numbers, in the caller's trace; and nothing but spans is
//! lost with a collector.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, header, root};

/// A collector: takes what comes to `/v1/traces` and keeps it.
struct Collector {
    endpoint: String,
    taken: Arc<Mutex<Vec<Taken>>>,
}

/// One request.
struct Taken {
    head: String,
    body: ExportTraceServiceRequest,
}

impl Collector {
    /// Answers each request with `status`.
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let to = taken.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let to = to.clone();
                std::thread::spawn(move || serve(stream.unwrap(), status, &to));
            }
        });
        Self { endpoint, taken }
    }

    fn spans(&self) -> Vec<Span> {
        let taken = self.taken.lock().unwrap();
        let resources = taken.iter().flat_map(|taken| &taken.body.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn serve(stream: TcpStream, status: &str, to: &Mutex<Vec<Taken>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        assert!(lower.contains("content-type: application/x-protobuf\r\n"), "{head}");
        let body = ExportTraceServiceRequest::decode(body.as_slice()).expect("it is OTLP");
        to.lock().unwrap().push(Taken { head, body });
        let _ = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes());
    }
}

async fn start(endpoint: &str, more: &[(&str, &str)]) -> Server {
    let settings =
        [&[("MAYFLY_TELEMETRY__OTLP_ENDPOINT", endpoint), ("MAYFLY_TELEMETRY__BATCH_WAIT_MS", "50")], more].concat();
    Server::start_with(&settings)
}

fn text(span: &Span, key: &str) -> String {
    match value(span, key) {
        Some(Any::StringValue(text)) => text,
        other => panic!("{key}: {other:?} in {span:?}"),
    }
}

fn number(span: &Span, key: &str) -> i64 {
    match value(span, key) {
        Some(Any::IntValue(number)) => number,
        other => panic!("{key}: {other:?} in {span:?}"),
    }
}

fn value(span: &Span, key: &str) -> Option<Any> {
    span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

async fn metric(server: &Server, name: &str) -> u64 {
    let text = server.http.get(format!("{}/metrics", server.admin)).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn a_span_for_each_call_with_the_ledger_s_numbers() {
    let collector = Collector::start("200 OK");
    let headers = "{ authorization = \"Bearer hunter2\" }";
    let server = start(&collector.endpoint, &[("MAYFLY_TELEMETRY__OTLP_HEADERS", headers)]).await;
    server.add_model("tiny", &root().join("examples/models/tiny-chat-genai"));
    let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" } });
    let (status, answer) = server.deploy("bot", spec).await;
    assert!(status.is_success(), "{answer}");
    server.deploy_guest("hostile", "hostile", json!({})).await;

    let secret = "What is the password of the secret-user?";
    let question = json!({ "model": "bot", "max_tokens": 8, "messages": [{ "role": "user", "content": secret }] });
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let ask = |stream: bool| {
        let mut question = question.clone();
        question["stream"] = json!(stream);
        let request = server.call(Method::POST, "/v1/chat/completions").json(&question);
        request.header("x-mayfly-end-user", "anna-the-user")
    };
    let plain = ask(false).header("traceparent", parent).send().await.unwrap();
    let streamed = ask(true).send().await.unwrap();
    let failed = server.call(Method::GET, "/d/default/hostile/panic?x=secret-path").send().await.unwrap();
    assert_eq!((plain.status().as_u16(), streamed.status().as_u16(), failed.status().as_u16()), (200, 200, 502));
    let mut calls = Vec::new();
    for response in [plain, streamed, failed] {
        let id = header(&response, "x-request-id");
        let _ = response.bytes().await.unwrap();
        calls.push((id.clone(), server.settled(&id).await));
    }
    server.eventually("all spans are there", async || collector.spans().len() >= 3).await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 3, "one for each call");
    let of = |id: &str| {
        spans.iter().find(|span| text(span, "mayfly.request.id") == id).unwrap_or_else(|| panic!("{id}: {spans:?}"))
    };
    for (id, record) in &calls[..2] {
        let span = of(id);
        assert_eq!(span.name, "chat bot");
        let usage = &record["usage"];
        assert_eq!(
            json!(number(span, "gen_ai.usage.input_tokens")),
            sum(usage, &["input_tokens", "cached_input_tokens"])
        );
        assert_eq!(json!(number(span, "gen_ai.usage.output_tokens")), sum(usage, &["output_tokens"]));
        assert!(number(span, "gen_ai.usage.output_tokens") > 0, "{record}");
        assert_eq!(text(span, "gen_ai.operation.name"), "chat");
        assert_eq!(text(span, "gen_ai.request.model"), "bot");
        assert_eq!(text(span, "gen_ai.response.model"), "tiny");
        assert_eq!(text(span, "mayfly.outcome"), "completed");
        let finish = format!("{:?}", value(span, "gen_ai.response.finish_reasons"));
        assert!(finish.contains("stop") || finish.contains("length"), "{finish}");
        let Some(Any::DoubleValue(first)) = value(span, "gen_ai.response.time_to_first_chunk") else {
            panic!("{span:?}")
        };
        let whole = (span.end_time_unix_nano - span.start_time_unix_nano) as f64 / 1e9;
        assert!(first > 0.0 && first < whole, "{first} of {whole}");
        assert_eq!(number(span, "http.response.status_code"), 200);
        assert!(span.status.is_none() && span.end_time_unix_nano > span.start_time_unix_nano);
    }
    let child = of(&calls[0].0);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&child.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&child.parent_span_id), "b7ad6b7169203331");
    let root = of(&calls[1].0);
    assert!(root.parent_span_id.is_empty() && root.trace_id != child.trace_id);
    let fault = of(&calls[2].0);
    assert_eq!((text(fault, "error.type").as_str(), fault.status.as_ref().unwrap().code), ("guest_fault", 2));

    let told = {
        let taken = collector.taken.lock().unwrap();
        assert!(taken.iter().all(|one| one.head.contains("Bearer hunter2")), "the collector's own key goes with each");
        format!("{:?}", taken.iter().map(|one| &one.body).collect::<Vec<_>>())
    };
    assert!(told.contains("service.name"));
    for absent in ["password", "secret", "anna", "hunter2", server.key.as_str()] {
        assert!(!told.contains(absent), "{absent} is in {told}");
    }
    assert_eq!(metric(&server, "gen_ai_server_time_to_first_token_seconds_count").await, 2);
    assert_eq!(metric(&server, "mayfly_spans_exported_total").await, 3);
    assert_eq!(metric(&server, "mayfly_spans_dropped_total").await, 0);
}

fn sum(usage: &Value, meters: &[&str]) -> Value {
    json!(meters.iter().filter_map(|meter| usage[*meter].as_i64()).sum::<i64>())
}

#[tokio::test]
async fn a_stopping_server_sends_what_it_has() {
    let collector = Collector::start("200 OK");
    let mut server = start(&collector.endpoint, &[("MAYFLY_TELEMETRY__BATCH_WAIT_MS", "600000")]).await;
    server.deploy_guest("plain", "plain", json!({})).await;
    for _ in 0..3 {
        assert_eq!(server.call(Method::GET, "/d/default/plain/").send().await.unwrap().status(), 200);
    }
    assert!(collector.spans().is_empty(), "they wait for others");
    assert!(server.terminate().success());
    assert_eq!(collector.spans().len(), 3);
}

#[tokio::test]
async fn callers_choose_for_their_own_traces() {
    let collector = Collector::start("200 OK");
    let server = start(&collector.endpoint, &[("MAYFLY_TELEMETRY__SAMPLE_RATIO", "0")]).await;
    server.deploy_guest("plain", "plain", json!({})).await;
    let call = |parent: Option<&'static str>| {
        let request = server.call(Method::GET, "/d/default/plain/");
        parent.map_or_else(
            || server.call(Method::GET, "/d/default/plain/"),
            |parent| request.header("traceparent", parent),
        )
    };
    for parent in [
        None,
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
        Some("garbage"),
        Some("00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ] {
        assert_eq!(call(parent).send().await.unwrap().status(), 200);
    }
    server.eventually("the one is there", async || !collector.spans().is_empty()).await;
    let spans = collector.spans();
    assert_eq!((spans.len(), spans[0].trace_id[0]), (1, 0x1a));
}

/// No collector, one that hangs, one that refuses: calls are as quick as without, and what is lost is counted.
#[tokio::test]
async fn a_collector_that_fails_costs_spans_only() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let (closed, hangs) =
        (TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(), nobody.local_addr().unwrap());
    let refuses = Collector::start("400 Bad Request");
    for endpoint in [format!("http://{closed}"), format!("http://{hangs}"), refuses.endpoint.clone()] {
        let settings = [("MAYFLY_TELEMETRY__QUEUE_SPANS_MAX", "8"), ("MAYFLY_TELEMETRY__REQUEST_MS_MAX", "500")];
        let server = start(&endpoint, &settings).await;
        server.deploy_guest("plain", "plain", json!({})).await;
        let begin = Instant::now();
        for _ in 0..100 {
            let answer = server.call(Method::GET, "/d/default/plain/").send().await.unwrap();
            assert_eq!(answer.status(), 200);
            // Whoever goes before the end of an answer has left.
            answer.bytes().await.unwrap();
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{endpoint}: {:?}", begin.elapsed());
        server
            .eventually("all are counted as lost", async || metric(&server, "mayfly_spans_dropped_total").await == 100)
            .await;
        assert_eq!(metric(&server, "mayfly_spans_exported_total").await, 0);
        assert_eq!(metric(&server, "mayfly_calls_total{outcome=\"completed\"}").await, 100);
    }
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_without_their_secrets() {
    let output = std::process::Command::new(crate::harness::BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .env("MAYFLY_TELEMETRY__OTLP_ENDPOINT", "ftp://me:hunter2@host")
        .env("MAYFLY_TELEMETRY__OTLP_HEADERS", "{ \"a b\" = \"hunter2\" }")
        .env("MAYFLY_TELEMETRY__SAMPLE_RATIO", "2")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    for key in ["otlp_endpoint", "otlp_headers", "sample_ratio"] {
        assert!(told.contains(key), "{told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}
