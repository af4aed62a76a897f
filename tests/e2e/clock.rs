//! A wall clock that goes back an hour, in a run and between two: no call is lost, billed twice or let past a cap.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Server, header};

const HOUR: i64 = 3_600;

/// From now to the middle of an hour, in seconds: an hour back is then the hour before, however long the test takes.
fn to_the_middle_of_an_hour() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    HOUR / 2 - i64::try_from(now).unwrap() % HOUR
}

async fn rows(server: &Server, rows: u32) -> StatusCode {
    server.call(Method::POST, &format!("/d/default/meter/?rows={rows}")).send().await.unwrap().status()
}

#[tokio::test]
async fn a_clock_set_back_loses_and_doubles_nothing() {
    let (server, faults) = Server::start_with_faults(&[]);
    let later = to_the_middle_of_an_hour();
    let earlier = later - HOUR;
    faults.shift_clock(later);
    let mut server = server.metered().await;
    let price = json!({ "meter": "rows", "amount": "1", "per": 1, "from": "2020-01-01T00:00:00Z" });
    assert_eq!(server.api(Method::POST, "/prices").json(&price).send().await.unwrap().status(), 201);
    server.limit("/tenants/default", json!({ "spend": { "amount": "10", "per": "hour" } })).await;
    let (paid, refused) = (StatusCode::OK, StatusCode::PAYMENT_REQUIRED);

    // In mid-stream: the call ends as it would have, and belongs to the hour it opened in.
    let mut stream = server.call(Method::GET, "/d/default/meter/?frames=3&rows=1&ms=300").send().await.unwrap();
    let id = header(&stream, "x-request-id");
    assert!(stream.chunk().await.unwrap().is_some());
    faults.shift_clock(earlier);
    while stream.chunk().await.unwrap().is_some() {}
    let record = server.settled(&id).await;
    assert_eq!((&record["outcome"], &record["usage"]["rows"]), (&json!("completed"), &json!(3)), "{record}");
    assert!(record["duration_micros"].as_i64().is_some_and(|micros| micros >= 0), "{record}");

    // The hour before has its own cap, and each keeps what was spent in it, also over a kill in mid-call.
    assert_eq!([rows(&server, 6).await, rows(&server, 5).await, rows(&server, 3).await], [paid, refused, paid]);
    let once = async |server: &Server| {
        let request = server.call(Method::POST, "/d/default/meter/?rows=1").header("idempotency-key", "once");
        let response = request.send().await.unwrap();
        (response.status(), header(&response, "x-mayfly-replayed"))
    };
    faults.shift_clock(later);
    assert_eq!(once(&server).await, (paid, String::new()));
    assert_eq!([rows(&server, 7).await, rows(&server, 4).await, rows(&server, 7).await], [refused, paid, refused]);
    let mut cut = server.call(Method::GET, "/d/default/meter/?frames=1000&rows=1&ms=200").send().await.unwrap();
    let cut_id = header(&cut, "x-request-id");
    assert!(cut.chunk().await.unwrap().is_some());
    server.kill();
    faults.shift_clock(earlier);
    server.restart();
    let record = server.settled(&cut_id).await;
    assert_eq!(record["outcome"], "host_crash", "{record}");
    let cut_rows = record["usage"]["rows"].as_i64().unwrap();
    assert!((1..=2).contains(&cut_rows), "{record}");
    assert_eq!(once(&server).await, (paid, "true".to_owned()), "an answer from the future is still the answer");
    assert_eq!([rows(&server, 2).await, rows(&server, 1).await, rows(&server, 1).await], [refused, paid, refused]);

    faults.shift_clock(later);
    for _ in 8 + cut_rows..10 {
        assert_eq!(rows(&server, 1).await, paid);
    }
    assert_eq!(rows(&server, 1).await, refused);
    let usage = server.get("/usage?group_by=hour").await;
    let of_hours: Vec<&Value> = usage["data"].as_array().unwrap().iter().map(|group| &group["cost"]).collect();
    assert_eq!(of_hours, [&json!("10"), &json!("10")], "{usage}");
    let report = server.cli_json(&["ledger", "verify"]);
    assert_eq!((&report["ok"], &report["open"]), (&json!(true), &json!(0)), "{report}");
}
