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

/// Content, reason and usage of a streamed chat with one choice.
async fn streamed(response: reqwest::Response) -> (String, Value, Value) {
    let text = response.text().await.unwrap();
    let events: Vec<Value> = text
        .split_terminator("\n\n")
        .filter_map(|event| event.strip_prefix("data: ").filter(|data| *data != "[DONE]"))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let choices: Vec<&Value> = events.iter().map(|event| &event["choices"][0]).collect();
    let content = choices.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    let finish = choices.iter().map(|choice| &choice["finish_reason"]).find(|finish| !finish.is_null());
    (content, finish.cloned().unwrap_or_default(), events.last().unwrap()["usage"].clone())
}

#[tokio::test]
async fn a_filter_cuts_answers_before_a_blocked_text() {
    let server = server("tiny-chat-genai").await;
    let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" },
        "filter": { "block": ["nowhere said", "webASSEMBLY"] } });
    let (status, answer) = server.deploy("chat", spec).await;
    assert!(status.is_success(), "{answer}");
    assert_eq!(answer["deployment"]["revision"]["filter"]["block"][1], "webASSEMBLY");
    let ask = |path: &str, question: &str, more: Value| {
        let mut body = json!({ "model": "chat", "temperature": 0 });
        body[if path == "/v1/responses" { "input" } else { "messages" }] =
            json!([{ "role": "user", "content": question }]);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.call(Method::POST, path).json(&body).send()
    };
    let chat = "/v1/chat/completions";
    let asked = asked();
    let entry = asked["questions"].as_array().unwrap().iter().find(|entry| entry["id"] == "mayfly-8").unwrap();
    let question = entry["messages"][0]["content"].as_str().unwrap();
    let (before, _) = entry["answer"].as_str().unwrap().split_once("WebAssembly").unwrap();

    // However long it might go on: what was made when it was stopped is what is billed.
    let response =
        ask(chat, question, json!({ "logprobs": true, "max_tokens": 900, "ignore_eos": true })).await.unwrap();
    let id = header(&response, "x-request-id");
    let answer: Value = response.json().await.unwrap();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!(before), &json!("content_filter")));
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    let said: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert!(!said.is_empty() && before.starts_with(&said), "{said}");
    let record = server.settled(&id).await;
    assert_eq!(record["outcome"], "completed", "{record}");
    assert_eq!(record["usage"]["output_tokens"], answer["usage"]["completion_tokens"], "{record} {answer}");
    let made = answer["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(made > tokens.len() as u64 && made < 40, "{answer}");

    let stream = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let response = ask(chat, question, stream.clone()).await.unwrap();
    let id = header(&response, "x-request-id");
    let (content, finish, usage) = streamed(response).await;
    assert_eq!((content.as_str(), &finish), (before, &json!("content_filter")));
    assert_eq!(server.settled(&id).await["usage"]["output_tokens"], usage["completion_tokens"]);

    let answer: Value = ask("/v1/responses", question, json!({})).await.unwrap().json().await.unwrap();
    assert_eq!(
        (&answer["status"], &answer["incomplete_details"]["reason"], &answer["output"][0]["content"][0]["text"]),
        (&json!("incomplete"), &json!("content_filter"), &json!(before))
    );

    // Other answers are not touched.
    let response = ask(chat, "What is your name?", stream).await.unwrap();
    let (content, finish, usage) = streamed(response).await;
    assert_eq!((content.as_str(), &finish), ("My name is tiny-chat.", &json!("stop")));
    assert_eq!(usage["completion_tokens"], 7);
}

#[tokio::test]
async fn a_filter_comes_from_the_manifest_and_from_flags() {
    let server = server("tiny-chat-genai").await;
    let folder = tempfile::tempdir().unwrap();
    let manifest = "name = \"ruled\"\nhandler = \"builtin:chat\"\nshare_prefixes = true\n\
        [models]\nmodel = \"tiny\"\n[filter]\nblock = [\"one\"]\n";
    std::fs::write(folder.path().join("mayfly.toml"), manifest).unwrap();
    let deployed = server.cli_json(&["deploy", folder.path().to_str().unwrap(), "--block", "two"]);
    let revision = &deployed["deployment"]["revision"];
    assert_eq!((&revision["filter"], &revision["share_prefixes"]), (&json!({ "block": ["one", "two"] }), &json!(true)));
    let shown = String::from_utf8(server.cli(&["show", "ruled"]).stdout).unwrap();
    assert!(shown.contains("blocked    \"two\"\n") && shown.contains("prefixes   shared"), "{shown}");
    let source = ["deploy", "builtin:chat", "--name", "ruled", "--model", "model=tiny"];
    let revision = server.cli_json(&source)["deployment"]["revision"].clone();
    assert_eq!((&revision["filter"]["block"], &revision["share_prefixes"]), (&json!([]), &json!(false)));
    let revision = server.cli_json(&[&source[..], &["--share-prefixes"]].concat())["deployment"]["revision"].clone();
    assert_eq!((&revision["number"], &revision["share_prefixes"]), (&json!(3), &json!(true)));
    let spec =
        json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" }, "filter": { "block": ["a", ""] } });
    let (status, problem) = server.deploy("ruled", spec).await;
    assert_eq!(status, 422);
    assert!(problem["detail"].as_str().unwrap().contains("text 1 of filter.block is empty"), "{problem}");
}

#[tokio::test]
async fn keys_share_prefixes_only_if_the_owner_says_so() {
    let server = server("tiny-chat-genai").await;
    for (name, share) in [("apart", false), ("shared", true), ("shared-too", true)] {
        let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny" }, "share_prefixes": share });
        let (status, answer) = server.deploy(name, spec).await;
        assert!(status.is_success(), "{answer}");
    }
    let (_, one) = server.call_key(json!({})).await;
    let (_, two) = server.call_key(json!({})).await;
    let cached = async |deployment: &str, secret: &str| {
        let body = json!({ "model": deployment, "max_tokens": 2, "temperature": 0,
            "messages": [{ "role": "user", "content": "a long text ".repeat(100) }] });
        let response = server.call_with(secret, Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
        let answer: Value = response.json().await.unwrap();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    };
    assert_eq!(cached("apart", &one).await, 0);
    assert!(cached("apart", &one).await > 0, "a key goes on from its own prompts");
    assert_eq!(cached("apart", &two).await, 0, "and not from another's");
    assert_eq!(cached("shared", &one).await, 0, "deployments share nothing");
    assert!(cached("shared", &two).await > 0);
    assert_eq!(cached("shared-too", &two).await, 0, "not even those whose keys share");
}
