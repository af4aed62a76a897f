//! Models on a GPU. Opt-in: `MAYFLY_TEST_CUDA=1` on a machine with a GPU, with `MAYFLY_ORT_DYLIB` naming the CUDA build of
//! ONNX Runtime and CUDA's libraries where the loader finds them; elsewhere these tests say so and pass. They print what
//! they saw, as few machines can repeat them. `tiny-chat-half` in the folder of test models comes from
//! `examples/models/export-half.py`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::harness::{Server, header, real_model, refused, root, tiny_model};
use crate::isolate::{ISOLATE, Tenant};

/// How far an output may be from the CPU's, as a part of the largest: a GPU multiplies f32 with the 10 bits of TF32.
const BOUND: f32 = 2e-3;

/// Whether these tests are asked for.
fn asked(test: &str) -> bool {
    let asked = std::env::var_os("MAYFLY_TEST_CUDA").is_some_and(|value| value == "1");
    if !asked {
        eprintln!("{test}: skipped, as MAYFLY_TEST_CUDA is not 1");
    }
    asked
}

fn half() -> PathBuf {
    real_model("tiny-chat-half")
}

fn tiny_chat(layout: &str) -> PathBuf {
    root().join("examples/models").join(layout)
}

/// Bytes in use on the first GPU, by whomever.
fn device_bytes() -> u64 {
    let args = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"];
    let output = Command::new("nvidia-smi").args(args).output().expect("nvidia-smi, which comes with the driver");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim().parse::<u64>().unwrap_or_else(|error| panic!("{text}: {error}")) << 20
}

async fn text_of(response: Response) -> (u16, String) {
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Deployment `on` of a guest, with `model` under its own name on `device`.
async fn deploy_on(server: &Server, on: &str, wasm: &str, model: &str, device: &str) {
    server
        .deploy_guest(
            on,
            wasm,
            json!({ "models": { model: { "model": model, "device": device, "all_positions": true } } }),
        )
        .await;
}

/// The outputs of the last step of a plan, by name.
async fn outputs(server: &Server, on: &str, plan: &Value) -> Vec<(String, Vec<f32>)> {
    use base64::Engine as _;
    let response = server.call(Method::POST, &format!("/d/default/{on}/nn")).json(plan).send().await.unwrap();
    let (status, text) = text_of(response).await;
    assert_eq!(status, 200, "{on}: {text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let last = answer["steps"].as_array().unwrap().last().unwrap();
    let outputs = last["outputs"].as_array().unwrap_or_else(|| panic!("{on}: {last}"));
    let values = |output: &Value| {
        let data = output["data_base64"].as_str().unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    outputs.iter().map(|output| (output["name"].as_str().unwrap().to_owned(), values(output))).collect()
}

/// The same plan on the CPU and on the GPU.
async fn compare(server: &Server, model: &str, plan: &Value) {
    for device in ["cpu", "cuda"] {
        deploy_on(server, &format!("{model}-{device}"), "hostile", model, device).await;
    }
    let cpu = outputs(server, &format!("{model}-cpu"), plan).await;
    for call in ["first", "second"] {
        let began = Instant::now();
        let cuda = outputs(server, &format!("{model}-cuda"), plan).await;
        assert_eq!(cpu.len(), cuda.len(), "{model}");
        for ((name, want), (other, got)) in cpu.iter().zip(&cuda) {
            assert_eq!((name, want.len()), (other, got.len()), "{model}");
            let largest = want.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
            let off = want.iter().zip(got).fold(0_f32, |most, (a, b)| most.max((a - b).abs())) / largest;
            let took = began.elapsed();
            eprintln!("{model}, {call} call ({took:?}): `{name}`, {} values, off by {off}", want.len());
            assert!(off <= BOUND, "{model}: `{name}` is off by {off} of {largest}");
        }
    }
}

#[tokio::test]
async fn cuda_gives_what_the_cpu_gives() {
    if !asked("outputs") {
        return;
    }
    let server = Server::start();
    eprintln!("{}", server.get("/node").await["onnxruntime"]);
    for (name, file) in [("rows", "rows.onnx"), ("stateful", "stateful.onnx"), ("slow", "runtime/slow.onnx")] {
        server.add_model(name, &tiny_model(file));
    }
    let x: Vec<f64> = (0..256).map(|place| f64::from(place % 17) - 8.0).collect();
    let rows = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [64, 4], "data": x }] });
    compare(&server, "rows", &rows).await;
    let slow = json!({ "model": "slow", "inputs": [
        { "name": "times", "ty": "i64", "dims": [], "data": [20] },
        { "name": "start", "ty": "f32", "dims": [64, 64], "fill": 0.01 } ] });
    compare(&server, "slow", &slow).await;

    // State that goes back without being read.
    let shown = server.cli_json(&["models", "show", "stateful"]);
    let sizes = |input: &Value| -> Vec<u64> {
        input["dimensions"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap_or(1)).collect()
    };
    let inputs: Vec<Value> = shown["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| json!({ "name": input["name"], "ty": input["element_type"], "dims": sizes(input), "fill": 0 }))
        .collect();
    let back = json!({ "do": "compute", "read": false, "hand_back": { "state": "stateN" } });
    let last = json!({ "do": "compute", "hand_back": { "state": "stateN" } });
    let steps = json!([{ "do": "compute", "read": false }, back, last]);
    compare(&server, "stateful", &json!({ "model": "stateful", "inputs": inputs, "steps": steps })).await;
}

/// A loop of the handler's own hands `present` back as `past`; on a GPU it crosses the bus each time, and is right.
#[tokio::test]
async fn cuda_a_loop_of_the_handlers_own_gives_the_cpus_text() {
    if !asked("own loop") {
        return;
    }
    let wasm = root().join("examples/own-loop/target/wasm32-wasip2/release/own_loop.wasm");
    let wasm = std::fs::read(&wasm).unwrap_or_else(|error| panic!("{}: {error}; run tests/run.sh", wasm.display()));
    for model in [tiny_chat("tiny-chat-optimum"), half()] {
        let server = Server::start();
        server.add_model("tiny", &model);
        let (_, stored) = server.upload(wasm.clone()).await;
        let mut texts = Vec::new();
        for device in ["cpu", "cuda"] {
            let spec = json!({ "handler": { "digest": stored["digest"] }, "config": { "ends": "<|im_end|> <|endoftext|>" },
                "models": { "model": { "model": "tiny", "device": device } } });
            let (status, answer) = server.deploy(device, spec).await;
            assert!(status.is_success(), "{answer}");
            let body = json!({ "prompt": "The capital of France is", "max_tokens": 12 });
            let path = format!("/d/default/{device}");
            let response = server.call(Method::POST, &path).json(&body).send().await.unwrap();
            texts.push(text_of(response).await);
        }
        eprintln!("{}: {texts:?}", model.display());
        assert!(texts[0] == texts[1] && texts[0].0 == 200, "{}: {texts:?}", model.display());
    }
}

#[tokio::test]
async fn cuda_a_run_past_its_deadline_is_stopped_and_harms_nobody() {
    if !asked("deadline") {
        return;
    }
    let server = Server::start();
    server.add_model("slow", &tiny_model("runtime/slow.onnx"));
    let spec = json!({ "models": { "slow": { "model": "slow", "device": "cuda" } } });
    deploy_on(&server, "once", "hostile", "slow", "cuda").await;
    let plan = |times: f64| {
        json!({ "model": "slow", "inputs": [
            { "name": "times", "ty": "i64", "dims": [], "data": [times] },
            { "name": "start", "ty": "f32", "dims": [64, 64], "fill": 0.01 } ] })
    };
    outputs(&server, "once", &plan(3.0)).await;
    let mut limited = spec.clone();
    limited["limits"] = json!({ "deadline_ms_max": 1500 });
    server.deploy_guest("endless", "hostile", limited).await;
    let began = Instant::now();
    let response = server.call(Method::POST, "/d/default/endless/nn").json(&plan(4e18)).send().await.unwrap();
    let (status, text) = text_of(response).await;
    let took = began.elapsed();
    eprintln!("an endless run: {status} after {took:?}: {text}");
    assert!(!text.contains("\"outputs\"") && took < Duration::from_secs(10), "{status} {took:?} {text}");
    let began = Instant::now();
    outputs(&server, "once", &plan(3.0)).await;
    eprintln!("the next run of the same session took {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "the endless one really stopped");
}

#[tokio::test]
async fn cuda_memory_is_given_back_by_an_unload() {
    if !asked("memory") {
        return;
    }
    let server = Server::start_with(&[
        ("MAYFLY_INFERENCE__SESSION_IDLE_MS", "1500"),
        ("MAYFLY_INFERENCE__SESSION_STAY_MS_MIN", "0"),
        ("MAYFLY_INFERENCE__GENERATION_SLOTS", "255"),
    ]);
    // 256 slots of 1,024 positions, a KiB each: 256 MiB of attention state.
    server.add_model("tiny", &half());
    let spec =
        json!({ "handler": { "builtin": "chat" }, "models": { "model": { "model": "tiny", "device": "cuda" } } });
    let (status, answer) = server.deploy("chat", spec).await;
    assert!(status.is_success(), "{answer}");
    let loaded =
        async || server.get("/projects/default/deployments/chat").await["status"]["models"][0]["loaded"] == true;
    let mib = |bytes: u64| bytes >> 20;
    let before = device_bytes();
    let mut after = Vec::new();
    for round in 0..2 {
        let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 8 });
        let (status, text) =
            text_of(server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap()).await;
        let during = device_bytes();
        assert_eq!(status, 200, "{text}");
        server.eventually("the model is dropped", async || !loaded().await).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        after.push(device_bytes());
        eprintln!("round {round}: {} MiB before, {} loaded, {} unloaded", mib(before), mib(during), mib(after[round]));
        assert!(during >= before + (256 << 20), "the attention state is on the device");
        assert!(after[round] + (256 << 20) <= during, "and was given back");
    }
    assert!(after[1] <= after[0] + (32 << 20), "what stays is the driver's own, once: {after:?}");
}

/// A tenant's own model in its process, whose sandbox leaves a GPU's driver what it needs.
#[tokio::test]
async fn cuda_a_tenants_own_model_runs_in_its_sandbox() {
    if !asked("sandbox") {
        return;
    }
    let server = Server::start_with(&[ISOLATE]);
    let acme = Tenant::new(&server, "acme");
    let path = tiny_model("rows.onnx");
    let added = acme.cli(&["models", "add", "rows", path.to_str().unwrap(), "--own"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 1 }] });
    let mut answers = Vec::new();
    for device in ["cpu", "cuda"] {
        acme.deploy(device, "hostile", json!({ "rows": { "model": "rows", "device": device } })).await;
        let call = server.call_with(&acme.key, Method::POST, &format!("/d/acme/{device}/nn"));
        let began = Instant::now();
        answers.push(text_of(call.json(&plan).send().await.unwrap()).await);
        eprintln!("apart on {device}, after {:?}: {:?}", began.elapsed(), answers.last());
    }
    let workers = workers_of(&server).await;
    assert!(answers[0] == answers[1] && answers[1].1.contains("outputs"), "{answers:?}; {workers}");
}

async fn workers_of(server: &Server) -> String {
    let metrics = server.http.get(format!("{}/metrics", server.admin)).bearer_auth(&server.key).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    metrics.lines().filter(|line| line.starts_with("mayfly_worker")).collect::<Vec<_>>().join("; ")
}

/// Likewise an engine: weights and attention state on the device, in a process that is locked in.
#[tokio::test]
async fn cuda_a_tenants_own_model_chats_in_its_sandbox() {
    if !asked("chat apart") {
        return;
    }
    let server = Server::start_with(&[ISOLATE]);
    let acme = Tenant::new(&server, "acme");
    let added = acme.cli(&["models", "add", "half", half().to_str().unwrap(), "--own"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let spec =
        json!({ "handler": { "builtin": "chat" }, "models": { "model": { "model": "half", "device": "cuda" } } });
    let url = format!("{}/api/v1/projects/acme/deployments/chat", server.admin);
    let deployed = server.http.post(url).bearer_auth(&acme.key).json(&spec).send().await.unwrap();
    let (status, text) = text_of(deployed).await;
    assert!((200..300).contains(&status), "{status} {text}");
    let ask = async |question: &str| {
        let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": question }], "temperature": 0 });
        let call = server.call_with(&acme.key, Method::POST, "/v1/chat/completions");
        let began = Instant::now();
        let answer = text_of(call.json(&body).send().await.unwrap()).await;
        eprintln!("apart, after {:?}: {answer:?}; {}", began.elapsed(), workers_of(&server).await);
        answer
    };
    let right = "In a WebAssembly sandbox, next to the models it was granted.";
    for _ in 0..2 {
        let (status, text) = ask("Where does a handler run?").await;
        assert!(status == 200 && text.contains(right), "{status} {text}");
    }
    let asks = join_all((0..6).map(|_| ask("Where does a handler run?"))).await;
    assert!(asks.iter().all(|(status, text)| *status == 200 && text.contains(right)), "{asks:?}");
}

/// With the provider compiled in and no GPU to be seen, nothing runs.
#[tokio::test]
async fn cuda_without_a_gpu_is_an_error_and_never_the_cpu() {
    if !asked("no GPU") {
        return;
    }
    let server = Server::start_with(&[("CUDA_VISIBLE_DEVICES", "-1")]);
    server.add_model("rows", &tiny_model("rows.onnx"));
    server.add_model("tiny", &half());
    deploy_on(&server, "nn", "hostile", "rows", "cuda").await;
    let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 0 }] });
    let (status, text) = text_of(server.call(Method::POST, "/d/default/nn/nn").json(&plan).send().await.unwrap()).await;
    eprintln!("{status} {text}");
    assert!(text.contains("cuda") && !text.contains("\"outputs\""), "{status} {text}");
    let spec =
        json!({ "handler": { "builtin": "chat" }, "models": { "model": { "model": "tiny", "device": "cuda" } } });
    let (deployed, answer) = server.deploy("chat", spec).await;
    if deployed.is_success() {
        let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "hello" }] });
        let response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
        let (status, code, message) = refused(response).await;
        eprintln!("{status} {code} {message}");
        assert!(message.contains("cuda"), "{status} {code} {message}");
    } else {
        assert!(answer.to_string().contains("cuda"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cuda_every_question_is_answered_to_the_letter() {
    if !asked("questions") {
        return;
    }
    let asked: Value =
        serde_json::from_slice(&std::fs::read(root().join("examples/models/tiny-chat-questions.json")).unwrap())
            .unwrap();
    let entries: Vec<&Value> = asked["questions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry.get("calls").is_none() && entry["tools"].as_array().is_none_or(Vec::is_empty))
        .collect();
    for model in [half(), tiny_chat("tiny-chat-optimum")] {
        let server = Server::start();
        let before = device_bytes();
        server.add_model("tiny", &model);
        let grant = json!({ "model": { "model": "tiny", "device": "cuda" } });
        let spec = json!({ "handler": { "builtin": "chat" }, "models": grant });
        let (status, answer) = server.deploy("chat", spec).await;
        assert!(status.is_success(), "{answer}");
        let ask = async |entry: &Value| {
            let body = json!({ "model": "chat", "messages": entry["messages"], "temperature": 0 });
            let response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
            let (status, text) = text_of(response).await;
            assert_eq!(status, 200, "{text}");
            let answer: Value = serde_json::from_str(&text).unwrap();
            let usage = &answer["usage"];
            assert_eq!(usage["prompt_tokens"], entry["prompt_tokens"], "{entry}: {answer}");
            let right = answer["choices"][0]["message"]["content"] == entry["answer"];
            if !right {
                eprintln!("wrong: {} is not {}", answer["choices"][0]["message"]["content"], entry["answer"]);
            }
            (right, usage["completion_tokens"].as_u64().unwrap())
        };
        let (mut right, mut all) = (0, 0);
        let began = Instant::now();
        ask(entries[0]).await;
        eprintln!(
            "{}: the first answer, load included, took {:?}; {} MiB more on the device",
            model.display(),
            began.elapsed(),
            device_bytes().saturating_sub(before) >> 20
        );
        for at_once in [1, 12] {
            let (began, mut tokens) = (Instant::now(), 0);
            for some in entries.iter().step_by(6).collect::<Vec<_>>().chunks(at_once) {
                for (ok, made) in join_all(some.iter().map(|entry| ask(entry))).await {
                    (right, all, tokens) = (right + u32::from(ok), all + 1, tokens + made);
                }
            }
            let took = began.elapsed();
            eprintln!("{}: {at_once} at once, {tokens} tokens in {took:?}", model.display());
        }
        eprintln!("{}: {right} of {all} answers are right", model.display());
        assert_eq!(right, all);

        // Longer answers, so that they really share runs: what each is alone.
        let long = async |number: usize| {
            let body = json!({ "model": "chat", "messages": entries[number * 6]["messages"], "temperature": 0,
                "max_tokens": 120 + number * 10, "ignore_eos": true });
            let response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
            let (status, text) = text_of(response).await;
            assert_eq!(status, 200, "{text}");
            let answer: Value = serde_json::from_str(&text).unwrap();
            answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
        };
        let began = Instant::now();
        let mut alone = Vec::new();
        for number in 0..12 {
            alone.push(long(number).await);
        }
        let (first, began) = (began.elapsed(), Instant::now());
        let crowd = join_all((0..12).map(long)).await;
        let same =
            |(one, other): (&String, &String)| one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        let same: Vec<usize> = alone.iter().zip(&crowd).map(same).collect();
        eprintln!(
            "{}: 2,100 tokens alone in {first:?}, in a crowd in {:?}; the same bytes: {same:?} of {:?}",
            model.display(),
            began.elapsed(),
            alone.iter().map(String::len).collect::<Vec<_>>()
        );

        // Several choices of one prompt, and one caller who leaves in the middle.
        let body = json!({ "model": "chat", "messages": entries[0]["messages"], "temperature": 0, "n": 3 });
        let (status, text) =
            text_of(server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap()).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 200, "{text}");
        for choice in answer["choices"].as_array().unwrap() {
            assert_eq!(choice["message"]["content"], entries[0]["answer"], "{answer}");
        }
        let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "tell me everything" }],
            "stream": true, "max_tokens": 900, "ignore_eos": true });
        let mut response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
        let id = header(&response, "x-request-id");
        response.chunk().await.unwrap().unwrap();
        drop(response);
        let record = server.settled(&id).await;
        eprintln!("left after {} tokens: {}", record["usage"]["output_tokens"], record["outcome"]);
        assert_eq!(record["outcome"], "client_left", "{record}");
        assert!(ask(entries[0]).await.0, "and the next one is right");
        let metrics =
            server.http.get(format!("{}/metrics", server.admin)).bearer_auth(&server.key).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        metrics
            .lines()
            .filter(|line| line.contains("cuda") || line.starts_with("mayfly_generation"))
            .for_each(|line| eprintln!("{line}"));
    }
}

/// Where the provider has no kernel for it, generation is refused by name, before any load.
#[tokio::test]
async fn cuda_generation_in_single_precision_is_refused() {
    if !asked("single precision") {
        return;
    }
    let server = Server::start();
    server.add_model("tiny", &tiny_chat("tiny-chat-genai"));
    let spec =
        json!({ "handler": { "builtin": "chat" }, "models": { "model": { "model": "tiny", "device": "cuda" } } });
    let (deployed, answer) = server.deploy("chat", spec).await;
    let said = if deployed.is_success() {
        let body = json!({ "model": "chat", "messages": [{ "role": "user", "content": "hello" }] });
        let response = server.call(Method::POST, "/v1/chat/completions").json(&body).send().await.unwrap();
        format!("{:?}", refused(response).await)
    } else {
        answer.to_string()
    };
    eprintln!("{said}");
    assert!(said.contains("takes F16"), "{said}");
}
