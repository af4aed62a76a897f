//! Models that tenants bring, in processes of their own: where they run, and whose trouble their end is.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reqwest::{Method, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{BINARY, Server, guest, header, refused, root, tiny_model};

pub(crate) const ISOLATE: (&str, &str) = ("MAYFLY_MODELS__TENANT_MODELS", "isolate");

/// A tenant with a project of its own name, and a key for all of it.
pub(crate) struct Tenant<'a> {
    server: &'a Server,
    name: &'static str,
    pub(crate) key: String,
}

impl<'a> Tenant<'a> {
    pub(crate) fn new(server: &'a Server, name: &'static str) -> Self {
        server.cli_json(&["tenants", "create", name]);
        server.cli_json(&["projects", "create", name, "--tenant", name]);
        let made = server.cli_json(&["keys", "create", "--project", name, "--scope", "deploy", "--scope", "call"]);
        Self { server, name, key: made["secret"].as_str().unwrap().to_owned() }
    }

    pub(crate) fn cli(&self, args: &[&str]) -> std::process::Output {
        let (url, key) = (&self.server.admin, &self.key);
        let args = [args, &["--project", self.name, "--json"]].concat();
        Command::new(BINARY).args(args).env("MAYFLY_URL", url).env("MAYFLY_KEY", key).output().unwrap()
    }

    /// Brings `rows` and the endless `slow`, and deploys `meter` and `hostile` on them.
    async fn bring(&self) {
        for model in ["rows", "runtime/slow"] {
            let path = tiny_model(&format!("{model}.onnx"));
            let name = model.rsplit('/').next().unwrap();
            let added = self.cli(&["models", "add", name, path.to_str().unwrap(), "--own"]);
            assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
            let added: Value = serde_json::from_slice(&added.stdout).unwrap();
            assert_eq!((&added["approved"], &added["runs"]), (&json!(false), &json!("apart")));
        }
        for (deployment, wasm, models) in
            [("meter", "meter", json!({ "rows": "rows" })), ("nn", "hostile", json!({ "slow": "slow" }))]
        {
            self.deploy(deployment, wasm, models).await;
        }
    }

    /// Deploys a guest on models of its own.
    pub(crate) async fn deploy(&self, deployment: &str, wasm: &str, models: Value) {
        let api = |method: Method, path: &str| {
            let url = format!("{}/api/v1/projects/{}/{path}", self.server.admin, self.name);
            self.server.http.request(method, url).bearer_auth(&self.key)
        };
        let stored: Value = api(Method::PUT, "artifacts").body(guest(wasm)).send().await.unwrap().json().await.unwrap();
        let spec = json!({ "handler": { "digest": stored["digest"] }, "models": models });
        let deployed = api(Method::POST, &format!("deployments/{deployment}")).json(&spec).send().await.unwrap();
        assert!(deployed.status().is_success(), "{}", deployed.text().await.unwrap());
    }

    /// One run of a row.
    async fn run(&self) -> Response {
        let path = format!("/d/{}/meter/?rows=1", self.name);
        self.server.call_with(&self.key, Method::POST, &path).send().await.unwrap()
    }

    /// A run that goes on until it is stopped.
    fn run_for_ever(&self) -> tokio::task::JoinHandle<Response> {
        let plan = json!({ "model": "slow", "inputs": [
            { "name": "times", "ty": "i64", "dims": [], "data": [4e18] },
            { "name": "start", "ty": "f32", "dims": [64, 64], "fill": 0.01 } ] });
        let path = format!("/d/{}/nn/nn", self.name);
        let request = self.server.call_with(&self.key, Method::POST, &path).json(&plan);
        tokio::spawn(async move { request.send().await.unwrap() })
    }
}

impl Tenant<'_> {
    /// Deploys the built-in chat on a model of the tenant's own, as its owner would.
    pub(crate) fn deploy_chat(&self, layout: &str) {
        let folder = root().join("examples/models").join(layout);
        let deployed = self.cli(&["deploy", "builtin:chat", "--model", folder.to_str().unwrap()]);
        assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
    }

    pub(crate) fn chat(&self, body: &Value) -> reqwest::RequestBuilder {
        let path = format!("/d/{}/chat/v1/chat/completions", self.name);
        self.server.call_with(&self.key, Method::POST, &path).json(body)
    }
}

/// The server's worker processes.
fn workers(server: &Server) -> Vec<i32> {
    let mut workers: Vec<i32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let parent =
                read("stat").rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            parent == Some(server.pid()) && read("cmdline").contains("\0__worker\0")
        })
        .collect();
    workers.sort_unstable();
    workers
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_failed_process_is_its_tenants_503_and_nobody_elses() {
    let server = Server::start_with(&[ISOLATE, ("MAYFLY_WORKERS__PAUSE_MS_MIN", "1500")]);
    let (acme, zeta) = (Tenant::new(&server, "acme"), Tenant::new(&server, "zeta"));
    acme.bring().await;
    zeta.bring().await;

    let first = acme.run().await;
    assert_eq!((first.status().as_u16(), header(&first, "x-mayfly-cold").as_str()), (200, "model"));
    let [ours] = workers(&server)[..] else { panic!("{:?}", workers(&server)) };
    assert_eq!(header(&acme.run().await, "x-mayfly-cold"), "instance");
    assert_eq!(zeta.run().await.status(), 200);
    let theirs = *workers(&server).iter().find(|&&pid| pid != ours).unwrap();

    // In the middle of a run.
    let (our_run, their_run) = (acme.run_for_ever(), zeta.run_for_ever());
    let status = |name: &str| format!("/projects/{name}/deployments/nn");
    server
        .eventually("both run", async || {
            let mut calls = 0;
            for name in ["acme", "zeta"] {
                calls += server.get(&status(name)).await["status"]["calls"].as_u64().unwrap();
            }
            calls == 2
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    kill(ours);
    let lost = our_run.await.unwrap().text().await.unwrap();
    assert!(lost.contains("busy: the process for this tenant's own models ended before it had answered"), "{lost}");

    let refusal = acme.run().await;
    let retry: u64 = header(&refusal, "retry-after-ms").parse().unwrap();
    assert!((1..=1500).contains(&retry), "{retry}");
    let id = header(&refusal, "x-request-id");
    let (status, code, message) = refused(refusal).await;
    assert_eq!((status, code.as_str()), (503, "model_worker_crashed"), "{message}");
    let record = server.settled(&id).await;
    assert_eq!(record["outcome"], "guest_fault", "{record}");

    assert!(!is_there(ours), "it was reaped");
    assert!(!their_run.is_finished() && is_there(theirs), "the other tenant saw nothing");
    assert_eq!(zeta.run().await.status(), 200);
    tokio::time::sleep(std::time::Duration::from_millis(retry)).await;
    assert_eq!(acme.run().await.status(), 200, "the time was true");
    assert_eq!(workers(&server).len(), 2);
    their_run.abort();

    let metrics = server.http.get(format!("{}/metrics", server.admin)).bearer_auth(&server.key).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in ["mayfly_workers 2", "mayfly_worker_starts_total 3", "mayfly_worker_crashes_total 1"] {
        assert!(metrics.lines().any(|l| l == line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn an_approved_model_moves_into_the_servers_process() {
    let server = Server::start_with(&[ISOLATE, ("MAYFLY_WORKERS__IDLE_MS", "300")]);
    let acme = Tenant::new(&server, "acme");
    acme.bring().await;
    assert_eq!(acme.run().await.status(), 200);
    let [process] = workers(&server)[..] else { panic!("{:?}", workers(&server)) };
    server.eventually("it is ended when idle", async || !is_there(process)).await;
    assert_eq!(acme.run().await.status(), 200, "and comes back");

    let approved = server.cli_json(&["models", "approve", "rows", "--project", "acme"]);
    assert_eq!((&approved["approved"], &approved["runs"]), (&json!(true), &json!("server")));
    server.eventually("it is idle again", async || workers(&server).is_empty()).await;
    assert_eq!(acme.run().await.status(), 200);
    assert_eq!(workers(&server), Vec::<i32>::new(), "nothing was started for it");
    let shown = server.cli(&["models", "show", "slow", "--project", "acme"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("runs in a process of its tenant's own"), "{shown}");
}

#[tokio::test]
async fn processes_go_with_the_server_however_it_goes() {
    let mut server = Server::start_with(&[ISOLATE]);
    {
        let acme = Tenant::new(&server, "acme");
        acme.bring().await;
        assert_eq!(acme.run().await.status(), 200);
    }
    let [process] = workers(&server)[..] else { panic!("{:?}", workers(&server)) };
    server.kill();
    server.eventually("a killed server takes it along", async || !is_there(process)).await;

    server.restart();
    let left = fs::read_dir(server.folder.path().join("data/node/workers")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "what it could see is gone");
    let key = server.key.clone();
    let acme = Tenant { server: &server, name: "acme", key };
    assert_eq!(acme.run().await.status(), 200);
    let [process] = workers(&server)[..] else { panic!("{:?}", workers(&server)) };
    drop(acme);
    assert!(server.terminate().success());
    server.eventually("so does one that stops", async || !is_there(process)).await;
}

#[tokio::test]
async fn a_stricter_policy_stops_what_a_laxer_one_let_run() {
    let mut server = Server::start_with(&[ISOLATE]);
    {
        let acme = Tenant::new(&server, "acme");
        acme.bring().await;
        assert_eq!(acme.run().await.status(), 200);
    }
    server.restart_with(&[]);
    let key = server.key.clone();
    let acme = Tenant { server: &server, name: "acme", key };
    let stopped = acme.run().await;
    assert_eq!(stopped.status(), 500);
    let text = stopped.text().await.unwrap();
    assert!(text.contains("waits for the operator's approval"), "{text}");
    server.cli_json(&["models", "approve", "rows", "--project", "acme"]);
    assert_eq!(acme.run().await.status(), 200);
}

#[tokio::test]
async fn where_tenants_may_bring_none_the_operator_still_may() {
    let server = Server::start_with(&[("MAYFLY_MODELS__TENANT_MODELS", "refuse")]);
    let acme = Tenant::new(&server, "acme");
    let path = tiny_model("rows.onnx");
    let refused = acme.cli(&["models", "add", "rows", path.to_str().unwrap(), "--own"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("takes no models of projects"), "{text}");
    server.add_model("rows", &path);
    assert_eq!(server.cli_json(&["models", "show", "rows"])["runs"], "server");
}

#[tokio::test]
async fn a_tenant_s_own_model_chats_in_its_process() {
    let server = Server::start_with(&[ISOLATE]);
    let acme = Tenant::new(&server, "acme");
    acme.deploy_chat("tiny-chat-genai");
    let asked: Value =
        serde_json::from_slice(&fs::read(root().join("examples/models/tiny-chat-questions.json")).unwrap()).unwrap();
    for entry in asked["questions"].as_array().unwrap().iter().step_by(40) {
        let mut body = json!({ "messages": entry["messages"], "temperature": 0 });
        if let Some(tools) = entry["tools"].as_array().filter(|tools| !tools.is_empty()) {
            body["tools"] = tools.iter().map(|name| asked["tools"][name.as_str().unwrap()].clone()).collect();
        }
        let response = acme.chat(&body).send().await.unwrap();
        let answer: Value = response.json().await.unwrap();
        let usage = &answer["usage"];
        assert_eq!(usage["completion_tokens"], entry["answer_tokens"], "{entry}: {answer}");
        assert_eq!(usage["prompt_tokens"], entry["prompt_tokens"], "{entry}: {answer}");
        if entry.get("calls").is_none() {
            assert_eq!(answer["choices"][0]["message"]["content"], entry["answer"], "{answer}");
        }
    }
    assert_eq!(workers(&server).len(), 1);
}

#[tokio::test]
async fn what_such_processes_have_at_work_is_counted_and_names_nobody() {
    let server = Server::start_with(&[ISOLATE]);
    let (acme, zeta) = (Tenant::new(&server, "acme"), Tenant::new(&server, "zeta"));
    acme.deploy_chat("tiny-chat-genai");
    zeta.deploy_chat("tiny-chat-genai");
    let ((_, ours), (_, theirs)) = (long_stream(&acme, 2).await, long_stream(&zeta, 1).await);
    let figures = async || {
        let page = server.http.get(format!("{}/metrics", server.admin)).bearer_auth(&server.key).send().await.unwrap();
        let page = page.text().await.unwrap();
        page.lines().filter(|line| line.starts_with("mayfly_worker_")).map(str::to_owned).collect::<Vec<_>>()
    };
    let of = |lines: &[String], figure: &str| {
        let start = format!("mayfly_worker_{figure}{{device=\"cpu\"}} ");
        lines.iter().find_map(|line| line.strip_prefix(&start)).map(|value| value.parse::<u64>().unwrap())
    };
    server
        .eventually("both are counted together", async || {
            let lines = figures().await;
            of(&lines, "models_loaded") == Some(2) && of(&lines, "generation_slots") > Some(0)
        })
        .await;
    // A stream may be over before a process is asked: then there is another.
    server
        .eventually("what is generated is counted", async || {
            let _stream = long_stream(&acme, 8).await;
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            of(&figures().await, "generation_sequences") > Some(0)
        })
        .await;
    let lines = figures().await;
    let labels: Vec<_> = lines.iter().filter_map(|line| line.split_once('{')).map(|(_, labels)| labels).collect();
    assert!(!labels.is_empty() && labels.iter().all(|labels| labels.starts_with("device=\"cpu\"} ")), "{lines:?}");
    let chat = server.get("/projects/acme/deployments/chat").await;
    assert_eq!(chat["status"]["models"][0]["loaded"], true, "{chat}");
    let activity = server.cli_json(&["top", "--once"]);
    let memory = |project: &str| {
        let all = activity["data"].as_array().unwrap_or_else(|| panic!("{activity}"));
        all.iter().find(|entry| entry["project"] == project).unwrap()["model_bytes"].as_u64().unwrap()
    };
    assert!(memory("acme") > 0 && memory("zeta") > 0, "{activity}");
    drop((ours, theirs));
    server.eventually("it is over", async || of(&figures().await, "generation_sequences") == Some(0)).await;
}

/// A stream of so many choices that goes on for long: its request's id, and the response after the first frame.
async fn long_stream(tenant: &Tenant<'_>, choices: u32) -> (String, Response) {
    let body = json!({ "messages": [{ "role": "user", "content": "tell me everything" }], "stream": true,
        "temperature": 0, "max_tokens": 900, "ignore_eos": true, "n": choices });
    let mut response = tenant.chat(&body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let id = header(&response, "x-request-id");
    response.chunk().await.unwrap().unwrap();
    (id, response)
}

#[tokio::test]
async fn a_process_that_fails_in_mid_stream_ends_its_tenants_stream_alone() {
    let server = Server::start_with(&[ISOLATE, ("MAYFLY_WORKERS__PAUSE_MS_MIN", "1500")]);
    let (acme, zeta) = (Tenant::new(&server, "acme"), Tenant::new(&server, "zeta"));
    acme.deploy_chat("tiny-chat-genai");
    zeta.deploy_chat("tiny-chat-optimum");
    let hello = json!({ "messages": [{ "role": "user", "content": "hello" }] });
    assert_eq!(acme.chat(&hello).send().await.unwrap().status(), 200);
    let [our_process] = workers(&server)[..] else { panic!("{:?}", workers(&server)) };
    let (their_id, theirs) = long_stream(&zeta, 1).await;
    let (id, ours) = long_stream(&acme, 16).await;
    kill(our_process);

    let text = ours.text().await.unwrap();
    assert!(text.contains("the process for this tenant's own models ended before it had answered"), "{text}");
    assert!(!text.contains("[DONE]"), "no client takes it for a whole answer: {text}");
    let record = server.settled(&id).await;
    assert_eq!(record["outcome"], "guest_fault", "{record}");
    let billed = record["usage"]["output_tokens"].as_u64().unwrap();
    // What was counted is owed: each piece of text is a token at least, and the first of a choice says who speaks.
    let pieces = text.matches("\"content\":\"").count() as u64;
    assert!(billed >= 1 && billed + 16 >= pieces && billed < 16 * 900, "{record} {pieces}");
    assert!(record["usage"]["input_tokens"].as_u64().unwrap() > 0, "{record}");

    let refusal = acme.chat(&hello).send().await.unwrap();
    let retry: u64 = header(&refusal, "retry-after-ms").parse().unwrap();
    let (status, code, message) = refused(refusal).await;
    assert_eq!((status, code.as_str()), (503, "model_worker_crashed"), "{message}");
    let text = theirs.text().await.unwrap();
    assert!(text.contains("[DONE]"), "the other tenant saw nothing: {text}");
    let record = server.settled(&their_id).await;
    assert_eq!((&record["outcome"], &record["usage"]["output_tokens"]), (&json!("completed"), &json!(900)), "{record}");
    tokio::time::sleep(std::time::Duration::from_millis(retry)).await;
    assert_eq!(acme.chat(&hello).send().await.unwrap().status(), 200, "the time was true");
}

#[tokio::test]
async fn a_caller_who_leaves_stops_a_generation_in_its_process() {
    let server = Server::start_with(&[ISOLATE]);
    let acme = Tenant::new(&server, "acme");
    acme.deploy_chat("tiny-chat-genai");
    let (id, response) = long_stream(&acme, 8).await;
    drop(response);
    let record = server.settled(&id).await;
    assert_eq!(record["outcome"], "client_left", "{record}");
    assert!((1..8 * 900).contains(&record["usage"]["output_tokens"].as_u64().unwrap()), "{record}");
    let [process] = workers(&server)[..] else { panic!("{:?}", workers(&server)) };
    let body = json!({ "messages": [{ "role": "user", "content": "hello" }] });
    assert_eq!(acme.chat(&body).send().await.unwrap().status(), 200);
    assert_eq!(workers(&server), [process], "the same process");
}

#[tokio::test]
async fn options_limits_and_filters_hold_for_a_model_that_runs_apart() {
    let server = Server::start_with(&[ISOLATE]);
    let acme = Tenant::new(&server, "acme");
    acme.deploy_chat("tiny-chat-genai");
    let ask = async |more: Value| {
        let mut body =
            json!({ "messages": [{ "role": "user", "content": "Where does a handler run?" }], "temperature": 0 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let response = acme.chat(&body).send().await.unwrap();
        let cold = header(&response, "x-mayfly-cold");
        (response.status().as_u16(), response.json::<Value>().await.unwrap(), cold)
    };
    let (status, first, cold) = ask(json!({})).await;
    assert_eq!((status, cold.as_str()), (200, "model"), "{first}");
    let content = |answer: &Value, at: usize| answer["choices"][at]["message"]["content"].clone();
    assert_eq!(content(&first, 0), "In a WebAssembly sandbox, next to the models it was granted.");
    let (_, again, cold) = ask(json!({})).await;
    assert_eq!((content(&again, 0), cold.as_str()), (content(&first, 0), "instance"));
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0, "{again}");

    let (_, several, _) = ask(json!({ "n": 3, "logprobs": true, "top_logprobs": 2 })).await;
    for at in 0..3 {
        assert_eq!(content(&several, at), content(&first, 0));
        let place = &several["choices"][at]["logprobs"]["content"][0];
        assert_eq!(place["top_logprobs"].as_array().unwrap().len(), 2, "{several}");
    }
    let (_, strict, _) = ask(json!({ "guided_choice": ["yes", "no"] })).await;
    assert!([json!("yes"), json!("no")].contains(&content(&strict, 0)), "{strict}");
    let schema = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": { "if": {} } } });
    let (status, refused, _) = ask(json!({ "response_format": schema })).await;
    assert_eq!(status, 400, "{refused}");
    let (status, long, _) = ask(json!({ "max_tokens": 100_000 })).await;
    assert_eq!((status, &long["error"]["code"]), (400, &json!("context_length_exceeded")), "{long}");

    let filter = json!({ "handler": { "builtin": "chat" }, "models": { "model": "tiny-chat-genai" },
        "filter": { "block": ["sandbox"] } });
    let url = format!("{}/api/v1/projects/acme/deployments/chat", server.admin);
    let deployed = server.http.post(url).bearer_auth(&acme.key).json(&filter).send().await.unwrap();
    assert!(deployed.status().is_success(), "{}", deployed.text().await.unwrap());
    let (_, cut, _) = ask(json!({})).await;
    assert_eq!(cut["choices"][0]["finish_reason"], "content_filter", "{cut}");
    assert_eq!(content(&cut, 0), "In a WebAssembly ");
    assert_eq!(workers(&server).len(), 1);
}
