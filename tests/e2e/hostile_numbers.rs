//! What no program does by accident: forged handles, sizes without end, waits for ever, gigabytes. Each is the guest's own
//! fault with a clear text; the next request works, another tenant sees nothing of it, and everything comes back.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, tiny_model};

/// Where guests fail, beside a tenant of its own with a deployment `victim`.
struct Scene {
    server: Server,
    victim: String,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::start();
        server.add_model("rows", &tiny_model("rows.onnx"));
        let limits = json!({ "guest_cpu_ms_max": 200, "deadline_ms_max": 2000, "memory_bytes_max": 16 << 20 });
        server.deploy_guest("bad", "hostile", json!({ "models": { "rows": "rows" }, "limits": limits })).await;
        server.cli_json(&["tenants", "create", "other"]);
        server.cli_json(&["projects", "create", "other", "--tenant", "other"]);
        let made = server.cli_json(&["keys", "create", "--project", "other", "--scope", "call"]);
        let victim = made["secret"].as_str().unwrap().to_owned();
        let stored: Value = server
            .api(Method::PUT, "/projects/other/artifacts")
            .body(crate::harness::guest("hostile"))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let spec = json!({ "handler": { "digest": stored["digest"] }, "models": {} });
        let deployed = server.api(Method::POST, "/projects/other/deployments/victim").json(&spec).send().await.unwrap();
        assert!(deployed.status().is_success());
        Self { server, victim }
    }

    /// Status, and the error's code and message if it is one.
    async fn send(&self, path: &str) -> (u16, String, String) {
        let response =
            self.server.call(Method::POST, &format!("/d/default/bad{path}")).body("body").send().await.unwrap();
        let status = response.status().as_u16();
        let Ok(text) = response.text().await else { return (status, "cut".to_owned(), String::new()) };
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        let part = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
        if status == 200 { (status, String::new(), text) } else { (status, part("code"), part("message")) }
    }

    /// A fault of the guest's own, which says one of `says`; and nobody else notices.
    async fn fails(&self, path: &str, says: &[&str]) {
        let begin = Instant::now();
        let (status, code, message) = self.send(path).await;
        assert!(matches!(status, 502 | 504), "{path}: {status} {code} {message}");
        assert!(matches!(code.as_str(), "handler_failed" | "deadline_exceeded"), "{path}: {code} {message}");
        assert!(says.iter().any(|says| message.contains(says)), "{path}: `{message}` says none of {says:?}");
        assert!(!message.contains("/rustc/") && !message.contains(".rs:"), "{path}: no host path: {message}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{path} took {:?}", begin.elapsed());
        self.others_work(path).await;
    }

    /// Either refused inside the guest, or its own fault: a short answer or an error, and nobody else notices.
    async fn stays_harmless(&self, path: &str) {
        let (status, code, message) = self.send(path).await;
        assert!(matches!(status, 200 | 502 | 504), "{path}: {status} {code} {message}");
        self.others_work(path).await;
    }

    async fn others_work(&self, after: &str) {
        let next = self.server.call(Method::GET, "/d/default/bad/echo").send().await.unwrap();
        assert_eq!(next.status(), 200, "the next request after {after}");
        let victim = self.server.call_with(&self.victim, Method::GET, "/d/other/victim/echo").send().await.unwrap();
        assert_eq!(victim.status(), 200, "another tenant after {after}");
    }

    /// Everything that calls take has come back.
    async fn all_is_back(&self, before: (usize, u64)) {
        let (descriptors, bytes) = before;
        self.server.eventually("instances are gone", async || self.server.get("/node").await["instances"] == 0).await;
        // Some connections of this test's own client may be open.
        self.server.eventually("descriptors come back", async || self.server.descriptors() <= descriptors + 16).await;
        let grown = self.server.resident_bytes().saturating_sub(bytes) >> 20;
        assert!(grown < 192, "the server has grown by {grown} MiB");
    }
}

#[tokio::test]
async fn numbers_are_no_handles() {
    let mut scene = Scene::new().await;
    scene.others_work("nothing").await;
    for kind in ["tensor", "drop", "context", "graph", "request", "fields", "pollable"] {
        for number in [0, 1_u32, 2, 3, 4, 5, 77, 1 << 20, u32::MAX >> 2, u32::MAX - 1] {
            let path = format!("/forge?kind={kind}&number={number}");
            // 1 to 5 may be handles that this very instance has.
            if number < 6 { scene.stays_harmless(&path).await } else { scene.fails(&path, &["trapped"]).await }
        }
    }
    // Handles of an instance that is alive: it sleeps while the numbers it has are tried from another one.
    let plan = json!({ "model": "rows", "inputs": [{ "name": "x", "ty": "f32", "dims": [1, 4], "fill": 7 }],
        "steps": [{ "do": "keep" }, { "do": "sleep", "ms": 1500 }, { "do": "compute" }] });
    let owner = scene.server.call(Method::POST, "/d/default/bad/nn").json(&plan).send();
    let owner = tokio::spawn(owner);
    for number in 1..24 {
        let (status, _, text) = scene.send(&format!("/forge?kind=tensor&number={number}")).await;
        assert_eq!(status, 502, "the tensor of another instance was as good as its own: {text}");
    }
    let answer: Value = owner.await.unwrap().unwrap().json().await.unwrap();
    assert!(answer["steps"][2]["outputs"].is_array(), "{answer}");
    assert!(scene.server.is_alive());
}

#[tokio::test]
async fn a_second_answer_is_not_taken() {
    let scene = Scene::new().await;
    // The first one may have left before the second was refused.
    scene.stays_harmless("/answer-twice").await;
    let (status, ..) = scene.send("/answer-twice").await;
    assert!(matches!(status, 200 | 502), "{status}");
}

#[tokio::test]
async fn waits_for_ever_end_at_the_deadline() {
    let scene = Scene::new().await;
    let before = (scene.server.descriptors(), scene.server.resident_bytes());
    for kind in ["instant", "duration", "poll"] {
        scene.fails(&format!("/sleep-for-ever?kind={kind}"), &["deadline of 2000 ms", "2000"]).await;
    }
    // Forty at once take no thread and no CPU from others.
    let waiting: Vec<_> = (0..40).map(|_| scene.send("/sleep-for-ever")).collect();
    let waiting = futures::future::join_all(waiting);
    let others = async {
        for _ in 0..10 {
            scene.others_work("sleepers").await;
        }
    };
    let (slept, ()) = tokio::join!(waiting, others);
    assert!(slept.iter().all(|(status, ..)| *status == 504), "{slept:?}");
    scene.all_is_back(before).await;
}

#[tokio::test]
async fn what_is_asked_for_without_end_is_bounded() {
    let mut scene = Scene::new().await;
    scene.others_work("nothing").await;
    let before = (scene.server.descriptors(), scene.server.resident_bytes());
    for (path, says) in [
        ("/greed?kind=random", &["trapped", "memory_bytes_max"][..]),
        ("/greed?kind=random&n=1000000000", &["trapped", "memory_bytes_max"]),
        ("/greed?kind=grow", &["memory_bytes_max"]),
        ("/greed?kind=empty-poll", &["trapped"]),
        ("/eat", &["memory_bytes_max"]),
        ("/recurse", &["trapped"]),
    ] {
        for _ in 0..3 {
            scene.fails(path, says).await;
        }
    }
    for kind in ["read", "skip", "zeroes", "splice", "poll", "header", "header-value", "path"] {
        for _ in 0..3 {
            scene.stays_harmless(&format!("/greed?kind={kind}")).await;
        }
    }
    for kind in [
        "fields", "tensor", "pollable", "graph", "context", "error", "response", "request", "options", "headers",
        "stdout",
    ] {
        scene.fails(&format!("/handles?kind={kind}"), &["handles_max", "guest_cpu_ms_max", "memory_bytes_max"]).await;
    }
    scene.all_is_back(before).await;
    assert!(scene.server.is_alive());
}

#[tokio::test]
async fn gigabytes_of_output_cost_the_guests_own_time() {
    let scene = Scene::new().await;
    scene.others_work("nothing").await;
    let before = (scene.server.descriptors(), scene.server.resident_bytes());
    for to in ["stdout", "stderr"] {
        let path = format!("/print?bytes={}&to={to}", 4_u64 << 30);
        // It ends with its CPU time, or with its write refused.
        scene.stays_harmless(&path).await;
    }
    let log = scene.server.api(Method::GET, "/projects/default/deployments/bad/logs?tail=10000").send().await.unwrap();
    let text = log.text().await.unwrap();
    assert!(text.lines().count() > 1, "some of it is kept");
    assert!(text.len() < 1 << 20, "log_bytes_max bounds what a call leaves: {} bytes", text.len());
    // A body without end, for a reader that takes what it gets.
    let (status, code, message) = scene.send(&format!("/body?bytes={}", 4_u64 << 30)).await;
    assert!(code == "cut" || matches!(status, 502 | 504), "{status} {code} {}", message.len());
    scene.others_work("/body").await;
    scene.all_is_back(before).await;
}

#[tokio::test]
async fn ten_thousand_tensors_are_counted_before_anything_runs() {
    let server = Server::start();
    server.add_model("rows", &tiny_model("rows.onnx"));
    let limits = json!({ "handles_max": 20_000, "guest_cpu_ms_max": 10_000 });
    server.deploy_guest("many", "hostile", json!({ "models": { "rows": "rows" }, "limits": limits })).await;
    server.deploy_guest("few", "hostile", json!({ "models": { "rows": "rows" } })).await;
    let send = async |deployment: &str| {
        let path = format!("/d/default/{deployment}/greed?kind=tensors&n=10000");
        let response = server.call(Method::GET, &path).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (status, answer) = send("many").await;
    assert_eq!(status, 200, "{answer}");
    assert!(
        answer["error"].as_str().unwrap().contains("x0"),
        "the error names an input that the model has not: {answer}"
    );
    let (status, answer) = send("few").await;
    assert_eq!(status, 502, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("handles_max"), "{answer}");
    let resident = server.resident_bytes();
    for _ in 0..5 {
        send("many").await;
    }
    assert!(server.resident_bytes() < resident + (64 << 20), "tensors go with their call");
}

#[tokio::test]
async fn a_caller_that_stops_sending_does_not_keep_its_handler() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let scene = Scene::new().await;
    let address = scene.server.data.strip_prefix("http://").unwrap().to_owned();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /d/default/bad/sleep-for-ever?kind=body HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
         content-length: 1000\r\n\r\nonly this",
        scene.server.key
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await;
    let count = read.expect("its deadline ends it").unwrap();
    let text = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(count == 0 || text.starts_with("HTTP/1.1 504"), "{text}");
    scene.server.eventually("its instance is gone", async || scene.server.get("/node").await["instances"] == 0).await;
    scene.others_work("a caller that stopped").await;
}
