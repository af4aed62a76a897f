//! `/metrics` and the dashboard of `examples/observability`: every panel finds its metrics on a server that has worked.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, root};
use crate::isolate::{ISOLATE, Tenant};

/// Words of PromQL that stand where a metric could and are followed by a list of labels.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Other words of PromQL.
const WORDS: [&str; 6] = ["and", "or", "unless", "offset", "bool", "atan2"];

/// The metrics that an expression asks for.
fn metrics(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        let after = |end: char| rest.split_once(end).unwrap_or_else(|| panic!("no {end} in {expression}")).1;
        if c.is_ascii_alphabetic() || c == '_' || c == ':' {
            let length =
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
            let (word, more) = rest.split_at(length);
            rest = more;
            // `sum(x)` and `sum by (le) (x)` call a function.
            let called = ["(", "by ", "without "].iter().any(|next| more.trim_start().starts_with(next));
            if GROUPING.contains(&word) {
                rest = more.trim_start().strip_prefix('(').map_or(more, |list| list.split_once(')').unwrap().1);
            } else if !called && !WORDS.contains(&word) {
                found.insert(word.to_owned());
            }
        } else if c.is_ascii_digit() {
            // A number's exponent is no metric.
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
        } else {
            rest = match c {
                '{' => after('}'),
                '[' => after(']'),
                '"' => rest[1..].split_once('"').unwrap().1,
                other => &rest[other.len_utf8()..],
            };
        }
    }
    found
}

#[test]
fn metrics_of_an_expression() {
    let check = |expression: &str, expect: &[&str]| {
        let expect: BTreeSet<_> = expect.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(metrics(expression), expect, "{expression}");
    };
    check("up", &["up"]);
    check("histogram_quantile(0.5, sum by (le) (rate(a_bucket{job=~\"x|y\"}[$__rate_interval])))", &["a_bucket"]);
    check("sum(rate(a[5m])) by (tier) / on (model) group_left b > 1e3", &["a", "b"]);
    check("count(c) or vector(0)", &["c"]);
    check("time() - max(start) and label_replace(d, \"x\", \"$1\", \"y\", \"z\")", &["start", "d"]);
}

fn dashboard() -> Value {
    serde_json::from_slice(&std::fs::read(root().join("examples/observability/dashboard.json")).unwrap()).unwrap()
}

/// The expressions of each panel, by its title.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array();
        assert_eq!(targets.is_none(), panel["type"] == "row", "{title} asks for nothing");
        let asked = targets.into_iter().flatten().map(|target| target["expr"].as_str().unwrap().to_owned());
        all.extend(asked.map(|expression| (title.clone(), expression)));
    }
    all
}

/// What a scrape has: each sample's metric with the type of its family.
fn scraped(text: &str) -> BTreeMap<String, String> {
    let mut kind = "";
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            kind = family.split(' ').nth(1).unwrap();
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            found.insert(name.to_owned(), kind.to_owned());
        }
    }
    found
}

/// A server on which everything that is measured has happened.
async fn busy() -> Server {
    let server = Server::start_metered(&[ISOLATE]).await;
    server.add_model("tiny", &root().join("examples/models/tiny-chat-genai"));
    let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" } });
    let (status, answer) = server.deploy("chat", spec).await;
    assert!(status.is_success(), "{answer}");
    for _ in 0..2 {
        assert_eq!(server.call(Method::POST, "/d/default/meter/?rows=3").send().await.unwrap().status(), 200);
    }
    let question = json!({ "model": "chat", "max_tokens": 8, "messages": [{ "role": "user", "content": "Hello" }] });
    let answer = server.call(Method::POST, "/v1/chat/completions").json(&question).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    let acme = Tenant::new(&server, "acme");
    acme.deploy_chat("tiny-chat-genai");
    let answer = acme.chat(&question).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    // It tells what it has at work a few times a second.
    let told = async || scrape(&server).await.contains("mayfly_worker_generation_slots{");
    server.eventually("the tenant's process tells", told).await;
    server.limit("/projects/default/deployments/meter", json!({ "requests_per_minute": 1 })).await;
    server
        .eventually("the limit is known", async || {
            server.call(Method::POST, "/d/default/meter/?rows=1").send().await.unwrap().status() == 429
        })
        .await;
    server
}

async fn scrape(server: &Server) -> String {
    // Prometheus has no key.
    server.http.get(format!("{}/metrics", server.admin)).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn every_panel_of_the_dashboard_finds_its_metrics() {
    let server = busy().await;
    let text = scrape(&server).await;
    let scraped = scraped(&text);
    let asked = expressions(&dashboard());
    let mut used = BTreeSet::new();
    for (title, expression) in &asked {
        let metrics = metrics(expression);
        assert!(!metrics.is_empty(), "{title}: {expression}");
        for metric in metrics {
            let kind = scraped.get(&metric).unwrap_or_else(|| panic!("{title}: {metric} is not in\n{text}"));
            let grows = kind == "counter" || kind == "histogram";
            assert_eq!(grows, expression.contains(&format!("rate({metric}{{")), "{title}: {metric} is a {kind}");
            used.insert(metric);
        }
    }
    let shown = |name: &str| used.iter().any(|metric| metric == name || metric.starts_with(&format!("{name}_bucket")));
    let missing: Vec<_> =
        scraped.keys().filter(|name| !shown(name) && !name.ends_with("_sum") && !name.ends_with("_count")).collect();
    assert!(missing.is_empty(), "in no panel: {missing:?}");
}

#[tokio::test]
async fn what_happened_is_what_is_counted() {
    let server = busy().await;
    let text = scrape(&server).await;
    let value = |sample: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample} is not in\n{text}")).parse().unwrap()
    };
    let calls = value("mayfly_calls_total{outcome=\"completed\"}");
    assert_eq!(value("mayfly_ledger_commit_seconds_count"), calls, "each waited for its row");
    assert_eq!(value("mayfly_call_duration_seconds_count"), calls);
    // The limit lets one more through before it holds.
    assert!(value("mayfly_rows_total") >= 6.0 && value("mayfly_inference_queue_wait_seconds_count") >= 2.0);
    assert!(value("mayfly_tokens_total{meter=\"output_tokens\"}") >= 1.0);
    assert!(value("mayfly_errors_total{code=\"rate_limited\"}") >= 1.0);
    assert!(value("mayfly_guest_cpu_seconds_total") > 0.0 && value("mayfly_inference_seconds_total") > 0.0);
    assert_eq!(value("mayfly_deployment_calls_total{project=\"default\",deployment=\"chat\"}"), 1.0);
    let of_engine = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{model=\"sha256:")));
        line.and_then(|line| line.rsplit(' ').next()).unwrap_or_else(|| panic!("{name}\n{text}")).parse().unwrap()
    };
    let (steps, rows) =
        (of_engine("mayfly_generation_decode_steps_total"), of_engine("mayfly_generation_decode_rows_total"));
    assert!(steps >= 1.0 && steps == rows, "one sequence alone: {steps} steps, {rows} rows");
    assert!(of_engine("mayfly_generation_state_bytes") > 0.0 && of_engine("mayfly_generation_run_seconds_total") > 0.0);
}

#[test]
fn prometheus_is_told_where_the_control_plane_is() {
    let text = std::fs::read_to_string(root().join("examples/observability/prometheus.yml")).unwrap();
    let defaults = std::fs::read_to_string(root().join("runtime/mayfly/default.toml")).unwrap();
    let address = defaults.lines().find_map(|line| line.strip_prefix("admin_listen = ")).unwrap();
    assert!(text.contains(&format!("targets: [{address}]")), "{address} is not in {text}");
}
