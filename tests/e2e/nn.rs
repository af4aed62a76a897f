//! `wasi:nn` from the guest's side: what works, and every wrong shape, type, name, value and length.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, tiny_model};

async fn server_with(models: &[(&str, &str)], limits: Value) -> Server {
    let server = Server::start();
    for (name, file) in models {
        server.add_model(name, &tiny_model(file));
    }
    let grants: Value =
        models.iter().map(|(name, _)| ((*name).to_owned(), json!(name))).collect::<serde_json::Map<_, _>>().into();
    server.deploy_guest("nn", "hostile", json!({ "models": grants, "limits": limits })).await;
    server
}

/// The steps' answers of one plan.
async fn drive(server: &Server, plan: Value) -> Vec<Value> {
    let response = server.call(Method::POST, "/d/default/nn/nn").json(&plan).send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(status, 200, "{plan}: {text}");
    let mut answer: Value = serde_json::from_str(&text).unwrap();
    match answer["steps"].take() {
        Value::Array(steps) => steps,
        other => panic!("{other}"),
    }
}

/// The first step's error: its code and text.
async fn error(server: &Server, plan: Value) -> (String, String) {
    let steps = drive(server, plan.clone()).await;
    let error = &steps[0]["error"];
    assert!(error.is_object(), "{plan}: {steps:?}");
    let text = error["text"].as_str().unwrap().to_owned();
    assert!(!text.contains("/tmp") && !text.contains(".onnx"), "no host path: {text}");
    (error["code"].as_str().unwrap().to_owned(), text)
}

fn floats(output: &Value) -> Vec<f32> {
    let bytes = decode_base64(output["data_base64"].as_str().unwrap());
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap())).collect()
}

fn decode_base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[tokio::test]
async fn a_run_gives_what_the_graph_says() {
    let server = server_with(&[("rows", "rows.onnx")], json!({})).await;
    let steps = drive(
        &server,
        json!({ "model": "rows", "inputs": [
        { "name": "x", "ty": "f32", "dims": [2, 4], "data": [1, 0, 0, 0, 0, 1, 0, 0] } ] }),
    )
    .await;
    let output = &steps[0]["outputs"][0];
    assert_eq!(output["dims"], json!([2, 3]));
    assert_eq!(floats(output), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[tokio::test]
async fn all_seven_types_go_in_and_come_out() {
    let server = server_with(&[("types", "types.onnx")], json!({})).await;
    let shown = server.cli_json(&["models", "show", "types"]);
    let inputs: Vec<Value> = shown["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| {
            // Booleans travel as bytes.
            let ty = match input["element_type"].as_str().unwrap() {
                "bool" => "u8",
                other => other,
            };
            let dims: Vec<u32> = input["dimensions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|d| d.as_u64().map_or(2, |n| n.try_into().unwrap()))
                .collect();
            json!({ "name": input["name"], "ty": ty, "dims": dims, "fill": 1 })
        })
        .collect();
    assert!(inputs.len() >= 7, "{shown}");
    let steps = drive(&server, json!({ "model": "types", "inputs": inputs })).await;
    let outputs = steps[0]["outputs"].as_array().unwrap_or_else(|| panic!("{steps:?}"));
    assert_eq!(outputs.len(), inputs.len());
}

#[tokio::test]
async fn state_goes_back_without_being_read() {
    let server = server_with(&[("stateful", "stateful.onnx")], json!({})).await;
    let shown = server.cli_json(&["models", "show", "stateful"]);
    let inputs: Vec<Value> = shown["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| {
            let dims: Vec<u32> = input["dimensions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|d| d.as_u64().map_or(1, |n| n.try_into().unwrap()))
                .collect();
            json!({ "name": input["name"], "ty": input["element_type"], "dims": dims, "fill": 0 })
        })
        .collect();
    let steps = drive(
        &server,
        json!({ "model": "stateful", "inputs": inputs, "steps": [
        { "do": "compute", "read": false },
        { "do": "compute", "read": false, "hand_back": { "state": "stateN" } },
        { "do": "compute", "hand_back": { "state": "stateN" } } ] }),
    )
    .await;
    let output = steps[2]["outputs"].as_array().unwrap().iter().find(|o| o["name"] == "output").unwrap();
    assert!(floats(output).iter().all(|&value| value == 2.0), "two steps were added on the host: {output}");
}

#[tokio::test]
async fn every_wrong_input_is_an_error_that_names_it() {
    let server = server_with(&[("rows", "rows.onnx"), ("encoder", "encoder.onnx")], json!({})).await;
    let x = json!({ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 0 });
    let good = json!({ "model": "rows", "inputs": [x] });
    let changed = |key: &str, value: Value| {
        let mut input = x.clone();
        input[key] = value;
        json!({ "model": "rows", "inputs": [input] })
    };
    for (what, plan, code, says) in [
        ("wrong name", changed("name", json!("y")), "invalid-argument", "y"),
        ("wrong type", changed("ty", json!("i64")), "invalid-argument", "x"),
        ("wrong rank", changed("dims", json!([4])), "invalid-argument", "x"),
        ("wrong fixed size", changed("dims", json!([1, 5])), "invalid-argument", "x"),
        ("too few bytes", changed("bytes", json!(15)), "invalid-argument", "16"),
        ("too many bytes", changed("bytes", json!(17)), "invalid-argument", "16"),
        ("duplicate", json!({ "model": "rows", "inputs": [x, x] }), "invalid-argument", "x"),
        ("missing", json!({ "model": "rows", "inputs": [] }), "invalid-argument", "x"),
        (
            "overflowing",
            json!({ "model": "rows", "inputs": [
            { "name": "x", "ty": "f32", "dims": [4294967295_u32, 4294967295_u32, 4294967295_u32], "count": 1, "fill": 0 } ] }),
            "invalid-argument",
            "overflow",
        ),
    ] {
        let (got, text) = error(&server, plan).await;
        assert_eq!(squash(&got), squash(code), "{what}: {text}");
        assert!(text.contains(says), "{what}: `{text}` does not say `{says}`");
        assert!(drive(&server, good.clone()).await[0]["outputs"].is_array(), "the next request works");
    }

    let ids = |ids: Value, mask: Value| {
        json!({ "model": "encoder", "inputs": [
            { "name": "input_ids", "ty": "i64", "dims": [1, 3], "data": ids },
            { "name": "attention_mask", "ty": "i64", "dims": [1, 3], "data": mask } ] })
    };
    assert!(drive(&server, ids(json!([1, 2, 3]), json!([1, 1, 1]))).await[0]["outputs"].is_array());
    for (what, plan) in [
        ("mask of 2", ids(json!([1, 2, 3]), json!([1, 2, 1]))),
        (
            "lengths differ",
            json!({ "model": "encoder", "inputs": [
            { "name": "input_ids", "ty": "i64", "dims": [1, 3], "fill": 1 },
            { "name": "attention_mask", "ty": "i64", "dims": [1, 4], "fill": 1 } ] }),
        ),
    ] {
        let (code, text) = error(&server, plan).await;
        assert_eq!(squash(&code), "invalidargument", "{what}: {text}");
    }
}

/// `InvalidArgument` and `invalid-argument` alike.
fn squash(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

#[tokio::test]
async fn ids_stay_below_the_vocabulary_and_rows_within_the_context() {
    let server = server_with(&[("embedder", "embedder")], json!({})).await;
    let plan = |ids: Value, length: u32| {
        json!({ "model": "embedder", "inputs": [
            { "name": "input_ids", "ty": "i64", "dims": [1, length], "data": ids },
            { "name": "attention_mask", "ty": "i64", "dims": [1, length], "fill": 1 } ] })
    };
    let empty = json!({ "model": "embedder", "inputs": [
        { "name": "input_ids", "ty": "i64", "dims": [1, 3], "fill": 0 },
        { "name": "attention_mask", "ty": "i64", "dims": [1, 3], "fill": 0 } ] });
    let (code, text) = error(&server, empty).await;
    assert_eq!(squash(&code), "invalidargument", "a row of nothing but padding: {text}");
    for (ids, length, says) in [(json!([8]), 1, "8"), (json!([-1]), 1, "-1"), (json!(vec![1; 33]), 33, "33")] {
        let (code, text) = error(&server, plan(ids, length)).await;
        assert!(matches!(squash(&code).as_str(), "invalidargument" | "toolarge"), "{code}: {text}");
        assert!(text.contains(says), "{text}");
    }
}

#[tokio::test]
async fn only_granted_aliases_and_no_bytes_of_a_guest() {
    let server = server_with(&[("rows", "rows.onnx")], json!({})).await;
    server.add_model("secret", &tiny_model("encoder.onnx"));
    for alias in ["secret", "nobody", "", "../rows", "ROWS"] {
        let (code, text) = error(&server, json!({ "steps": [{ "do": "load-by-name", "alias": alias }] })).await;
        assert_eq!(squash(&code), "notfound", "{alias}: {text}");
    }
    let (code, _) = error(&server, json!({ "steps": [{ "do": "load" }] })).await;
    assert_eq!(squash(&code), "security");
}

#[tokio::test]
async fn live_tensors_are_bounded() {
    let server = server_with(&[("rows", "rows.onnx")], json!({ "tensor_bytes_max": 1 << 20 })).await;
    let megabyte = json!({ "name": "x", "ty": "f32", "dims": [65536, 4], "fill": 0 });
    let (code, text) = error(
        &server,
        json!({ "model": "rows", "inputs": [
        { "name": "x", "ty": "f32", "dims": [131_072, 4], "fill": 0 }] }),
    )
    .await;
    assert_eq!(squash(&code), "toolarge", "{text}");
    assert!(text.contains("tensor_bytes_max"), "{text}");
    // What was dropped is given back.
    let steps = drive(
        &server,
        json!({ "model": "rows", "inputs": [megabyte], "steps":
        (0..4).map(|_| json!({ "do": "construct" })).collect::<Vec<_>>() }),
    )
    .await;
    assert!(steps.iter().all(|step| step["made"] == true));
}

#[tokio::test]
async fn run_many_answers_in_order() {
    let server = server_with(&[("rows", "rows.onnx")], json!({})).await;
    let steps = drive(&server, json!({ "model": "rows", "inputs": [
        { "name": "x", "ty": "f32", "dims": [1, 4], "data": [0, 0, 0, 1] }], "steps": [{ "do": "run-many", "count": 5 }] })).await;
    let runs = steps[0]["runs"].as_array().unwrap_or_else(|| panic!("{steps:?}"));
    assert_eq!(runs.len(), 5);
    for run in runs {
        assert_eq!(floats(&run["outputs"][0]), [9.0, 10.0, 11.0]);
    }
}

#[tokio::test]
async fn a_deadline_stops_a_run_and_the_model_lives_on() {
    let server = server_with(&[("loop", "loop.onnx")], json!({ "deadline_ms_max": 1000 })).await;
    let shown = server.cli_json(&["models", "show", "loop"]);
    let plan = |times: u64| {
        let inputs: Vec<Value> = shown["inputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|input| {
                let dims: Vec<u32> = input["dimensions"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|d| d.as_u64().map_or(1, |n| n.try_into().unwrap()))
                    .collect();
                let fill = if input["name"] == "times" { times } else { 1 };
                json!({ "name": input["name"], "ty": input["element_type"], "dims": dims, "fill": fill })
            })
            .collect();
        json!({ "model": "loop", "inputs": inputs })
    };
    let response = server.call(Method::POST, "/d/default/nn/nn").json(&plan(1 << 40)).send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    // Either the guest still had time to pass the error on, or the call itself ran out of time.
    assert!(status == 504 || squash(&text).contains("timeout"), "{status} {text}");
    assert!(drive(&server, plan(3)).await[0]["outputs"].is_array(), "the next run works");
}

#[tokio::test]
async fn nothing_runs_after_the_body_has_ended() {
    let server = server_with(&[("rows", "rows.onnx")], json!({})).await;
    let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 0 }] });
    let response =
        server.call(Method::POST, "/d/default/nn/late-nn?model=rows&ms=50").json(&plan).send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(response.text().await.unwrap(), "done\n");
    server.eventually("settled", async || server.get(&format!("/requests/{id}")).await["ended"] == true).await;
    let call = server.get(&format!("/requests/{id}")).await;
    assert_eq!(call["usage"]["rows"].as_i64().unwrap_or(0), 0, "a run after the end would be free work: {call}");
}

#[tokio::test]
async fn the_tokenizer_is_the_models_own() {
    let server = server_with(&[("embedder", "embedder")], json!({})).await;
    let response = server
        .call(Method::POST, "/d/default/nn/tokenizer")
        .json(&json!({ "model": "embedder", "texts": ["hello world", ""], "ids": [1, 2] }))
        .send()
        .await
        .unwrap();
    let answer: Value = response.json().await.unwrap();
    let lengths: Vec<_> = answer["encode"]
        .as_array()
        .unwrap_or_else(|| panic!("{answer}"))
        .iter()
        .map(|e| e["ids"].as_array().unwrap().len())
        .collect();
    let counts: Vec<_> =
        answer["count"].as_array().unwrap().iter().map(|n| usize::try_from(n.as_u64().unwrap()).unwrap()).collect();
    assert_eq!(lengths, counts, "{answer}");
    assert!(answer["decode"].is_string(), "{answer}");
    let too_much = server
        .call(Method::POST, "/d/default/nn/tokenizer")
        .json(&json!({ "model": "embedder", "texts": ["hello "], "repeat": 1_500_000 }))
        .send()
        .await
        .unwrap();
    let answer: Value = too_much.json().await.unwrap();
    assert!(answer["encode"]["error"].is_object(), "9 MB of text is refused: {answer}");
}
