//! The built-in `classify` with the real Magika model.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, WHOLE_ANSWERS, guest, real_model, root};

#[tokio::test]
async fn names_the_types_of_real_files() {
    let server = Server::start_with(&[WHOLE_ANSWERS]);
    server.add_model("magika", &real_model("magika"));
    let (status, answer) = server
        .deploy("filetype", json!({ "handler": { "builtin": "classify" }, "models": { "model": "magika" } }))
        .await;
    assert!(status.is_success(), "{answer}");
    let read = |path: &str| std::fs::read(root().join(path)).unwrap();
    let elf = std::fs::read(crate::harness::BINARY).unwrap();
    for (bytes, label, least) in [
        (read("runtime/ARCHITECTURE.md"), "markdown", 0.5),
        (read("examples/quickstart/minilm_to_onnx.py"), "python", 0.9),
        (read("tests/fixtures/models/embedder/config.json"), "json", 0.5),
        (guest("plain"), "wasm", 0.9),
        (elf[..1 << 20].to_vec(), "elf", 0.9),
    ] {
        let response = server.call(Method::POST, "/d/default/filetype/?top=3").body(bytes).send().await.unwrap();
        let rows = response.headers()["x-mayfly-usage"].to_str().unwrap().to_owned();
        let answer: Value = response.json().await.unwrap();
        let best = &answer["data"][0]["results"][0];
        assert_eq!(best["label"], label, "{answer}");
        assert!(best["score"].as_f64().unwrap() > least, "{answer}");
        assert_eq!(answer["data"][0]["results"].as_array().unwrap().len(), 3);
        let usage: Value = serde_json::from_str(&rows).unwrap();
        assert_eq!(usage["rows"], 1, "one row of fixed size: {usage}");
    }
    let empty = server.call(Method::POST, "/d/default/filetype/").send().await.unwrap();
    assert!(empty.status().as_u16() < 500, "an empty file is the caller's: {}", empty.status());
}
