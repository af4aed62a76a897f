//! `mayfly models pin`: models that the operator keeps loaded, whoever calls them.

use std::process::Command;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{BINARY, Server, root, tiny_model};
use crate::isolate::Tenant;

/// Everything that nobody uses goes at once; 64 MiB may be kept.
const IMPATIENT: [(&str, &str); 4] = [
    ("MAYFLY_INFERENCE__SESSION_IDLE_MS", "200"),
    ("MAYFLY_INFERENCE__SESSION_STAY_MS_MIN", "0"),
    ("MAYFLY_INFERENCE__PINNED_BYTES_MAX", "67108864"),
    ("MAYFLY_INFERENCE__GENERATION_KV_BYTES_MAX", "33554432"),
];

/// The one pin of a model of the host's, if it has one.
async fn pin(server: &Server, name: &str) -> Option<Value> {
    let pins = server.get(&format!("/models/{name}")).await["pins"].clone();
    let pins = pins.as_array().cloned().unwrap_or_default();
    assert!(pins.len() < 2, "{pins:?}");
    pins.into_iter().next()
}

async fn is_loaded(server: &Server, name: &str) -> bool {
    pin(server, name).await.is_some_and(|pin| pin["loaded"] == true)
}

async fn put(server: &Server, key: &str, path: &str) -> (StatusCode, Value) {
    let url = format!("{}/api/v1{path}", server.admin);
    let response = server.http.put(url).bearer_auth(key).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// How cold a run of `rows` is.
async fn cold(server: &Server) -> String {
    let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 0 }] });
    let response = server.call(Method::POST, "/d/default/nn/nn").json(&plan).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.headers()["x-mayfly-cold"].to_str().unwrap().to_owned()
}

async fn pinned_bytes(server: &Server) -> u64 {
    let metrics = server.http.get(format!("{}/metrics", server.admin)).bearer_auth(&server.key).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("mayfly_model_pinned_bytes{device=\"cpu\"}")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn printed(server: &Server, args: &[&str]) -> String {
    let output = server.cli(args);
    assert!(output.status.success(), "mayfly {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `mayfly doctor` finds of pins in the server's folder.
fn examined(server: &Server, pinned_bytes_max: &str) -> Value {
    let output = Command::new(BINARY)
        .args(["doctor", "--json"])
        .env("MAYFLY_SERVER__DATA_DIR", server.data_folder())
        .env("MAYFLY_INFERENCE__PINNED_BYTES_MAX", pinned_bytes_max)
        .output()
        .unwrap();
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    checks.as_array().unwrap().iter().find(|check| check["name"] == "pinned models").unwrap().clone()
}

#[tokio::test]
async fn a_pinned_model_is_loaded_without_a_caller_stays_through_a_restart_and_goes_once_it_is_unpinned() {
    let mut server = Server::start_with(&IMPATIENT);
    server.add_model("rows", &tiny_model("rows.onnx"));
    server.deploy_guest("nn", "hostile", json!({ "models": { "rows": "rows" } })).await;
    assert_eq!(cold(&server).await, "model", "not unless it is asked for");
    assert_eq!(examined(&server, "1")["found"], "none");
    let said = printed(&server, &["models", "pin", "rows"]);
    assert!(said.starts_with("rows stays loaded on cpu from now on; "), "{said}");
    server.eventually("it is loaded", async || is_loaded(&server, "rows").await).await;
    // Several times as long as anything else stays.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_ne!(cold(&server).await, "model");

    let key = &server.key[..8];
    let shown = printed(&server, &["models", "show", "rows"]);
    let line = shown.lines().find(|line| line.starts_with("pinned ")).unwrap();
    assert!(line.starts_with(&format!("pinned     on cpu by {key}")) && line.ends_with("; loaded"), "{line}");
    let listed = printed(&server, &["models", "list"]);
    assert!(listed.contains("PINNED") && listed.contains(&format!("cpu by {key}")), "{listed}");
    let check = examined(&server, "1");
    let found = check["found"].as_str().unwrap();
    assert!(found.starts_with(&format!("rows on cpu by {key}")) && check["verdict"] == "good", "{check}");
    let check = examined(&server, "0");
    assert!(check["verdict"] == "warn" && check["mend"].as_str().unwrap().contains("pinned_bytes_max"), "{check}");
    let audit = server.get("/audit?limit=1").await["data"][0].clone();
    assert_eq!((&audit["action"], &audit["target"]), (&json!("model.pin"), &json!("rows")), "{audit}");
    assert_eq!((&audit["details"]["device"], audit["actor"].is_string()), (&json!("cpu"), true), "{audit}");

    server.restart();
    server.eventually("it is loaded again", async || is_loaded(&server, "rows").await).await;
    assert_ne!(cold(&server).await, "model", "the first call finds it");
    assert!(server.get("/projects/default/deployments/nn").await["status"]["models"][0]["kept"] == true);

    // What a deployment wants too is there once, counts once, and stays as long as either wants it.
    let once = pinned_bytes(&server).await;
    assert!(once > 0);
    let warm = json!({ "models": { "rows": "rows" }, "scale": { "min_warm": 1 } });
    server.deploy_guest("nn", "hostile", warm).await;
    assert_eq!(pinned_bytes(&server).await, once);
    assert_eq!(server.get("/node").await["models_loaded"], 1);
    let said = printed(&server, &["models", "unpin", "rows"]);
    assert_eq!(said.trim(), "rows is no longer pinned on cpu; it goes once it is idle");
    assert_eq!(pin(&server, "rows").await, None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_ne!(cold(&server).await, "model", "its deployment keeps it");
    printed(&server, &["models", "pin", "rows"]);
    server.deploy_guest("nn", "hostile", json!({ "models": { "rows": "rows" } })).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_ne!(cold(&server).await, "model", "its pin keeps it");

    printed(&server, &["models", "unpin", "rows"]);
    assert_eq!(server.get("/audit?limit=1").await["data"][0]["action"], "model.unpin");
    server.eventually("it is unloaded", async || server.get("/node").await["models_loaded"] == 0).await;
    assert_eq!(pinned_bytes(&server).await, 0);
    assert_eq!(cold(&server).await, "model");
    let again = server.cli(&["models", "unpin", "rows"]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("rows is not pinned"));
    let again = server.api(Method::DELETE, "/models/rows/pins/cpu").send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
    server.restart();
    assert_eq!(pin(&server, "rows").await, None);
    assert_eq!(server.get("/node").await["models_loaded"], 0);
}

#[tokio::test]
async fn a_pinned_language_model_has_its_engine() {
    let mut server = Server::start_with(&IMPATIENT);
    server.add_model("tiny", &root().join("examples/models/tiny-chat-genai"));
    let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" } });
    let (status, answer) = server.deploy("chat", spec).await;
    assert!(status.is_success(), "{answer}");
    printed(&server, &["models", "pin", "tiny", "--device", "cpu"]);
    for _ in 0..2 {
        server.eventually("its engine is there", async || is_loaded(&server, "tiny").await).await;
        let ask = json!({ "model": "chat", "messages": [{ "role": "user", "content": "capital of France?" }] });
        let answer = server.call(Method::POST, "/v1/chat/completions").json(&ask).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_ne!(answer.headers()["x-mayfly-cold"], "model");
        server.restart();
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_at_once_with_the_limit_and_the_way_out() {
    let detail = |answer: &Value| answer["detail"].as_str().unwrap().to_owned();
    let server = Server::start();
    server.add_model("rows", &tiny_model("rows.onnx"));
    let (status, answer) = put(&server, &server.key, "/models/rows/pins/cpu").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    let text = detail(&answer);
    for part in ["model `rows` cannot be pinned on cpu", "inference.pinned_bytes_max = 0", "start the server anew"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for (path, expect, part) in [
        ("/models/rows/pins/tpu", StatusCode::BAD_REQUEST, "`tpu` is not a device"),
        ("/models/none/pins/cpu", StatusCode::NOT_FOUND, "there is no such model"),
        ("/projects/none/models/rows/pins/cpu", StatusCode::NOT_FOUND, "there is no such project"),
        ("/projects/default/models/rows/pins/cpu", StatusCode::NOT_FOUND, "there is no such model"),
    ] {
        let (status, answer) = put(&server, &server.key, path).await;
        assert_eq!(status, expect, "{path}: {answer}");
        assert!(detail(&answer).contains(part), "{path}: {answer}");
    }

    let limits = [("MAYFLY_INFERENCE__PINNED_BYTES_MAX", "1048576")];
    let server = Server::start_with(&limits);
    server.add_model("rows", &tiny_model("rows.onnx"));
    server.add_model("mixing", &tiny_model("mixing.onnx"));
    server.add_model("tiny", &root().join("examples/models/tiny-chat-genai"));
    let (status, answer) = put(&server, &server.key, "/models/rows/pins/cpu").await;
    assert!(status.is_success() && answer["pins"][0]["device"] == "cpu", "{answer}");
    let (status, answer) = put(&server, &server.key, "/models/mixing/pins/cpu").await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    let text = detail(&answer);
    assert!(text.contains("of the 1 MiB that may be kept") && text.contains("unpin another model"), "{text}");
    let (status, answer) = put(&server, &server.key, "/models/tiny/pins/cpu").await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    let text = detail(&answer);
    assert!(text.contains("no more than 1 MiB may be kept") && text.contains("inference.pinned_bytes_max"), "{text}");
    // What did not fit changed nothing.
    let pinned: Vec<_> = server.get("/models").await["data"].as_array().unwrap().clone();
    assert_eq!(pinned.iter().filter(|model| model["pins"].is_array()).count(), 1, "{pinned:?}");

    // Nor does what never fits into the memory for models.
    let server = Server::start_with(&[
        ("MAYFLY_INFERENCE__PINNED_BYTES_MAX", "12582912"),
        ("MAYFLY_INFERENCE__RESIDENT_BYTES_MAX", "12582912"),
    ]);
    server.add_model("tiny", &root().join("examples/models/tiny-chat-genai"));
    let (status, answer) = put(&server, &server.key, "/models/tiny/pins/cpu").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    assert!(detail(&answer).contains("inference.resident_bytes_max"), "{answer}");
    let has_cuda = server.get("/node").await["onnxruntime"]["providers"].to_string().contains("CUDA");
    if !has_cuda {
        let (status, answer) = put(&server, &server.key, "/models/tiny/pins/cuda").await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        assert!(detail(&answer).contains("device `cuda` is not available"), "{answer}");
    }
}

#[tokio::test]
async fn a_start_with_less_room_says_what_is_not_kept() {
    let mut server = Server::start_with(&IMPATIENT);
    server.add_model("rows", &tiny_model("rows.onnx"));
    printed(&server, &["models", "pin", "rows"]);
    server.restart_with(&[("MAYFLY_INFERENCE__PINNED_BYTES_MAX", "0")]);
    let pin = pin(&server, "rows").await.unwrap();
    let problem = pin["problem"].as_str().unwrap();
    assert!(problem.contains("inference.pinned_bytes_max = 0") && pin["loaded"] == false, "{pin}");
    let shown = printed(&server, &["models", "show", "rows"]);
    assert!(shown.contains("; not kept: this host keeps no models loaded"), "{shown}");
}

#[tokio::test]
async fn only_the_operator_pins_and_a_tenant_is_told_no_more_than_it_needs() {
    let server = Server::start_with(&[&IMPATIENT[..], &[("MAYFLY_MODELS__TENANT_MODELS", "isolate")]].concat());
    let acme = Tenant::new(&server, "acme");
    let rows = tiny_model("rows.onnx");
    server.add_model("shared", &rows);
    let added = acme.cli(&["models", "add", "own", rows.to_str().unwrap(), "--own"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let own = "/projects/acme/models/own/pins/cpu";

    // In a process of its tenant's own nothing is kept.
    let (status, answer) = put(&server, &server.key, own).await;
    assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("not_approved")), "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("approve it before it is pinned"), "{answer}");
    server.cli_json(&["models", "approve", "own", "--project", "acme"]);

    let audit = server.get("/audit?limit=500").await;
    for path in ["/models/shared/pins/cpu", own, "/models/none/pins/cpu", "/projects/default/models/x/pins/cpu"] {
        for method in [Method::PUT, Method::DELETE] {
            let url = format!("{}/api/v1{path}", server.admin);
            let refused = server.http.request(method.clone(), url).bearer_auth(&acme.key).send().await.unwrap();
            let (status, answer) = (refused.status(), refused.json::<Value>().await.unwrap());
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}: {answer}");
            assert_eq!(answer["code"], "insufficient_scope", "{answer}");
        }
    }
    assert!(!acme.cli(&["models", "pin", "own", "--own"]).status.success());
    assert_eq!(server.get("/audit?limit=500").await, audit, "what was refused changed nothing");

    printed(&server, &["models", "pin", "own", "--own", "--project", "acme"]);
    printed(&server, &["models", "pin", "shared"]);
    let seen: Value = serde_json::from_slice(&acme.cli(&["models", "list"]).stdout).unwrap();
    let seen = seen["data"].as_array().unwrap().clone();
    assert_eq!(seen.iter().filter(|model| model["pins"][0]["device"] == "cpu").count(), 2, "{seen:?}");
    assert!(seen.iter().all(|model| model["pins"][0].get("by").is_none()), "{seen:?}");
    let shown: Value = serde_json::from_slice(&acme.cli(&["models", "show", "own"]).stdout).unwrap();
    assert!(shown["pins"][0].get("by").is_none(), "{shown}");

    // Its own model a tenant replaces and removes as ever; the pin ends, and the trail says so.
    let (rows, other) = (rows.to_str().unwrap().to_owned(), tiny_model("mixing.onnx"));
    let replaced = acme.cli(&["models", "add", "own", other.to_str().unwrap(), "--own"]);
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
    assert_eq!(server.get("/audit?limit=1").await["data"][0]["details"]["unpinned"], json!(["cpu"]));
    assert!(acme.cli(&["models", "add", "own", &rows, "--own"]).status.success());
    server.cli_json(&["models", "approve", "own", "--project", "acme"]);
    printed(&server, &["models", "pin", "own", "--own", "--project", "acme"]);
    assert!(acme.cli(&["models", "remove", "own", "--own"]).status.success());
    assert_eq!(server.get("/audit?limit=1").await["data"][0]["details"]["unpinned"], json!(["cpu"]));
}

#[tokio::test]
async fn a_pin_goes_with_the_name_to_a_newer_package_and_away_with_it() {
    let server = Server::start_with(&IMPATIENT);
    server.add_model("m", &tiny_model("rows.onnx"));
    printed(&server, &["models", "pin", "m"]);
    server.eventually("it is loaded", async || is_loaded(&server, "m").await).await;
    let older = server.get("/models/m").await["digest"].clone();
    server.add_model("m", &tiny_model("mixing.onnx"));
    assert_ne!(server.get("/models/m").await["digest"], older);
    server.eventually("the newer package is loaded", async || is_loaded(&server, "m").await).await;
    server.eventually("and the older goes", async || server.get("/node").await["models_loaded"] == 1).await;
    assert!(server.cli(&["models", "remove", "m"]).status.success());
    assert_eq!(server.get("/audit?limit=1").await["data"][0]["details"]["unpinned"], json!(["cpu"]));
    server.eventually("and goes with its name", async || server.get("/node").await["models_loaded"] == 0).await;
    server.add_model("m", &tiny_model("rows.onnx"));
    assert_eq!(pin(&server, "m").await, None, "another model of that name is not pinned");
}
