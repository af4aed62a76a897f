//! `scale.min_warm`: models that stay loaded though nobody calls, from the manifest to the answer's head.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Server, root, tiny_model};

/// Everything that nobody uses goes at once; 64 MiB may be kept.
const IMPATIENT: [(&str, &str); 5] = [
    ("MAYFLY_HOST__CODE_IDLE_MS", "300"),
    ("MAYFLY_INFERENCE__SESSION_IDLE_MS", "200"),
    ("MAYFLY_INFERENCE__SESSION_STAY_MS_MIN", "0"),
    ("MAYFLY_INFERENCE__PINNED_BYTES_MAX", "67108864"),
    ("MAYFLY_INFERENCE__GENERATION_KV_BYTES_MAX", "33554432"),
];

async fn status(server: &Server, name: &str) -> Value {
    server.get(&format!("/projects/default/deployments/{name}")).await["status"].clone()
}

/// Whether the first model is loaded, and whether it is kept.
async fn model(server: &Server, name: &str) -> (bool, bool) {
    let model = &status(server, name).await["models"][0];
    (model["loaded"].as_bool().unwrap(), model["kept"].as_bool().unwrap())
}

/// How cold a run is.
async fn cold(server: &Server, name: &str) -> String {
    let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 0 }] });
    let response = server.call(Method::POST, &format!("/d/default/{name}/nn")).json(&plan).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.headers()["x-mayfly-cold"].to_str().unwrap().to_owned()
}

async fn pinned_bytes(server: &Server) -> u64 {
    let metrics = server.http.get(format!("{}/metrics", server.admin)).bearer_auth(&server.key).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("mayfly_model_pinned_bytes{device=\"cpu\"}")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_model_is_loaded_before_the_first_call_and_stays_while_the_active_revision_asks_for_it() {
    let mut server = Server::start_with(&IMPATIENT);
    server.add_model("rows", &tiny_model("rows.onnx"));
    let models = json!({ "rows": "rows" });
    server.deploy_guest("nn", "hostile", json!({ "models": models })).await;
    assert_eq!(model(&server, "nn").await, (false, false), "not unless it is asked for");
    server.deploy_guest("nn", "hostile", json!({ "models": models, "scale": { "min_warm": 1 } })).await;
    server.eventually("it is loaded", async || model(&server, "nn").await == (true, true)).await;
    assert_eq!(cold(&server, "nn").await, "instance", "the first call finds it");
    // Three times as long as anything else stays.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(status(&server, "nn").await["tier"], "model");
    assert_eq!(status(&server, "nn").await["code_mapped"], true);
    assert_eq!(cold(&server, "nn").await, "instance");
    assert!(pinned_bytes(&server).await > 0);
    let shown = String::from_utf8(server.cli(&["show", "nn"]).stdout).unwrap();
    assert!(shown.contains("model      rows loaded, kept loaded\n"), "{shown}");
    assert!(shown.contains("scale      min_warm = 1\n"), "{shown}");
    let audit = server.get("/audit?limit=5").await;
    let deployed = audit["data"].as_array().unwrap().iter().find(|row| row["action"] == "deployment.deploy").unwrap();
    assert_eq!(deployed["details"]["scale"]["min_warm"], 1, "{deployed}");

    server.restart();
    server.eventually("it is loaded again", async || model(&server, "nn").await == (true, true)).await;
    assert_eq!(cold(&server, "nn").await, "instance");

    assert!(server.cli(&["rollback", "nn"]).status.success());
    server.eventually("the older one asks for nothing", async || model(&server, "nn").await == (false, false)).await;
    assert!(server.cli(&["rollback", "nn", "--to", "2"]).status.success());
    server.eventually("the newer one does", async || model(&server, "nn").await == (true, true)).await;
    assert!(server.cli(&["delete", "nn"]).status.success());
    server.eventually("it goes with the deployment", async || pinned_bytes(&server).await == 0).await;
    server.eventually("and is unloaded", async || server.get("/node").await["models_loaded"] == 0).await;
}

#[tokio::test]
async fn what_generates_has_its_engine_from_the_start() {
    let mut server = Server::start_with(&IMPATIENT);
    server.add_model("tiny", &root().join("examples/models/tiny-chat-genai"));
    let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" }, "scale": { "min_warm": 1 } });
    let (status, answer) = server.deploy("chat", spec).await;
    assert!(status.is_success(), "{answer}");
    let engines = async |server: &Server| {
        let metrics =
            server.http.get(format!("{}/metrics", server.admin)).bearer_auth(&server.key).send().await.unwrap();
        metrics.text().await.unwrap().matches("mayfly_generation_slots{").count()
    };
    for _ in 0..2 {
        server.eventually("its engine is there", async || model(&server, "chat").await == (true, true)).await;
        assert_eq!(engines(&server).await, 1, "an engine, and not the session that it does not use");
        assert!(pinned_bytes(&server).await > 8 << 20, "its attention state counts at its bound");
        let ask = json!({ "model": "chat", "messages": [{ "role": "user", "content": "capital of France?" }] });
        let answer = server.call(Method::POST, "/v1/chat/completions").json(&ask).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-mayfly-cold"], "instance");
        server.restart();
    }
}

#[tokio::test]
async fn the_operator_bounds_it_and_the_refusal_says_how() {
    let server = Server::start();
    server.add_model("rows", &tiny_model("rows.onnx"));
    let spec = |warm| json!({ "handler": { "builtin": "embeddings" }, "models": { "model": "rows" }, "scale": { "min_warm": warm } });
    let (status, answer) = server.deploy("nn", spec(1)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("scale.min_warm") && detail.contains("inference.pinned_bytes_max = 0"), "{detail}");
    assert!(server.deploy("nn", spec(0)).await.0.is_success());
    let (status, answer) = server.deploy("nn", spec(2)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("scale.min_warm"), "{answer}");

    let server = Server::start_with(&[("MAYFLY_INFERENCE__PINNED_BYTES_MAX", "1048576")]);
    server.add_model("rows", &tiny_model("rows.onnx"));
    server.add_model("decoder", &tiny_model("decoder_genai"));
    assert!(server.deploy("small", spec(1)).await.0.is_success());
    let chat =
        json!({ "handler": { "builtin": "chat" }, "models": { "model": "decoder" }, "scale": { "min_warm": 1 } });
    let (status, answer) = server.deploy("chat", chat).await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("inference.pinned_bytes_max") && detail.contains("1 MiB"), "{detail}");
    assert!(server.api(Method::GET, "/projects/default/deployments/chat").send().await.unwrap().status() == 404);
}

#[tokio::test]
async fn whether_a_model_fits_is_said_before_anybody_waits() {
    // Of 12 MiB half is for attention state: the session of this model fits, and its engine does not.
    let server = Server::start_with(&[("MAYFLY_INFERENCE__RESIDENT_BYTES_MAX", "12582912")]);
    server.add_model("rows", &tiny_model("rows.onnx"));
    server.add_model("tiny", &root().join("examples/models/tiny-chat-genai"));
    let memory = async |name: &str| server.get(&format!("/projects/default/models/{name}")).await["memory"].clone();
    let rows = memory("rows").await;
    assert_eq!((rows[0]["device"].as_str(), rows[0]["fit"].as_str()), (Some("cpu"), Some("fits")), "{rows}");
    assert_eq!(rows[0]["budget_bytes"], 12_582_912);
    assert!(rows[0]["bytes"].as_u64().is_some_and(|bytes| bytes >= 1 << 19), "{rows}");
    assert_eq!(memory("tiny").await[0]["fit"], "never_fits", "with its engine");
    let shown = String::from_utf8(server.cli(&["models", "show", "tiny"]).stdout).unwrap();
    assert!(shown.contains("on cpu     never fits: takes ") && shown.contains("of 12.0 MiB for all models"), "{shown}");

    let chat = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" } });
    let (status, answer) = server.deploy("chat", chat).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    let detail = answer["detail"].as_str().unwrap();
    for part in ["model `tiny`", "12 MiB", "inference.resident_bytes_max"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    // A handler that only runs the graph has no engine to fit.
    server.deploy_guest("runs", "hostile", json!({ "models": { "tiny": "tiny" } })).await;

    let checks = server.cli_json(&["doctor"]);
    let check = checks.as_array().unwrap().iter().find(|check| check["name"] == "model memory").unwrap();
    assert!(check["found"].as_str().unwrap().contains(" MiB on the CPU, 60 % of "), "{check}");
}
