//! Down to zero and back: each tier on its own clock, and visible.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Server, tiny_model};

#[tokio::test]
async fn code_and_model_go_when_idle_and_come_back() {
    let server = Server::start_with(&[
        ("MAYFLY_HOST__CODE_IDLE_MS", "1500"),
        ("MAYFLY_INFERENCE__SESSION_IDLE_MS", "300"),
        ("MAYFLY_INFERENCE__SESSION_STAY_MS_MIN", "0"),
    ]);
    server.add_model("rows", &tiny_model("rows.onnx"));
    server.deploy_guest("nn", "hostile", json!({ "models": { "rows": "rows" } })).await;
    let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 0 }] });
    let cold = async || {
        let response = server.call(Method::POST, "/d/default/nn/nn").json(&plan).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.headers()["x-mayfly-cold"].to_str().unwrap().to_owned()
    };
    let status = async || server.get("/projects/default/deployments/nn").await["status"].clone();

    assert_eq!(cold().await, "model", "the first call loads the model");
    assert_eq!(cold().await, "instance", "the second has only its fresh instance to make");
    assert_eq!(status().await["tier"], "model");
    server.eventually("the model is dropped first", async || status().await["models"][0]["loaded"] == false).await;
    server.eventually("then the code", async || status().await["tier"] == "zero").await;
    let metrics = server.http.get(format!("{}/metrics", server.admin)).bearer_auth(&server.key).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("mayfly_models_loaded 0") && metrics.contains("mayfly_code_mapped 0"), "{metrics}");
    assert_eq!(cold().await, "model", "and it wakes again");
}

#[tokio::test]
async fn a_deployment_without_a_model_is_cold_in_its_code_only() {
    let server = Server::start();
    server.deploy_guest("echo", "hostile", json!({})).await;
    let cold = async || {
        let response = server.call(Method::GET, "/d/default/echo/echo").send().await.unwrap();
        response.headers()["x-mayfly-cold"].to_str().unwrap().to_owned()
    };
    assert_eq!(cold().await, "code");
    assert_eq!(cold().await, "instance");
}
