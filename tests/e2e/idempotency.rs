//! `Idempotency-Key`: the same request runs and is billed once, whoever asks again, also after a kill.

use reqwest::{Method, Response};
use serde_json::json;

use crate::harness::{Server, WHOLE_ANSWERS, guest, header, refused};

const METER: &str = "/d/default/meter/?rows=3";

async fn priced() -> Server {
    priced_with(&[]).await
}

async fn priced_with(settings: &[(&str, &str)]) -> Server {
    let server = Server::start_metered(settings).await;
    server.price("rows", "1");
    server
}

/// `POST`s `body` to the meter, with the key `once`.
async fn post(server: &Server, secret: &str, path: &str, body: &'static str) -> Response {
    server.call_with(secret, Method::POST, path).header("idempotency-key", "once").body(body).send().await.unwrap()
}

async fn check_billed(server: &Server, rows: i64) {
    let usage = server.get("/usage").await;
    assert_eq!(usage["total"]["usage"]["rows"].as_i64().unwrap_or(0), rows, "{usage}");
    assert_eq!(usage["total"]["cost"].as_str().unwrap_or("0"), rows.to_string(), "{usage}");
}

#[tokio::test]
async fn the_same_request_is_answered_again_and_billed_once() {
    let server = priced_with(&[WHOLE_ANSWERS]).await;
    let key = server.key.clone();
    let first = post(&server, &key, METER, "body").await;
    assert_eq!((first.status().as_u16(), header(&first, "x-mayfly-replayed")), (200, String::new()));
    assert_eq!(header(&first, "x-mayfly-cost"), "3");
    let (id, kind, text) =
        (header(&first, "x-request-id"), header(&first, "content-type"), first.text().await.unwrap());
    for _ in 0..3 {
        let again = post(&server, &key, METER, "body").await;
        assert_eq!((again.status().as_u16(), header(&again, "x-mayfly-replayed").as_str()), (200, "true"));
        assert_eq!((header(&again, "content-type"), header(&again, "x-mayfly-cost")), (kind.clone(), "0".into()));
        let replay = header(&again, "x-request-id");
        assert_ne!(replay, id, "a row of its own");
        assert_eq!(again.text().await.unwrap(), text);
        let record = server.get(&format!("/requests/{replay}")).await;
        assert_eq!((&record["outcome"], &record["cost"]), (&json!("replayed"), &json!("0")), "{record}");
    }
    check_billed(&server, 3).await;

    let other = post(&server, &key, METER, "another body").await;
    assert_eq!(header(&other, "x-should-retry"), "false");
    let (status, code, _) = refused(other).await;
    assert_eq!((status, code.as_str()), (422, "idempotency_mismatch"));
    check_billed(&server, 3).await;

    // Another path is another request.
    let elsewhere = post(&server, &key, "/d/default/meter/?rows=2", "body").await;
    assert_eq!(header(&elsewhere, "x-mayfly-replayed"), "");
    check_billed(&server, 5).await;
    // So is one for another end user.
    let request = server.call(Method::POST, METER).header("idempotency-key", "once");
    let theirs = request.header("x-mayfly-end-user", "ada").body("body").send().await.unwrap();
    assert_eq!(header(&theirs, "x-mayfly-replayed"), "");
    check_billed(&server, 8).await;
    let long = "x".repeat(256);
    for bad in ["", "two words", long.as_str()] {
        let response = server.call(Method::POST, METER).header("idempotency-key", bad).send().await.unwrap();
        assert_eq!(response.status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn another_tenants_key_never_gets_the_answer() {
    let server = priced().await;
    let (_, ours) = server.call_key(json!({})).await;
    let (_, sibling) = server.call_key(json!({})).await;
    server.cli_json(&["tenants", "create", "rival"]);
    server.cli_json(&["projects", "create", "rival", "--tenant", "rival"]);
    let (_, theirs) = server.call_key(json!({ "project": "rival" })).await;
    assert_eq!(post(&server, &ours, METER, "body").await.status(), 200);
    // A key of the same tenant, and the operator's, run their own call.
    for secret in [&sibling, &server.key] {
        let response = post(&server, secret, METER, "body").await;
        assert_eq!((response.status().as_u16(), header(&response, "x-mayfly-replayed")), (200, String::new()));
    }
    let response = post(&server, &theirs, METER, "body").await;
    assert_eq!(response.status(), 404, "and a stranger sees nothing of it");
    check_billed(&server, 9).await;
    // The stranger's own deployment of the same name runs its own.
    let (project, path) = ("rival", "/projects/rival");
    let stored = server.api(Method::PUT, &format!("{path}/artifacts")).body(guest("meter")).send().await.unwrap();
    let stored: serde_json::Value = stored.json().await.unwrap();
    let spec = json!({ "handler": { "digest": stored["digest"] }, "models": { "rows": "rows" } });
    let deployed = server.api(Method::POST, &format!("{path}/deployments/meter")).json(&spec).send().await.unwrap();
    assert!(deployed.status().is_success());
    let own = format!("/d/{project}/meter/?rows=3");
    let response = post(&server, &theirs, &own, "body").await;
    assert_eq!((response.status().as_u16(), header(&response, "x-mayfly-replayed")), (200, String::new()));
    check_billed(&server, 12).await;
}

#[tokio::test]
async fn while_the_first_runs_the_second_waits_outside() {
    let server = priced().await;
    let path = "/d/default/meter/?frames=1000&rows=1&ms=20";
    let get = async || server.call(Method::GET, path).header("idempotency-key", "stream").send().await.unwrap();
    let mut first = get().await;
    let id = header(&first, "x-request-id");
    assert!(first.chunk().await.unwrap().is_some());
    let second = get().await;
    assert_eq!(header(&second, "x-should-retry"), "");
    assert_ne!(header(&second, "retry-after"), "");
    let (status, code, _) = refused(second).await;
    assert_eq!((status, code.as_str()), (409, "idempotency_in_progress"));
    drop(first);
    let record = server.settled(&id).await;
    let rows = record["usage"]["rows"].as_i64().unwrap();
    // It was cut off and is owed: a second run would be billed twice.
    let (status, code, message) = refused(get().await).await;
    assert_eq!((status, code.as_str()), (409, "idempotency_not_kept"), "{message}");
    assert!(message.contains(&id), "{message}");
    check_billed(&server, rows).await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_kept_and_not_run_again() {
    let server = Server::start_metered(&[("MAYFLY_CALLS__IDEMPOTENT_ANSWER_BYTES_MAX", "1000")]).await;
    server.price("rows", "1");
    let get = async |frames: u32| {
        let path = format!("/d/default/meter/?frames={frames}&rows=1&ms=1");
        server.call(Method::GET, &path).header("idempotency-key", "once").send().await.unwrap()
    };
    let first = get(30).await;
    let id = header(&first, "x-request-id");
    assert_eq!(first.bytes().await.unwrap().len(), 30 * 64);
    let again = get(30).await;
    assert_eq!(header(&again, "x-should-retry"), "false");
    let (status, code, message) = refused(again).await;
    assert_eq!((status, code.as_str()), (409, "idempotency_not_kept"));
    assert!(message.contains(&id), "{message}");
    check_billed(&server, 30).await;
    // A stream that fits is kept as it was.
    let text = get(10).await.text().await.unwrap();
    let again = get(10).await;
    assert_eq!(header(&again, "x-mayfly-replayed"), "true");
    assert_eq!(again.text().await.unwrap(), text);
    check_billed(&server, 40).await;
    // Bodies are read whole before the call begins: their length is bounded, too.
    assert_eq!(announced(&server, 4 * 1024 * 1024 + 1).await, "HTTP/1.1 413 Payload Too Large");
    check_billed(&server, 40).await;
}

/// The first line of the answer to a request that says how long its body is and sends none of it.
async fn announced(server: &Server, bytes: usize) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(server.data.strip_prefix("http://").unwrap()).await.unwrap();
    let request = format!(
        "POST {METER} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nidempotency-key: big\r\n\
         content-length: {bytes}\r\nconnection: close\r\n\r\n",
        server.key
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_answer_survives_a_kill_and_is_billed_once() {
    let mut server = priced().await;
    let key = server.key.clone();
    let text = post(&server, &key, METER, "body").await.text().await.unwrap();
    server.kill();
    server.restart();
    let again = post(&server, &key, METER, "body").await;
    assert_eq!((again.status().as_u16(), header(&again, "x-mayfly-replayed").as_str()), (200, "true"));
    assert_eq!(again.text().await.unwrap(), text);
    assert_eq!(post(&server, &key, METER, "other").await.status(), 422);
    check_billed(&server, 3).await;
    assert_eq!(server.cli_json(&["ledger", "verify"])["ok"], true);
}

#[tokio::test]
async fn what_was_paid_for_can_be_had_again_without_money() {
    let server = priced().await;
    let key = server.key.clone();
    server.limit("/tenants/default", json!({ "spend": { "amount": "3", "per": "month" } })).await;
    assert_eq!(post(&server, &key, METER, "body").await.status(), 200);
    assert_eq!(post(&server, &key, "/d/default/meter/?rows=1", "body").await.status(), 402);
    assert_eq!(header(&post(&server, &key, METER, "body").await, "x-mayfly-replayed"), "true");
    // What was refused at the door was not done: it runs once there is money.
    server.limit("/tenants/default", json!({})).await;
    assert_eq!(post(&server, &key, "/d/default/meter/?rows=1", "body").await.status(), 200);
    check_billed(&server, 4).await;
}
