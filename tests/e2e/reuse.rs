//! `scale.reuse`: instances that answer more than one request, from the manifest to the answer's head.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Server;

/// How often the instance that answered was called, and how cold the answer was.
async fn count(server: &Server, name: &str) -> (u64, String) {
    let response = server.call(Method::GET, &format!("/d/default/{name}/count")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let cold = response.headers()["x-mayfly-cold"].to_str().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    (body["calls"].as_u64().unwrap(), cold)
}

async fn calls(server: &Server, name: &str) -> u64 {
    count(server, name).await.0
}

#[tokio::test]
async fn an_instance_answers_as_often_as_the_manifest_says() {
    let server = Server::start();
    server.deploy_guest("fresh", "hostile", json!({})).await;
    assert_eq!([calls(&server, "fresh").await, calls(&server, "fresh").await], [1, 1], "by default");
    assert_eq!(server.get("/node").await["instances"], 0);

    server.deploy_guest("kept", "hostile", json!({ "scale": { "reuse": 3, "instance_idle_ms": 60000 } })).await;
    count(&server, "kept").await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(count(&server, "kept").await);
    }
    let word = |calls, cold: &str| (calls, cold.to_owned());
    assert_eq!(seen, [word(2, "none"), word(3, "none"), word(1, "instance"), word(2, "none")]);
    let shown = String::from_utf8(server.cli(&["show", "kept"]).stdout).unwrap();
    assert!(shown.contains("scale      reuse = 3\n"), "{shown}");
    let metrics = server.http.get(format!("{}/metrics", server.admin)).bearer_auth(&server.key).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("mayfly_instances_idle 1\n"), "{metrics}");
    assert!(metrics.contains("mayfly_instances_reused_total 3\n"), "{metrics}");
}

#[tokio::test]
async fn another_revision_or_none_has_no_instance_of_before() {
    let server = Server::start();
    let kept = json!({ "scale": { "reuse": 100, "instance_idle_ms": 60000 } });
    server.deploy_guest("kept", "hostile", kept.clone()).await;
    assert_eq!([calls(&server, "kept").await, calls(&server, "kept").await], [1, 2]);
    server.deploy_guest("kept", "hostile", json!({ "scale": { "reuse": 50, "instance_idle_ms": 60000 } })).await;
    assert_eq!(server.get("/node").await["instances"], 0, "gone with its revision, at once");
    assert_eq!([calls(&server, "kept").await, calls(&server, "kept").await], [1, 2]);
    assert!(server.cli(&["rollback", "kept"]).status.success());
    assert_eq!(calls(&server, "kept").await, 1);
    assert!(server.cli(&["delete", "kept"]).status.success());
    assert_eq!(server.get("/node").await["instances"], 0, "gone with its deployment, at once");
}

#[tokio::test]
async fn idle_instances_go_by_their_own_clock() {
    let server = Server::start();
    server.deploy_guest("kept", "hostile", json!({ "scale": { "reuse": 100, "instance_idle_ms": 200 } })).await;
    assert_eq!([calls(&server, "kept").await, calls(&server, "kept").await], [1, 2]);
    server.eventually("it has gone", async || server.get("/node").await["instances"] == 0).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(calls(&server, "kept").await, 1);
}

#[tokio::test]
async fn the_operator_may_forbid_it() {
    let server = Server::start_with(&[("MAYFLY_HOST__REUSE_MAX", "1")]);
    server.deploy_guest("kept", "hostile", json!({ "scale": { "reuse": 100 } })).await;
    assert_eq!([calls(&server, "kept").await, calls(&server, "kept").await], [1, 1]);
}

#[tokio::test]
async fn a_handle_of_an_earlier_caller_is_a_fault_of_the_later_one_only() {
    let server = Server::start();
    server.deploy_guest("kept", "hostile", json!({ "scale": { "reuse": 100 } })).await;
    for kind in ["tensor", "fields", "incoming"] {
        let keep = format!("/d/default/kept/keep?kind={kind}&text=secret");
        assert_eq!(server.call(Method::GET, &keep).send().await.unwrap().status(), 200);
        let again = server.call(Method::GET, "/d/default/kept/again?how=use").send().await.unwrap();
        assert_eq!(again.status(), 502, "{kind}");
        let text = again.text().await.unwrap();
        assert!(text.contains("handler_failed") && !text.contains("secret"), "{kind}: {text}");
        assert_eq!(calls(&server, "kept").await, 1, "{kind}: a fresh one after the fault");
    }
}
