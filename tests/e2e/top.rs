//! `mayfly top` and the list behind it: what deployments do now, for whoever may see them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{BINARY, Server};

/// The entry of one deployment of project `default`.
fn entry<'a>(look: &'a Value, name: &str) -> &'a Value {
    let found = look["data"].as_array().unwrap().iter().find(|entry| entry["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {look}"))
}

#[tokio::test]
async fn calls_failures_refusals_and_rows_are_shown() {
    let server = Server::start_metered(&[]).await;
    server.deploy_guest("trap", "hostile", json!({})).await;
    server.deploy_guest("idle", "hostile", json!({})).await;
    for _ in 0..3 {
        let answer = server.call(Method::POST, "/d/default/meter/?rows=2").send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    assert_eq!(server.call(Method::GET, "/d/default/trap/panic").send().await.unwrap().status(), 502);
    server.limit("/projects/default/deployments/trap", json!({ "requests_per_minute": 1 })).await;
    server
        .eventually("the limit is known", async || {
            server.call(Method::GET, "/d/default/trap/echo").send().await.unwrap().status() != 200
        })
        .await;

    let look = server.cli_json(&["top", "--once"]);
    let meter = entry(&look, "meter");
    assert_eq!((&meter["calls"], &meter["failed"], &meter["turned_away"]), (&json!(3), &json!(0), &json!(0)), "{look}");
    assert_eq!(meter["usage"]["rows"], 6, "{look}");
    assert_eq!((&meter["tier"], &meter["project"]), (&json!("model"), &json!("default")), "{look}");
    assert!(meter["model_bytes"].is_u64() && meter["last_used_at"].is_string(), "{look}");
    let trap = entry(&look, "trap");
    assert_eq!((&trap["failed"], trap["turned_away"].as_u64() > Some(0)), (&json!(1), true), "{look}");
    assert_eq!(look["data"].as_array().unwrap().len(), 2, "what nobody calls is not shown: {look}");
    assert_eq!((&look["node"]["models_loaded"], look["node"]["resident_bytes"].is_u64()), (&json!(1), true), "{look}");

    let printed = server.cli(&["top", "--once"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(text.contains("default/meter") && text.contains("models loaded 1"), "{text}");
    assert!(!text.contains('\u{1b}'), "one look does not clear the screen: {text}");
}

#[tokio::test]
async fn looks_follow_each_other_with_rates() {
    let server = Server::start_metered(&[]).await;
    let mut top = Command::new(BINARY)
        .args(["top", "--json", "--interval", "1"])
        .env("MAYFLY_URL", &server.admin)
        .env("MAYFLY_KEY", &server.key)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    let mut look = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(look()["data"], json!([]));
    assert_eq!(server.call(Method::POST, "/d/default/meter/?rows=1").send().await.unwrap().status(), 200);
    // On a busy machine the call may take longer than one look.
    let rate = (0..30).find_map(|_| {
        let look = look();
        let rate = look["data"].as_array().unwrap().first().map(|meter| meter["calls_per_second"].as_f64().unwrap());
        rate.filter(|rate| *rate > 0.0)
    });
    let rate = rate.expect("the call is counted");
    assert!(rate <= 1.1, "one call in a second: {rate}");
    assert_eq!(entry(&look(), "meter")["calls_per_second"], 0.0, "none since");
    top.kill().unwrap();
    top.wait().unwrap();
}

#[tokio::test]
async fn a_key_sees_the_activity_of_its_own_tenant_only() {
    let server = Server::start();
    server.cli_json(&["tenants", "create", "other"]);
    server.cli_json(&["projects", "create", "other", "--tenant", "other"]);
    server.deploy_guest("mine", "hostile", json!({})).await;
    assert_eq!(server.call(Method::GET, "/d/default/mine/echo").send().await.unwrap().status(), 200);
    let look = |project: &str| -> Value {
        let made = server.cli_json(&["keys", "create", "--project", project, "--scope", "deploy"]);
        server.cli_json(&["top", "--once", "--key", made["secret"].as_str().unwrap()])
    };
    let (own, foreign) = (look("default"), look("other"));
    assert_eq!(entry(&own, "mine")["calls"], 1, "{own}");
    assert_eq!(foreign["data"], json!([]), "another tenant's");
    assert!(own["node"]["calls_open"].is_null(), "figures over all tenants are the operator's: {own}");
    let call_key = server.cli_json(&["keys", "create", "--scope", "call"]);
    let refused = server.http.get(format!("{}/api/v1/activity", server.admin));
    let refused = refused.bearer_auth(call_key["secret"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(refused.status(), 403);
}

#[tokio::test]
async fn a_deleted_deployments_figures_are_not_its_successors() {
    let server = Server::start();
    server.deploy_guest("phoenix", "hostile", json!({})).await;
    assert_eq!(server.call(Method::GET, "/d/default/phoenix/echo").send().await.unwrap().status(), 200);
    assert_eq!(entry(&server.get("/activity").await, "phoenix")["calls"], 1);
    server.cli_json(&["delete", "phoenix"]);
    assert_eq!(server.get("/activity").await["data"], json!([]));
    server.deploy_guest("phoenix", "hostile", json!({})).await;
    assert_eq!(server.get("/activity").await["data"], json!([]), "nobody has called it");
    assert_eq!(server.call(Method::GET, "/d/default/phoenix/echo").send().await.unwrap().status(), 200);
    assert_eq!(entry(&server.get("/activity").await, "phoenix")["calls"], 1);
}
