//! Adding models: what is refused and why, what is stored, who may bring what.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Server, tiny_model};

#[test]
fn bad_models_are_refused_with_the_reason() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = Server::start();
    for (file, says) in [
        ("bad/cut_short.onnx", ""),
        ("bad/not_a_model.onnx", ""),
        ("bad/external_missing.onnx", "nowhere.bin"),
        ("bad/external_escaping.onnx", ".."),
        ("bad/external_absolute.onnx", ""),
        ("bad/external_short.onnx", ""),
        ("bad/operator_unknown.onnx", "Frobnicate"),
        ("bad/operator_domain.onnx", "com.example"),
        ("bad/operator_ep_context.onnx", "EPContext"),
        ("bad/string_input.onnx", "string"),
        ("bad/if_too_deep.onnx", ""),
        ("bad/huge_dims.onnx", ""),
    ] {
        let output = server.cli(&["models", "add", "bad", tiny_model(file).to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{file} was taken");
        assert!(text.contains(says), "{file}: {text}");
        assert!(!text.contains(server.folder.path().to_str().unwrap()), "{file}: no host path: {text}");
    }
    let listed = runtime.block_on(server.get("/models"));
    assert_eq!(listed["data"], json!([]), "nothing of them is left");
    server.add_model("good", &tiny_model("rows.onnx"));
}

#[test]
fn external_data_and_folders_are_taken_whole() {
    let server = Server::start();
    server.add_model("external", &tiny_model("rows_external.onnx"));
    server.add_model("folder", &tiny_model("embedder"));
    let shown = server.cli_json(&["models", "show", "folder"]);
    assert_eq!(shown["has_tokenizer"], true);
    assert_eq!(shown["properties"]["pooling"], "mean", "{shown}");
    let roles: Vec<_> = shown["inputs"].as_array().unwrap().iter().map(|i| i["role"].as_str().unwrap()).collect();
    assert!(roles.contains(&"ids") && roles.contains(&"mask"), "{roles:?}");
}

#[tokio::test]
async fn what_a_project_brings_runs_once_the_operator_approved_it() {
    let server = Server::start();
    let made = server.cli_json(&["keys", "create", "--scope", "deploy", "--scope", "call"]);
    let deploy_key = made["secret"].as_str().unwrap().to_owned();
    let own = |args: &[&str]| {
        std::process::Command::new(crate::harness::BINARY)
            .args(args)
            .env("MAYFLY_URL", &server.admin)
            .env("MAYFLY_KEY", &deploy_key)
            .output()
            .unwrap()
    };
    let path = tiny_model("rows.onnx");
    let refused = own(&["models", "add", "rows", path.to_str().unwrap()]);
    assert!(!refused.status.success(), "only the operator adds models for everybody");
    let added = own(&["models", "add", "rows", path.to_str().unwrap(), "--own"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));

    let (_, stored) = server.upload(crate::harness::guest("hostile")).await;
    let spec = json!({ "handler": { "digest": stored["digest"] }, "models": { "rows": "rows" } });
    let (status, answer) = server.deploy("own", spec.clone()).await;
    assert_eq!(status, 403, "{answer}");
    assert!(!own(&["models", "approve", "rows"]).status.success(), "nobody approves their own");
    let approved = server.cli(&["models", "approve", "rows"]);
    assert!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
    let (status, answer) = server.deploy("own", spec).await;
    assert!(status.is_success(), "{answer}");
    let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 0 }] });
    let response = server.call(Method::POST, "/d/default/own/nn").json(&plan).send().await.unwrap();
    assert!(response.text().await.unwrap().contains("outputs"));
}

#[tokio::test]
async fn cuda_is_refused_with_the_reason_where_the_library_lacks_it() {
    let server = Server::start();
    let providers = server.get("/node").await["onnxruntime"]["providers"].to_string();
    if providers.contains("CUDA") {
        eprintln!("this library has CUDA: nothing to refuse");
        return;
    }
    server.add_model("rows", &tiny_model("rows.onnx"));
    let (_, stored) = server.upload(crate::harness::guest("hostile")).await;
    let spec = json!({ "handler": { "digest": stored["digest"] }, "models": { "rows": { "model": "rows", "device": "cuda" } } });
    let (status, answer) = server.deploy("gpu", spec).await;
    let text = if status.is_success() {
        let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 0 }] });
        server.call(Method::POST, "/d/default/gpu/nn").json(&plan).send().await.unwrap().text().await.unwrap()
    } else {
        answer.to_string()
    };
    assert!(text.contains("cuda") && !text.contains("\"outputs\""), "asked for a GPU, never given the CPU: {text}");
}
