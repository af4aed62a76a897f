//! Uploading and deploying: what is refused and why, what is kept, and how to go back.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, guest, root};

fn wat(name: &str) -> Vec<u8> {
    let file = root().join(format!("tests/fixtures/guests/wat/{name}.wat"));
    wat::parse_file(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Uploads and tries to deploy; the status and the whole answer as text.
async fn refused(server: &Server, wasm: Vec<u8>) -> String {
    let (status, stored) = server.upload(wasm).await;
    if !status.is_success() {
        return stored.to_string();
    }
    let (status, answer) = server.deploy("refused", json!({ "handler": { "digest": stored["digest"] } })).await;
    assert!(status.is_client_error(), "{status} {answer}");
    assert_eq!(answer["status"], status.as_u16(), "a problem document: {answer}");
    answer.to_string()
}

#[tokio::test]
async fn what_is_no_handler_is_refused_with_the_reason() {
    let server = Server::start();
    let whole = guest("hostile");
    for (what, wasm, says) in [
        ("truncated", whole[..whole.len() / 2].to_vec(), "component"),
        ("not wasm", b"#!/bin/sh\n".to_vec(), "WebAssembly"),
        ("empty", Vec::new(), "WebAssembly"),
        ("a core module", wat("core-module"), "component"),
        ("no handler", wat("no-handler"), "wasi:http/incoming-handler"),
        ("an unknown import", wat("unknown-import"), "import"),
        ("a handler of another type", wat("wrong-handler"), "wasi:http/incoming-handler"),
    ] {
        let answer = refused(&server, wasm).await;
        assert!(answer.to_lowercase().contains(&says.to_lowercase()), "{what}: {answer}");
        assert!(!answer.contains(server.folder.path().to_str().unwrap()), "{what}: no host path: {answer}");
    }
    let nothing = server.api(Method::GET, "/projects/default/deployments/refused").send().await.unwrap();
    assert_eq!(nothing.status(), 404, "a refused deploy leaves no deployment");
    server.deploy_guest("fine", "hostile", json!({})).await;
    assert_eq!(server.call(Method::GET, "/d/default/fine/echo").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_upload_over_its_limit_is_refused() {
    let server = Server::start_with(&[("MAYFLY_HOST__COMPONENT_BYTES_MAX", "1000")]);
    let (status, answer) = server.upload(vec![0; 1001]).await;
    assert_eq!(status, 413, "{answer}");
}

#[tokio::test]
async fn the_same_bytes_are_stored_and_compiled_once() {
    let server = Server::start();
    let (_, first) = server.upload(guest("hostile")).await;
    let (_, second) = server.upload(guest("hostile")).await;
    assert_eq!(first["digest"], second["digest"]);
    let spec = json!({ "handler": { "digest": first["digest"] } });
    let (_, one) = server.deploy("one", spec.clone()).await;
    let (_, two) = server.deploy("two", spec.clone()).await;
    assert_eq!((one["compiled"].as_bool(), two["compiled"].as_bool()), (Some(true), Some(false)));
    let (_, again) = server.deploy("one", spec).await;
    assert_eq!(again["changed"], false, "an equal deploy makes no revision");
    assert_eq!(again["deployment"]["revision"]["number"], 1);
}

#[tokio::test]
async fn revisions_switch_and_roll_back() {
    let server = Server::start();
    for greeting in ["one", "two", "three"] {
        server.deploy_guest("greeter", "hostile", json!({ "config": { "greeting": greeting } })).await;
    }
    let greeting = async || {
        let response = server.call(Method::GET, "/d/default/greeter/config").send().await.unwrap();
        response.text().await.unwrap()
    };
    assert!(greeting().await.contains("three"));
    let back = server
        .api(Method::POST, "/projects/default/deployments/greeter/rollback")
        .json(&json!({}))
        .send()
        .await
        .unwrap();
    assert!(back.status().is_success());
    assert!(greeting().await.contains("two"), "without a number: the one before");
    let back = server
        .api(Method::POST, "/projects/default/deployments/greeter/rollback")
        .json(&json!({ "revision": 1 }))
        .send()
        .await
        .unwrap();
    assert!(back.status().is_success());
    assert!(greeting().await.contains("one"));
    let shown = server.get("/projects/default/deployments/greeter/revisions").await;
    let numbers: Vec<_> = shown["data"].as_array().unwrap().iter().map(|r| r["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [3, 2, 1], "nothing is lost by going back");
    let unknown = server
        .api(Method::POST, "/projects/default/deployments/greeter/rollback")
        .json(&json!({ "revision": 9 }))
        .send()
        .await
        .unwrap();
    assert!(unknown.status().is_client_error());
}

#[tokio::test]
async fn bad_specs_name_every_problem() {
    let server = Server::start();
    let (_, stored) = server.upload(guest("hostile")).await;
    let handler = json!({ "digest": stored["digest"] });
    let (status, answer) = server
        .deploy("bad", json!({ "handler": handler, "limits": { "deadline_ms_max": 0, "memory_bytes_max": 1 } }))
        .await;
    let text = answer.to_string();
    assert!(
        status.is_client_error() && text.contains("deadline_ms_max") && text.contains("memory_bytes_max"),
        "{text}"
    );
    let (status, answer) = server.deploy("bad", json!({ "handler": handler, "models": { "m": "nobody" } })).await;
    assert!(status.is_client_error() && answer.to_string().contains("nobody"), "{answer}");
    let (status, answer) = server.deploy("bad", json!({ "handler": handler, "typo": 1 })).await;
    assert!(status.is_client_error() && answer.to_string().contains("typo"), "{answer}");
    let (status, _) = server.deploy("bad", json!({ "handler": { "builtin": "nobody" } })).await;
    assert!(status.is_client_error());
    let (status, _) = server.deploy("Bad_Name", json!({ "handler": handler })).await;
    assert!(status.is_client_error());
}

#[tokio::test]
async fn any_wasi_http_component_runs_unchanged() {
    let server = Server::start();
    server.deploy_guest("plain", "plain", json!({})).await;
    let response = server.call(Method::GET, "/d/default/plain/some/path?q=1").send().await.unwrap();
    assert_eq!(response.status(), 200, "{:?}", response.text().await);
}

#[tokio::test]
async fn the_handler_sees_its_own_path_and_no_secret() {
    let server = Server::start();
    server.deploy_guest("echo", "hostile", json!({})).await;
    let response = server
        .call(Method::POST, "/d/default/echo/echo?x=%20y")
        .header("api-key", "secret-1")
        .header("x-api-key", "secret-2")
        .header("cookie", "mayfly_session=secret-3; theirs=ok")
        .header("x-forwarded-for", "10.0.0.9")
        .header("x-mayfly-anything", "secret-4")
        .header("x-own", "kept")
        .body("hello")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert!(text.contains("/echo?x=%20y") && !text.contains("/d/default"), "{text}");
    assert!(text.contains("kept") && text.contains("theirs=ok") && text.contains("hello"), "{text}");
    for secret in ["secret-", "10.0.0.9", server.key.as_str()] {
        assert!(!text.contains(secret), "{secret} reached the guest: {seen}");
    }
}
