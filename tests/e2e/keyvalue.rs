//! `wasi:keyvalue`: what a handler keeps is there the next time, for its own deployment only and within its limits.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::Server;

/// Status and text of a call to the guest `keeper`.
async fn call(server: &Server, method: Method, path: &str, body: &[u8]) -> (StatusCode, String) {
    let response = server.call(method, &format!("/d/default{path}")).body(body.to_vec()).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

#[track_caller]
fn check(answer: &(StatusCode, String), status: u16, says: &str) {
    assert!(answer.0 == status && answer.1.contains(says), "expected {status} {says:?}: {answer:?}");
}

#[tokio::test]
async fn kept_counted_listed_and_there_after_a_restart() {
    let mut server = Server::start();
    server.deploy_guest("one", "keeper", json!({})).await;
    server.deploy_guest("two", "keeper", json!({})).await;
    check(&call(&server, Method::GET, "/one/a", b"").await, 404, "nothing is kept");
    check(&call(&server, Method::PUT, "/one/a", b"kept \xc3\xbc").await, 204, "");
    check(&call(&server, Method::GET, "/one/a", b"").await, 200, "kept ü");
    check(&call(&server, Method::POST, "/one/n?add=40", b"").await, 200, "40");
    check(&call(&server, Method::POST, "/one/n?add=2", b"").await, 200, "42");
    check(&call(&server, Method::POST, "/one/a?add=1", b"").await, 507, "not a decimal number");
    check(&call(&server, Method::POST, "/one/?fill=50&bytes=1000", b"").await, 200, "50");
    check(&call(&server, Method::GET, "/one/", b"").await, 200, r#"["a","n"]"#);
    check(&call(&server, Method::GET, "/one/?bucket=default", b"").await, 200, r#"["a","n"]"#);
    check(&call(&server, Method::GET, "/one/?bucket=two", b"").await, 507, "no such store");

    check(&call(&server, Method::GET, "/two/", b"").await, 200, "[]");
    check(&call(&server, Method::GET, "/two/a", b"").await, 404, "");

    // `kill -9`: what was answered is durable.
    server.kill();
    server.restart();
    check(&call(&server, Method::GET, "/one/a", b"").await, 200, "kept ü");
    check(&call(&server, Method::DELETE, "/one/a", b"").await, 204, "");
    check(&call(&server, Method::GET, "/one/", b"").await, 200, r#"["n"]"#);

    let deleted = server.api(Method::DELETE, "/projects/default/deployments/one").send().await.unwrap();
    assert!(deleted.status().is_success());
    server.deploy_guest("one", "keeper", json!({})).await;
    check(&call(&server, Method::GET, "/one/", b"").await, 200, "[]");
}

#[tokio::test]
async fn over_a_limit_is_an_error_that_names_it_and_the_next_request_works() {
    let server = Server::start_with(&[
        ("MAYFLY_HOST__KEYVALUE__KEYS_MAX", "3"),
        ("MAYFLY_HOST__KEYVALUE__BYTES_MAX", "2000"),
        ("MAYFLY_HOST__KEYVALUE__VALUE_BYTES_MAX", "1500"),
        ("MAYFLY_HOST__KEYVALUE__KEY_BYTES_MAX", "10"),
        ("MAYFLY_HOST__KEYVALUE__BATCH_KEYS_MAX", "5"),
    ]);
    server.deploy_guest("keeper", "keeper", json!({})).await;
    check(&call(&server, Method::PUT, "/keeper/a", &[b'x'; 1501]).await, 507, "keyvalue.value_bytes_max = 1500");
    check(&call(&server, Method::PUT, "/keeper/12345678901", b"").await, 507, "keyvalue.key_bytes_max = 10");
    check(&call(&server, Method::PUT, "/keeper/a", &[b'x'; 1500]).await, 204, "");
    check(&call(&server, Method::PUT, "/keeper/b", &[b'x'; 1500]).await, 507, "keyvalue.bytes_max = 2000 bytes");
    check(&call(&server, Method::POST, "/keeper/?fill=6", b"").await, 507, "keyvalue.batch_keys_max = 5");
    check(&call(&server, Method::POST, "/keeper/?fill=3", b"").await, 507, "keyvalue.keys_max = 3 keys");
    check(&call(&server, Method::GET, "/keeper/", b"").await, 200, r#"["a"]"#);
    check(&call(&server, Method::POST, "/keeper/b?add=7", b"").await, 200, "7");
}

#[tokio::test]
async fn a_guest_that_writes_without_end_ends_at_its_deadline_and_blocks_nobody() {
    let server = Server::start();
    server.deploy_guest("busy", "keeper", json!({ "limits": { "deadline_ms_max": 1500 } })).await;
    server.deploy_guest("calm", "keeper", json!({})).await;
    let spinning: Vec<_> =
        (0..4).map(|_| tokio::spawn(server.call(Method::POST, "/d/default/busy/?spin=1").send())).collect();
    server.eventually("they spin", async || server.get("/node").await["calls_open"].as_u64() == Some(4)).await;
    check(&call(&server, Method::POST, "/calm/n?add=1", b"").await, 200, "1");
    server.deploy_guest("another", "plain", json!({})).await;
    for call in spinning {
        let status = call.await.unwrap().unwrap().status();
        assert!(status.is_server_error(), "{status}");
    }
    check(&call(&server, Method::GET, "/busy/spin", b"").await, 200, "on and on");
}
