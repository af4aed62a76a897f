//! What a caller asks of its call by headers: the most it may cost, its price alone, who its user is.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, WHOLE_ANSWERS, header, refused};

const METER: &str = "/d/default/meter/?rows=3";

async fn priced() -> Server {
    let server = Server::start_metered(&[WHOLE_ANSWERS]).await;
    server.price("rows", "0.5");
    server
}

#[tokio::test]
async fn a_call_holds_no_more_than_its_caller_allows() {
    let server = priced().await;
    let call =
        async |max: &str| server.call(Method::POST, METER).header("x-mayfly-max-cost", max).send().await.unwrap();
    let refusal = call("1.499999999999").await;
    assert_eq!(header(&refusal, "x-should-retry"), "false");
    assert_eq!(header(&refusal, "x-mayfly-cost"), "0");
    let (status, code, message) = refused(refusal).await;
    assert_eq!((status, code.as_str()), (402, "insufficient_quota"), "{message}");
    let done = call("1.5").await;
    assert_eq!(done.status(), 200);
    assert_eq!((header(&done, "x-mayfly-cost"), header(&done, "x-mayfly-currency")), ("1.5".into(), "USD".into()));
    for bad in ["-1", "NaN", "1e3", "lots", "", "0.0000000000001", "99999999999999999999999999999999999999999"] {
        let (status, _, message) = refused(call(bad).await).await;
        assert_eq!(status, 400, "{bad}");
        assert!(message.contains("x-mayfly-max-cost"), "{message}");
    }
    // Of both the tighter one counts.
    server.limit("/tenants/default", json!({ "request_cost_max": "1" })).await;
    assert_eq!(call("100").await.status(), 402);
}

#[tokio::test]
async fn a_dry_run_prices_and_charges_nothing() {
    let server = priced().await;
    let dry = async |path: &str| -> Value {
        let response = server.call(Method::POST, path).header("x-mayfly-dry-run", "1").send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    };
    let told = dry(METER).await;
    assert_eq!((&told["dry_run"], &told["cost"], &told["currency"]), (&json!(true), &json!("1.5"), &json!("USD")));
    assert_eq!(told["lines"], json!([{ "meter": "rows", "model": "rows", "quantity": 3, "cost": "1.5" }]));
    assert_eq!((&told["admitted"], &told["refusal"]), (&json!(true), &Value::Null));
    server.limit("/tenants/default", json!({ "spend": { "amount": "2", "per": "day" } })).await;
    let told = dry("/d/default/meter/?rows=5").await;
    assert_eq!(told["admitted"], false, "{told}");
    assert!(told["refusal"].as_str().unwrap().contains("spend = 2 per day"), "{told}");
    for _ in 0..5 {
        dry(METER).await;
    }
    let usage = server.get("/usage").await;
    assert_eq!(usage["total"]["calls"], 0, "{usage}");
    assert_eq!(server.call(Method::POST, METER).send().await.unwrap().status(), 200, "they took nothing of the cap");

    server.deploy_guest("hostile", "hostile", json!({})).await;
    let told = dry("/d/default/hostile/echo").await;
    assert_eq!((&told["lines"], &told["cost"]), (&json!([]), &json!("0")), "no work on a model");
    let bad = server.call(Method::POST, METER).header("x-mayfly-dry-run", "maybe").send().await.unwrap();
    assert_eq!(bad.status(), 400);
}

#[tokio::test]
async fn end_users_are_told_apart_in_usage_and_not_to_the_handler() {
    let server = priced().await;
    server.deploy_guest("hostile", "hostile", json!({})).await;
    let call = async |user: &str| {
        let response = server.call(Method::POST, METER).header("x-mayfly-end-user", user).send().await.unwrap();
        header(&response, "x-request-id")
    };
    let id = call("ada@example.com").await;
    call("ada@example.com").await;
    call("bob").await;
    server.call(Method::POST, METER).send().await.unwrap();
    assert_eq!(server.get(&format!("/requests/{id}")).await["end_user"], "ada@example.com");
    let usage = server.get("/usage?group_by=end_user").await;
    let mut rows: Vec<_> = usage["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| (group["group"]["end_user"].as_str().unwrap_or("").to_owned(), group["usage"]["rows"].clone()))
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(rows, [(String::new(), json!(3)), ("ada@example.com".into(), json!(6)), ("bob".into(), json!(3))]);
    assert_eq!(server.get("/usage?end_user=bob").await["total"]["cost"], "1.5");

    let echo = server.call(Method::GET, "/d/default/hostile/echo").header("x-mayfly-end-user", "ada").send().await;
    let seen = echo.unwrap().text().await.unwrap();
    assert!(!seen.contains("ada") && !seen.contains("end-user"), "{seen}");
    let bad = server.call(Method::POST, METER).header("x-mayfly-end-user", "two words").send().await.unwrap();
    assert_eq!(bad.status(), 400);
}
