//! Prices, credit, estimates, usage with its cost and the ledger's verification, as an operator meets them.

use std::process::Command;
use std::time::{Duration, SystemTime};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{BINARY, Server, tiny_model};

async fn post(server: &Server, key: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let url = format!("{}/api/v1{path}", server.admin);
    let response = server.http.post(url).bearer_auth(key).json(body).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// A server with the embedder deployed as `embeddings`; the model is called `embedder` in the price book.
fn embedder() -> Server {
    let server = Server::start();
    server.add_model("embedder", &tiny_model("embedder"));
    server.cli_json(&["deploy", "builtin:embeddings", "--model", "embedder"]);
    server
}

/// One call: its id and the tokens it used.
async fn call(server: &Server, input: &str) -> (String, i64) {
    let body = json!({ "input": input });
    let response = server.call(Method::POST, "/d/default/embeddings/v1/embeddings").json(&body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    response.bytes().await.unwrap();
    let detail = server.get(&format!("/requests/{id}")).await;
    (id, detail["usage"]["input_tokens"].as_i64().unwrap())
}

/// RFC 3339, so long ago (or ahead, below zero).
fn hours_ago(hours: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
    let micros = i64::try_from(now).unwrap() - hours * 3_600_000_000;
    // Through the server's own type, so that no other clock is trusted.
    mayfly_api::Timestamp::from_micros(micros).to_string()
}

/// So many thousandths, as the API writes them.
fn thousandths(count: i64) -> String {
    let text = format!("{}.{:03}", count / 1000, count % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[tokio::test]
async fn a_back_dated_price_is_confirmed_and_corrects_what_has_ended() {
    let mut server = embedder();
    let (id, tokens) = call(&server, "hello").await;
    let unpriced = server.get("/usage").await;
    assert!(unpriced["total"]["cost"].is_null() && unpriced["currency"] == "USD", "{unpriced}");

    let key = server.key.clone();
    let mut price =
        json!({ "meter": "input_tokens", "model": "embedder", "amount": "1", "per": 1000, "from": hours_ago(2) });
    let (status, problem) = post(&server, &key, "/prices", &price).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("conflict")), "{problem}");
    let shown = problem["difference"].clone();
    let cost = thousandths(tokens);
    assert_eq!(
        (&shown["calls"], &shown["before"], &shown["after"]),
        (&json!(1), &json!("0"), &json!(cost)),
        "{problem}"
    );
    assert!(problem["detail"].as_str().unwrap().contains("confirm_difference"), "{problem}");
    assert!(server.get("/prices").await["data"].as_array().unwrap().is_empty(), "nothing was added");

    price["confirm_difference"] = json!("0.5");
    assert_eq!(post(&server, &key, "/prices", &price).await.0, 409, "another amount confirms nothing");
    price["confirm_difference"] = shown["difference"].clone();
    price["as_of"] = shown["as_of"].clone();
    let (status, added) = post(&server, &key, "/prices", &price).await;
    assert_eq!((status.as_u16(), &added["difference"]["calls"]), (201, &json!(1)), "{added}");
    assert_eq!((&added["price"]["amount"], &added["price"]["per"]), (&json!("0.001"), &json!(1)), "{added}");

    let usage = server.get("/usage?group_by=model,day").await;
    assert_eq!(usage["total"]["cost"], json!(cost), "{usage}");
    // Beside it stands the guest's own CPU, which belongs to no model.
    let groups = usage["data"].as_array().unwrap();
    let group = groups.iter().find(|group| group["names"]["model"] == "embedder").unwrap_or_else(|| panic!("{usage}"));
    assert_eq!(group["cost"], json!(cost), "{usage}");
    let detail = server.get(&format!("/requests/{id}")).await;
    assert_eq!(detail["cost"], json!(cost), "{detail}");
    assert_eq!(post(&server, &key, "/prices", &price).await.0, 409, "the same price again overlaps");

    // A call after it has the price from its start.
    let (_, more) = call(&server, "hello again").await;
    let usage = server.cli_json(&["usage", "--by", "day"]);
    assert_eq!(usage["total"]["cost"], json!(thousandths(tokens + more)), "{usage}");

    let verified = server.cli_json(&["ledger", "verify"]);
    assert_eq!((&verified["ok"], &verified["calls"], &verified["open"]), (&json!(true), &json!(2), &json!(0)));
    server.kill();
    let folder = server.folder.path().join("data");
    let offline = |folder: &std::path::Path| {
        Command::new(BINARY).args(["ledger", "verify", "--json", "--data-dir"]).arg(folder).output().unwrap()
    };
    let output = offline(&folder);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && found["calls"] == 2, "{found}");
    assert!(!offline(server.folder.path()).status.success(), "no data folder, no store made there");

    // Another currency would make every stored amount mean something else.
    let changed = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(&folder)
        .env("MAYFLY_LEDGER__CURRENCY", "EUR")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&changed.stderr).into_owned();
    assert!(!changed.status.success() && said.contains("ledger.currency") && said.contains("USD"), "{said}");
}

#[tokio::test]
async fn bad_prices_are_refused_with_the_field_at_fault() {
    let server = Server::start();
    let good = json!({ "meter": "input_tokens", "amount": "0.02", "per": 1_000_000, "from": hours_ago(-1) });
    let key = server.key.clone();
    for (field, value) in [
        ("amount", json!("-1")),
        ("amount", json!("NaN")),
        ("amount", json!("1e3")),
        ("amount", json!("0.0000000000001")),
        ("amount", json!("99999999999999999999")),
        ("amount", json!("1".repeat(5000))),
        ("amount", json!(0.02)),
        ("per", json!(7)),
        ("per", json!(-1)),
        ("meter", json!("tokens")),
        ("meter", json!("guest_cpu_micros")),
        ("currency", json!("EUR")),
        ("tenant", json!("nobody")),
        ("model", json!("No Name")),
        ("model", json!("nobody/own")),
        ("until", json!(hours_ago(5))),
        ("from", json!("yesterday")),
        ("colour", json!("red")),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let (status, problem) = post(&server, &key, "/prices", &body).await;
        assert_eq!(status, 400, "{body} {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(field), "{body} {problem}");
        assert!(problem.to_string().len() < 1000, "what is repeated is cut");
    }
    assert_eq!(post(&server, &key, "/prices", &good).await.0, 201);
    assert_eq!(server.cli_json(&["prices", "list"])["data"][0]["amount"], "0.02");
    let (status, problem) = post(&server, &key, "/prices", &good).await;
    assert_eq!(status, 409, "it is there already: {problem}");
    assert!(problem["detail"].as_str().unwrap().contains("overlaps"), "{problem}");
    let audit = server.get("/audit").await.to_string();
    assert_eq!(audit.matches("price.add").count(), 1, "{audit}");
}

#[tokio::test]
async fn an_estimate_is_what_the_call_then_costs() {
    let server = embedder();
    let key = server.key.clone();
    server.cli_json(&[
        "prices",
        "set",
        "--meter",
        "input_tokens",
        "--amount",
        "1",
        "--per",
        "1000",
        "--model",
        "embedder",
    ]);
    let text = "how do I reset my password";
    let asked = json!({ "project": "default", "deployment": "embeddings", "input": text });
    let (status, estimate) = post(&server, &key, "/estimate", &asked).await;
    assert_eq!(status, 200, "{estimate}");
    let (id, tokens) = call(&server, text).await;
    assert_eq!(estimate["lines"][0]["quantity"], json!(tokens), "{estimate}");
    assert_eq!(estimate["cost"], server.get(&format!("/requests/{id}")).await["cost"], "{estimate}");

    let quantities =
        json!({ "project": "default", "deployment": "embeddings", "quantities": { "input_tokens": 5, "rows": 2 } });
    let (_, estimate) = post(&server, &key, "/estimate", &quantities).await;
    assert_eq!((&estimate["cost"], &estimate["unpriced"]), (&json!("0.005"), &json!(["rows"])), "{estimate}");
    for (body, names) in [
        (json!({ "project": "default", "deployment": "embeddings" }), "quantities"),
        (json!({ "project": "default", "deployment": "embeddings", "input": [] }), "input"),
        (json!({ "project": "default", "deployment": "embeddings", "input": 7 }), "input"),
        (json!({ "project": "default", "deployment": "embeddings", "input": "a", "model": "other" }), "model"),
        (json!({ "project": "default", "deployment": "embeddings", "quantities": { "tokens": 1 } }), "quantities"),
        (json!({ "project": "default", "deployment": "embeddings", "quantities": { "rows": -1 } }), "rows"),
    ] {
        let (status, problem) = post(&server, &key, "/estimate", &body).await;
        assert_eq!(status, 400, "{body} {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(names), "{body} {problem}");
    }
}

#[tokio::test]
async fn credit_and_prices_are_the_operators_and_seen_by_whom_they_concern() {
    let server = Server::start();
    for name in ["acme", "rival"] {
        server.cli_json(&["tenants", "create", name]);
        server.cli_json(&["projects", "create", name, "--tenant", name]);
    }
    let made = server.cli_json(&["keys", "create", "--project", "acme", "--scope", "deploy", "--whole-tenant"]);
    let acme = made["secret"].as_str().unwrap().to_owned();
    let price = |model: &str, tenant: &str| {
        server.cli_json(&[
            "prices", "set", "--meter", "rows", "--amount", "1", "--per", "1", "--model", model, "--tenant", tenant,
        ])
    };
    let noted = price("rival/secret", "rival");
    assert!(noted["note"].as_str().unwrap().contains("no model is named"), "{noted}");
    price("shared-model", "acme");
    let read = async |path: &str| {
        let response =
            server.http.get(format!("{}/api/v1{path}", server.admin)).bearer_auth(&acme).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (_, seen) = read("/prices").await;
    assert_eq!(seen["data"].as_array().unwrap().len(), 1, "{seen}");
    assert!(!seen.to_string().contains("secret"), "{seen}");

    let granted = server.cli_json(&["credit", "grant", "25.5", "--note", "May", "--tenant", "acme"]);
    assert_eq!((&granted["balance"], &granted["level"]), (&json!("25.5"), &json!("tenant")), "{granted}");
    let back = server.cli_json(&["credit", "grant", "-0.5", "--tenant", "acme"]);
    assert_eq!((&back["balance"], back["grants"].as_array().unwrap().len()), (&json!("25"), 2), "{back}");
    assert_eq!(read("/tenants/acme/credit").await.1["granted"], json!("25"));
    assert_eq!(read("/tenants/rival/credit").await.0, 404);
    assert_eq!(read("/projects/rival/credit").await.0, 404);
    let project = server.cli_json(&["credit", "show", "--project", "acme"]);
    assert_eq!((&project["granted"], &project["level"]), (&json!("0"), &json!("project")), "{project}");

    let price = json!({ "meter": "rows", "amount": "1", "per": 1 });
    for (path, body) in [
        ("/prices", &price),
        ("/prices/check", &price),
        ("/tenants/acme/credit", &json!({ "amount": "1000" })),
        ("/ledger/verify", &json!({})),
    ] {
        assert_eq!(post(&server, &acme, path, body).await.0, 403, "{path}");
    }
    let key = server.key.clone();
    for (amount, status) in
        [(json!("0"), 400), (json!("lots"), 400), (json!("NaN"), 400), (json!(5), 400), (json!("1e3"), 400)]
    {
        let (got, problem) = post(&server, &key, "/tenants/acme/credit", &json!({ "amount": amount })).await;
        assert_eq!(got.as_u16(), status, "{amount}");
        assert!(problem["detail"].as_str().unwrap().contains("amount"), "{problem}");
    }
}
