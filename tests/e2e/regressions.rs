//! Bugs that hosted gateways had, one test for each by its name.
//!
//! Cached tokens that are counted twice: `cached_tokens_are_not_counted_twice` of the ledger.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Server, header};

/// Bytes of one frame of the guest `meter`; before each it does one run.
const FRAME_BYTES: usize = 64;

#[tokio::test]
async fn stream_is_not_billed_zero() {
    let server = Server::start_metered(&[]).await;
    server.price("rows", "0.25");
    let response = server.call(Method::GET, "/d/default/meter/?frames=10&rows=2&ms=10").send().await.unwrap();
    let id = header(&response, "x-request-id");
    assert_eq!(response.bytes().await.unwrap().len(), 10 * FRAME_BYTES);
    let record = server.get(&format!("/requests/{id}")).await;
    assert_eq!(
        (&record["ended"], &record["outcome"], &record["usage"]["rows"], &record["cost"]),
        (&json!(true), &json!("completed"), &json!(20), &json!("5")),
        "settled before the stream ended: {record}"
    );
    assert_eq!(server.get("/usage").await["total"]["cost"], "5");
}

#[tokio::test]
async fn usage_is_not_lost_on_disconnect() {
    const FRAMES: usize = 400;
    let server = Server::start_metered(&[]).await;
    server.price("rows", "1");
    let path = format!("/d/default/meter/?frames={FRAMES}&rows=1&ms=20");
    let mut response = server.call(Method::GET, &path).send().await.unwrap();
    let id = header(&response, "x-request-id");
    let mut bytes = 0;
    while bytes < 5 * FRAME_BYTES {
        bytes += response.chunk().await.unwrap().unwrap().len();
    }
    drop(response);
    let record = server.settled(&id).await;
    let billed = usize::try_from(record["usage"]["rows"].as_u64().unwrap()).unwrap();
    assert_eq!(record["outcome"], "client_left");
    assert!(billed >= bytes / FRAME_BYTES, "{bytes} bytes were read: {record}");
    assert!(billed < FRAMES / 2, "work stops when the caller has left: {record}");
    assert_eq!(server.get("/usage").await["total"]["cost"], billed.to_string());
}

#[tokio::test]
async fn counters_are_not_lost_on_restart() {
    let mut server = Server::start_metered(&[]).await;
    server.price("rows", "1");
    server.limit("/tenants/default", json!({ "spend": { "amount": "6", "per": "month" } })).await;
    let call = async |server: &Server| {
        server.call(Method::POST, "/d/default/meter/?rows=3").send().await.unwrap().status().as_u16()
    };
    assert_eq!([call(&server).await, call(&server).await, call(&server).await], [200, 200, 402]);
    let before = server.get("/usage").await;
    server.kill();
    server.restart();
    assert_eq!(call(&server).await, 402, "the cap was reached before the kill");
    let after = server.get("/usage").await;
    assert_eq!((&before["total"]["cost"], &after["total"]["cost"]), (&json!("6"), &json!("6")));
    server.limit("/tenants/default", json!({ "spend": { "amount": "9", "per": "month" } })).await;
    assert_eq!([call(&server).await, call(&server).await], [200, 402]);
}

#[tokio::test]
async fn budget_cannot_be_raced() {
    const CALLERS: u64 = 64;
    const CAP: u64 = 300;
    let server = Server::start_metered(&[]).await;
    server.price("rows", "1");
    server.limit("/tenants/default", json!({ "spend": { "amount": CAP.to_string(), "per": "month" } })).await;
    let callers = (0..CALLERS).map(|caller| {
        let (http, key, data) = (server.http.clone(), server.key.clone(), server.data.clone());
        tokio::spawn(async move {
            let (mut rows, mut used) = (1 + caller % 4, 0);
            loop {
                let url = format!("{data}/d/default/meter/?rows={rows}");
                let response = http.post(url).bearer_auth(&key).send().await.unwrap();
                let status = response.status();
                let text = response.text().await.unwrap();
                match status {
                    StatusCode::OK => used += rows,
                    // The node is full, not the budget.
                    StatusCode::SERVICE_UNAVAILABLE => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                    StatusCode::PAYMENT_REQUIRED if rows > 1 => rows = 1,
                    StatusCode::PAYMENT_REQUIRED => return used,
                    other => panic!("{other} {text}"),
                }
            }
        })
    });
    let mut used = 0;
    for caller in futures::future::join_all(callers).await {
        used += caller.unwrap();
    }
    let usage = server.get("/usage").await;
    assert_eq!(usage["total"]["cost"], used.to_string(), "what callers counted is what was billed: {usage}");
    assert_eq!(used, CAP, "all of it, and an overspend of exactly 0");
    assert_eq!(server.cli_json(&["ledger", "verify"])["ok"], true);
}
