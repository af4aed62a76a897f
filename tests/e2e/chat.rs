//! Language models through the stock OpenAI clients: `examples/models/tiny-chat-*`, whose answers are known to the letter.

use std::path::PathBuf;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, header, real_model, refused, root};

const LAYOUTS: [&str; 2] = ["tiny-chat-genai", "tiny-chat-optimum"];

fn model(layout: &str) -> PathBuf {
    root().join("examples/models").join(layout)
}

fn questions() -> PathBuf {
    root().join("examples/models/tiny-chat-questions.json")
}

fn asked() -> Value {
    serde_json::from_slice(&std::fs::read(questions()).unwrap()).unwrap()
}

/// A server with the deployment `chat` on one of the two layouts.
async fn server(layout: &str) -> Server {
    server_with(layout, &[]).await
}

async fn server_with(layout: &str, settings: &[(&str, &str)]) -> Server {
    let server = Server::start_with(settings);
    server.add_model("tiny", &model(layout));
    let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" } });
    let (status, answer) = server.deploy("chat", spec).await;
    assert!(status.is_success(), "{answer}");
    server
}

/// Runs a stock client; it says itself what is wrong.
async fn client(server: &Server, command: &mut Command) {
    let (data, key) = (server.data.clone(), server.key.clone());
    command.arg(questions()).env("MAYFLY_DATA", data).env("MAYFLY_KEY", key).env("NO_PROXY", "*");
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run tests/run.sh"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("all as it must be"), "{said}");
}

fn clients() -> PathBuf {
    root().join("target/clients")
}

async fn embed(server: &Server) {
    server.add_model("minilm", &real_model("minilm"));
    let spec = json!({ "handler": { "builtin": "embeddings" }, "models": { "model": "minilm" } });
    let (status, answer) = server.deploy("embed", spec).await;
    assert!(status.is_success(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_python_client_works_unchanged() {
    let server = server("tiny-chat-genai").await;
    embed(&server).await;
    let mut command = Command::new(clients().join("python/bin/python"));
    client(&server, command.arg(root().join("tests/e2e/clients/check.py"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_node_client_works_unchanged() {
    let server = server("tiny-chat-genai").await;
    embed(&server).await;
    // Node looks for packages beside the file.
    client(&server, Command::new("node").arg(clients().join("node/check.mjs"))).await;
}

#[tokio::test]
async fn every_question_is_answered_to_the_letter_in_both_layouts() {
    for layout in LAYOUTS {
        let server = server(layout).await;
        let asked = asked();
        for entry in asked["questions"].as_array().unwrap().iter().step_by(4) {
            let tools: Vec<&Value> = entry["tools"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|name| &asked["tools"][name.as_str().unwrap()])
                .collect();
            let mut body = json!({ "model": "chat", "messages": entry["messages"], "temperature": 0 });
            if !tools.is_empty() {
                body["tools"] = json!(tools);
            }
            let response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
            let answer: Value = response.json().await.unwrap();
            let usage = &answer["usage"];
            assert_eq!(usage["completion_tokens"], entry["answer_tokens"], "{layout} {entry}: {answer}");
            assert_eq!(usage["prompt_tokens"], entry["prompt_tokens"], "{layout} {entry}: {answer}");
            if entry.get("calls").is_none() {
                assert_eq!(answer["choices"][0]["message"]["content"], entry["answer"], "{layout}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn the_host_counts_what_the_handler_says() {
    let server = server("tiny-chat-genai").await;
    server.price("input-tokens", "0.001");
    server.price("output-tokens", "0.002");
    let asked = asked();
    let entry = &asked["questions"][0];
    let body = json!({ "model": "chat", "messages": entry["messages"], "temperature": 0 });
    let response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
    assert_eq!(header(&response, "x-mayfly-cold"), "model");
    let id = header(&response, "x-request-id");
    let record = server.settled(&id).await;
    assert_eq!(record["usage"]["input_tokens"], entry["prompt_tokens"], "{record}");
    assert_eq!(record["usage"]["output_tokens"], entry["answer_tokens"], "{record}");
}

#[tokio::test]
async fn a_caller_who_leaves_stops_the_generation() {
    let server = server("tiny-chat-genai").await;
    let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "tell me everything" }],
        "stream": true, "max_tokens": 900, "ignore_eos": true });
    let mut response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
    let id = header(&response, "x-request-id");
    response.chunk().await.unwrap().unwrap();
    drop(response);
    let record = server.settled(&id).await;
    assert_eq!(record["outcome"], "client_left", "{record}");
    let output = record["usage"]["output_tokens"].as_u64().unwrap();
    assert!((1..900).contains(&output), "{record}");
}

#[tokio::test]
async fn a_limit_on_tokens_holds_for_generations() {
    let server = server("tiny-chat-genai").await;
    server.limit("/projects/default", json!({ "tokens_per_minute": 100 })).await;
    let ask = |max: u32| {
        let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "hello" }], "max_tokens": max });
        server.call(Method::POST, "/v1/chat/completions").json(&body).send()
    };
    let (status, code, message) = refused(ask(500).await.unwrap()).await;
    assert_eq!(status, 400, "what can never fit is not retried: {code} {message}");
    assert!(message.contains("tokens_per_minute"), "{message}");
    assert!(ask(60).await.unwrap().status().is_success());
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_before_any_work() {
    let server = server("tiny-chat-genai").await;
    let ask = |more: Value| {
        let mut body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "hello" }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.call(Method::POST, "/v1/chat/completions").json(&body).send()
    };
    for (more, says) in [
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": [{ "role": "user", "content": "word ".repeat(2_000) }] }), "context"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "stop": [""] }), "stop"),
        (json!({ "logit_bias": { "4000000": 1 } }), "logit_bias"),
        (json!({ "n": 100_000 }), "n"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "messages": [{ "role": "nobody", "content": "x" }] }), "role"),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": { "type": "nothing" } } } }),
            "",
        ),
    ] {
        let response = ask(more.clone()).await.unwrap();
        let id = header(&response, "x-request-id");
        let (status, _, message) = refused(response).await;
        assert_eq!(status, 400, "{more}: {message}");
        assert!(message.contains(says), "{more}: {message}");
        let record = server.settled(&id).await;
        assert!(record["usage"].get("output_tokens").is_none_or(|count| count == 0), "{more}: {record}");
    }
    assert!(ask(json!({})).await.unwrap().status().is_success(), "the next request works");
}

/// The tokens as `/v1/completions` shows them: what is not text is empty. The texts of this test are plain ASCII.
fn shown(layout: &str, ids: &Value) -> Vec<String> {
    let file: Value = serde_json::from_slice(&std::fs::read(model(layout).join("tokenizer.json")).unwrap()).unwrap();
    let words = file["model"]["vocab"].as_object().unwrap();
    let word = |id: &Value| words.iter().find(|(_, of)| *of == id).map(|(word, _)| word.as_str());
    let plain = |word: &str| word.replace('Ġ', " ").replace('Ċ', "\n");
    ids.as_array().unwrap().iter().map(|id| word(id).map(plain).unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_loop_of_the_handlers_own_gives_the_same_tokens_for_the_same_bill() {
    let wasm = root().join("examples/own-loop/target/wasm32-wasip2/release/own_loop.wasm");
    let wasm = std::fs::read(&wasm).unwrap_or_else(|error| panic!("{}: {error}; run tests/run.sh", wasm.display()));
    for layout in LAYOUTS {
        let server = server(layout).await;
        server.price("input-tokens", "0.001");
        server.price("output-tokens", "0.002");
        let (_, stored) = server.upload(wasm.clone()).await;
        let config = json!({ "ends": "<|im_end|> <|endoftext|>" });
        let spec =
            json!({ "handler": { "digest": stored["digest"] }, "models": { "model": "tiny" }, "config": config });
        let (status, answer) = server.deploy("own-loop", spec).await;
        assert!(status.is_success(), "{answer}");
        let ask = async |path: &str, body: Value| {
            let response = server.call(Method::POST, path).json(&body).send().await.unwrap();
            let id = header(&response, "x-request-id");
            let answer: Value = response.json().await.unwrap();
            let record = server.settled(&id).await;
            let bill =
                ["input_tokens", "cached_input_tokens", "output_tokens"].map(|name| record["usage"][name].clone());
            (answer, bill, record["cost"].clone())
        };
        // An end, a limit in the middle, and a prompt that goes in by pieces. Each begins otherwise: only the host's own
        // generation takes up the prefix of a call before.
        for (prompt, max_tokens) in
            [("A mayfly woke up", 60), ("The capital of France is", 2), (&*"word ".repeat(700), 5)]
        {
            let short = json!({ "prompt": prompt, "max_tokens": max_tokens });
            let (own, own_bill, own_cost) = ask("/d/default/own-loop", short.clone()).await;
            let mut long = json!({ "model": "chat", "temperature": 0, "logprobs": 0 });
            long.as_object_mut().unwrap().extend(short.as_object().unwrap().clone());
            let (built_in, bill, cost) = ask("/v1/completions", long).await;
            let choice = &built_in["choices"][0];
            assert_eq!(own["text"], choice["text"], "{layout}: {own} {built_in}");
            assert_eq!(json!(shown(layout, &own["tokens"])), choice["logprobs"]["tokens"], "{layout}: {own}");
            assert_eq!((&own_bill, &own_cost), (&bill, &cost), "{layout}, {prompt}");
            assert_eq!(bill[0], built_in["usage"]["prompt_tokens"], "{layout}: {built_in}");
            assert_eq!(bill[2], own["tokens"].as_array().unwrap().len(), "{layout}: {own}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_runs_out_of_time_says_so() {
    let server = server("tiny-chat-optimum").await;
    // One sequence a run: eight of them take longer than that.
    let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" }, "limits": { "deadline_ms_max": 1_000 } });
    let (status, answer) = server.deploy("chat", spec).await;
    assert!(status.is_success(), "{answer}");
    let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "tell me everything" }],
        "stream": true, "n": 8, "max_tokens": 900, "ignore_eos": true });
    let response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
    let id = header(&response, "x-request-id");
    let text = response.text().await.unwrap_or_else(|error| panic!("the stream has its proper end: {error}"));
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("data: {\"error\""), "{last}");
    assert!(!text.contains("[DONE]"), "{last}");
    let record = server.settled(&id).await;
    assert!(record["usage"]["output_tokens"].as_u64().unwrap() > 8, "what was made is owed: {record}");
}

#[tokio::test]
async fn an_answer_that_ran_out_of_time_is_the_deadlines_and_is_not_retried() {
    let server = server("tiny-chat-optimum").await;
    let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" }, "limits": { "deadline_ms_max": 1_000 } });
    let (status, answer) = server.deploy("chat", spec).await;
    assert!(status.is_success(), "{answer}");
    let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "tell me everything" }],
        "n": 8, "max_tokens": 900, "ignore_eos": true });
    let response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
    let id = header(&response, "x-request-id");
    assert_eq!(header(&response, "x-should-retry"), "false", "it is charged");
    assert_eq!(response.status(), 504);
    let record = server.settled(&id).await;
    assert_eq!(record["outcome"], "deadline", "{record}");
    assert!(record["usage"]["output_tokens"].as_u64().unwrap() > 8, "what was made is owed: {record}");
}
