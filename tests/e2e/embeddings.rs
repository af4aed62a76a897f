//! The built-in `embeddings` with the real all-MiniLM-L6-v2, against values computed by `transformers`.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, WHOLE_ANSWERS, real_model};

async fn server() -> Server {
    let server = Server::start_with(&[WHOLE_ANSWERS]);
    server.add_model("minilm", &real_model("minilm"));
    let (status, answer) = server
        .deploy("embed", json!({ "handler": { "builtin": "embeddings" }, "models": { "model": "minilm" } }))
        .await;
    assert!(status.is_success(), "{answer}");
    server
}

async fn embed(server: &Server, body: Value) -> (u16, Value) {
    let response = server.call(Method::POST, "/v1/embeddings").json(&body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    let data = answer["data"].as_array().unwrap_or_else(|| panic!("{answer}"));
    data.iter()
        .map(|item| item["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect())
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[tokio::test]
async fn values_and_usage_are_those_of_the_reference() {
    let server = server().await;
    let response = server
        .call(Method::POST, "/v1/embeddings")
        .json(&json!({ "model": "embed", "input": ["how do I reset my password", "I forgot my login", "the weather in Oslo"] }))
        .send()
        .await
        .unwrap();
    let headers = response.headers().clone();
    let answer: Value = response.json().await.unwrap();
    let all = vectors(&answer);
    assert_eq!(all[0].len(), 384);
    for (got, want) in all[0].iter().zip([0.0077, -0.0523, -0.0624, -0.0331]) {
        assert!((got - want).abs() < 1e-4, "{got} is not {want}");
    }
    assert!((dot(&all[0], &all[1]) - 0.6173).abs() < 1e-3);
    assert!((dot(&all[0], &all[2]) - 0.0313).abs() < 1e-3);
    // 8 + 7 + 6 tokens with the special ones: the handler's word and the host's count agree, padding is free.
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 21, "total_tokens": 21 }));
    assert_eq!(headers["x-mayfly-usage-input-tokens"], "21");
    assert_eq!(headers["x-mayfly-cold"], "model");
    assert!(headers["server-timing"].to_str().unwrap().contains("model;dur="));
    let id = headers["x-request-id"].to_str().unwrap();
    assert_eq!(server.get(&format!("/requests/{id}")).await["usage"]["input_tokens"], 21);
}

#[tokio::test]
async fn all_forms_of_input_and_output() {
    let server = server().await;
    let (_, text) = embed(&server, json!({ "model": "embed", "input": "how do I reset my password" })).await;
    let reference = vectors(&text).remove(0);
    let ids = json!([101, 2129, 2079, 1045, 25141, 2026, 20786, 102]);
    for input in [ids.clone(), json!([ids]), json!(["how do I reset my password"])] {
        let (status, answer) = embed(&server, json!({ "model": "embed", "input": input })).await;
        assert_eq!(status, 200, "{answer}");
        assert!(dot(&vectors(&answer)[0], &reference) > 0.9999, "{input}");
    }
    let (_, packed) =
        embed(&server, json!({ "model": "embed", "input": "how do I reset my password", "encoding_format": "base64" }))
            .await;
    use base64::Engine as _;
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(packed["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let unpacked: Vec<f64> =
        bytes.chunks_exact(4).map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap()))).collect();
    assert!(dot(&unpacked, &reference) > 0.9999);
    let (_, short) =
        embed(&server, json!({ "model": "embed", "input": "how do I reset my password", "dimensions": 64 })).await;
    let short = &vectors(&short)[0];
    assert_eq!(short.len(), 64);
    assert!((dot(short, short) - 1.0).abs() < 1e-5, "cut vectors have length one again");
}

#[tokio::test]
async fn callers_mistakes_are_400_in_openais_envelope() {
    let server = server().await;
    for body in [
        json!({ "model": "embed" }),
        json!({ "model": "embed", "input": [] }),
        json!({ "model": "embed", "input": "" }),
        json!({ "model": "embed", "input": 7 }),
        json!({ "model": "embed", "input": [999_999] }),
        json!({ "model": "embed", "input": "x", "dimensions": 385 }),
        json!({ "model": "embed", "input": "x", "encoding_format": "hex" }),
        json!({ "model": "embed", "input": "word ".repeat(300) }),
    ] {
        let (status, answer) = embed(&server, body.clone()).await;
        assert_eq!(status, 400, "{}: {answer}", &body.to_string()[..60.min(body.to_string().len())]);
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    let (status, answer) = embed(&server, json!({ "model": "nobody", "input": "x" })).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (404, Some("deployment_not_found")), "{answer}");
    let (status, _) = embed(&server, json!({ "model": "embed", "input": "still works" })).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn models_are_listed_as_openai_lists_them() {
    let server = server().await;
    let response = server.call(Method::GET, "/v1/models").send().await.unwrap();
    let list: Value = response.json().await.unwrap();
    assert_eq!((list["object"].as_str(), list["data"][0]["id"].as_str()), (Some("list"), Some("embed")), "{list}");
}

#[tokio::test]
async fn many_callers_share_one_session() {
    let server = server().await;
    let calls = (0..24).map(|n| embed(&server, json!({ "model": "embed", "input": format!("sentence number {n}") })));
    for (status, answer) in futures::future::join_all(calls).await {
        assert_eq!(status, 200, "{answer}");
    }
    let node = server.get("/node").await;
    assert_eq!(node["models_loaded"], 1, "single flight: {node}");
}
