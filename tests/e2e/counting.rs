//! What is counted, on every way a call can end.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, WHOLE_ANSWERS, tiny_model};

async fn server() -> Server {
    server_with(&[WHOLE_ANSWERS]).await
}

/// Answers that are not over in a moment are streamed.
async fn streaming_server() -> Server {
    server_with(&[]).await
}

async fn server_with(settings: &[(&str, &str)]) -> Server {
    let server = Server::start_with(settings);
    server.add_model("encoder", &tiny_model("embedder"));
    server.deploy_guest("nn", "hostile", json!({ "models": { "encoder": "encoder" } })).await;
    server
}

fn plan(ids: &[i64], mask: &[i64]) -> Value {
    json!({ "model": "encoder", "inputs": [
        { "name": "input_ids", "ty": "i64", "dims": [1, ids.len()], "data": ids },
        { "name": "attention_mask", "ty": "i64", "dims": [1, mask.len()], "data": mask } ] })
}

/// Input tokens of one call, from its headers and from its record: they agree.
async fn tokens(server: &Server, plan: Value) -> i64 {
    let response = server.call(Method::POST, "/d/default/nn/nn").json(&plan).send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    // Absent where no tokens were counted.
    let header = response
        .headers()
        .get("x-mayfly-usage-input-tokens")
        .map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    let record = server.get(&format!("/requests/{id}")).await;
    assert_eq!(record["usage"]["input_tokens"].as_i64().unwrap_or(0), header, "{record}");
    assert_eq!((record["ended"].as_bool(), record["outcome"].as_str()), (Some(true), Some("completed")), "{record}");
    header
}

#[tokio::test]
async fn masks_save_nothing_but_real_padding() {
    let server = server().await;
    assert_eq!(tokens(&server, plan(&[1, 2, 3, 4], &[1, 1, 1, 1])).await, 4);
    assert_eq!(tokens(&server, plan(&[1, 2, 0, 0], &[1, 1, 0, 0])).await, 2, "padding at the end is free");
    assert_eq!(tokens(&server, plan(&[0, 0, 1, 2], &[0, 0, 1, 1])).await, 2, "and at the beginning");
    assert_eq!(tokens(&server, plan(&[1, 2, 3, 4], &[1, 0, 0, 0])).await, 4, "zeroed masks over real ids are not");
    assert_eq!(tokens(&server, plan(&[1, 0, 0, 4], &[1, 0, 0, 1])).await, 4, "nor are holes");
    assert_eq!(
        tokens(&server, plan(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])).await,
        3,
        "at least a quarter of what was submitted"
    );
}

#[tokio::test]
async fn refused_inputs_cost_nothing_and_usage_adds_up() {
    let server = server().await;
    assert_eq!(tokens(&server, plan(&[1, 2], &[1])).await, 0);
    for _ in 0..3 {
        tokens(&server, plan(&[1, 2, 3], &[1, 1, 1])).await;
    }
    let usage = server.get("/usage?group_by=deployment").await;
    let group = &usage["data"][0];
    assert_eq!((group["calls"].as_i64(), group["usage"]["input_tokens"].as_i64()), (Some(4), Some(9)), "{usage}");
    let printed = server.cli_json(&["usage", "--by", "deployment,day"]);
    assert_eq!(printed["data"][0]["usage"]["input_tokens"], 9);
}

#[tokio::test]
async fn a_caller_that_leaves_is_settled_as_having_left() {
    let server = streaming_server().await;
    let before = server.get("/usage?group_by=deployment").await;
    assert_eq!(before["data"], json!([]));
    let mut response = server.call(Method::GET, "/d/default/nn/stream?frames=1000&ms=20").send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(response.chunk().await.unwrap().is_some());
    drop(response);
    let path = format!("/requests/{id}");
    server
        .eventually("the call is settled", async || {
            let response = server.api(Method::GET, &path).send().await.unwrap();
            response.status() == 200 && response.json::<Value>().await.unwrap()["ended"] == true
        })
        .await;
    assert_eq!(server.get(&path).await["outcome"], "client_left");
    let node = server.get("/node").await;
    assert_eq!(node["instances"], 0, "its instance is gone: {node}");
}

#[tokio::test]
async fn usage_comes_in_trailers_when_the_head_was_too_early() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = streaming_server().await;
    let address = server.data.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /d/default/nn/stream?frames=3&ms=50 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nte: trailers\r\nconnection: close\r\n\r\n",
        server.key
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_lowercase().contains("x-mayfly-usage:"), "{head}");
    assert!(body.to_lowercase().contains("x-mayfly-usage:"), "{body}");
}
