//! Limits over HTTP: each kind at each level, what a refusal says, and the wait it names.

use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::harness::{Server, guest, header, refused, tiny_model};

/// A server with `embeddings` (one input token costs 1 once it is priced) and `hostile`, and a key for calls.
struct Scene {
    server: Server,
    key: String,
    secret: String,
    /// Input tokens of one text.
    text_tokens: u64,
    spent: u64,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::start();
        server.add_model("embedder", &tiny_model("embedder"));
        server.cli_json(&["deploy", "builtin:embeddings", "--model", "embedder"]);
        server.deploy_guest("hostile", "hostile", json!({})).await;
        let (key, secret) = server.call_key(json!({})).await;
        let mut scene = Self { server, key, secret, text_tokens: 0, spent: 0 };
        let response = scene.embed(1).await;
        let id = header(&response, "x-request-id");
        response.bytes().await.unwrap();
        let record = scene.server.settled(&id).await;
        scene.text_tokens = record["usage"]["input_tokens"].as_u64().unwrap_or_else(|| panic!("{record}"));
        scene
    }

    /// Calls that use so many texts' tokens.
    async fn embed(&self, texts: u64) -> Response {
        let body = json!({ "input": (0..texts).map(|_| "hello").collect::<Vec<_>>() });
        let path = "/d/default/embeddings/v1/embeddings";
        self.server.call_with(&self.secret, Method::POST, path).json(&body).send().await.unwrap()
    }

    /// The same, which must be let through.
    async fn spend(&mut self, texts: u64) {
        let response = self.embed(texts).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        // On a busy machine it comes as a stream, and is settled with its end.
        response.bytes().await.unwrap();
        self.spent += texts * self.text_tokens;
    }

    async fn echo(&self) -> Response {
        self.server.call_with(&self.secret, Method::GET, "/d/default/hostile/echo").send().await.unwrap()
    }

    /// Level and the path of its limits; `deployment` for that level.
    fn levels(&self, deployment: &str) -> [(&'static str, String); 4] {
        [
            ("tenant", "/tenants/default".to_owned()),
            ("project", "/projects/default".to_owned()),
            ("deployment", format!("/projects/default/deployments/{deployment}")),
            ("key", format!("/keys/{}", self.key)),
        ]
    }
}

/// What a refusal by a rate says; gives the wait.
async fn rate_refusal(response: Response, level: &str, limit: &str) -> Duration {
    let ms: u64 = header(&response, "retry-after-ms").parse().unwrap();
    let seconds: u64 = header(&response, "retry-after").parse().unwrap();
    assert_eq!(seconds, ms.div_ceil(1000), "rounded up");
    assert_eq!(header(&response, "x-should-retry"), "", "a retry is welcome");
    let (status, code, message) = refused(response).await;
    assert_eq!((status, code.as_str()), (429, "rate_limited"), "{message}");
    for part in [level, limit, "used", "requested"] {
        assert!(message.contains(part), "{message}");
    }
    Duration::from_millis(ms)
}

#[tokio::test]
async fn a_lone_retry_at_the_stated_time_succeeds_at_every_level() {
    let scene = Scene::new().await;
    for (level, path) in scene.levels("hostile") {
        scene.server.limit(&path, json!({ "requests_per_minute": 60 })).await;
        let first = scene.echo().await;
        assert_eq!(first.status(), 200);
        assert_eq!(header(&first, "x-ratelimit-limit-requests"), "60");
        assert_eq!(header(&first, "x-ratelimit-remaining-requests"), "59");
        assert!(header(&first, "x-ratelimit-reset-requests").ends_with('s'));
        assert_eq!(header(&first, "ratelimit-policy"), "\"requests\";q=60;w=60");
        assert!(header(&first, "ratelimit").starts_with("\"requests\";r=59;t="), "{first:?}");
        assert_eq!(header(&first, "x-ratelimit-limit-tokens"), "", "there is no such limit");

        let begin = Instant::now();
        let (mut let_in, mut refusal) = (1, None);
        while refusal.is_none() && let_in < 200 {
            let response = scene.echo().await;
            if response.status() == 200 { let_in += 1 } else { refusal = Some(response) }
        }
        let drained = usize::try_from(begin.elapsed().as_secs()).unwrap() + 2;
        assert!((60..=60 + drained).contains(&let_in), "{level}: {let_in} let in");
        let refusal = refusal.unwrap();
        assert_eq!(header(&refusal, "x-ratelimit-remaining-requests"), "0");
        let wait = rate_refusal(refusal, level, "requests_per_minute = 60").await;
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        tokio::time::sleep(wait).await;
        assert_eq!(scene.echo().await.status(), 200, "{level}: the stated time was too short");
        scene.server.limit(&path, json!({})).await;
    }
}

#[tokio::test]
async fn tokens_per_minute_at_every_level() {
    let scene = Scene::new().await;
    let unit = scene.text_tokens;
    let limit = unit * 60;
    for (level, path) in scene.levels("embeddings") {
        scene.server.limit(&path, json!({ "tokens_per_minute": limit })).await;
        let first = scene.embed(30).await;
        assert_eq!(first.status(), 200, "{}", first.text().await.unwrap());
        assert_eq!(header(&first, "x-ratelimit-limit-tokens"), limit.to_string());
        let left: u64 = header(&first, "x-ratelimit-remaining-tokens").parse().unwrap();
        assert!((limit / 2..limit / 2 + 10 * unit).contains(&left), "{left}");
        assert!(header(&first, "ratelimit-policy").contains(&format!("\"tokens\";q={limit};w=60")));
        assert_eq!(scene.embed(29).await.status(), 200);

        // One text drains in a second: a call of 20 has to wait for most of them.
        let response = scene.embed(20).await;
        let id = header(&response, "x-request-id");
        let wait = rate_refusal(response, level, &format!("tokens_per_minute = {limit}")).await;
        assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(20), "{wait:?}");
        let record = scene.server.settled(&id).await;
        assert_eq!((&record["outcome"], &record["usage"]["input_tokens"]), (&json!("refused"), &Value::Null));

        let wait = rate_refusal(scene.embed(5).await, level, "tokens_per_minute").await;
        tokio::time::sleep(wait).await;
        assert_eq!(scene.embed(5).await.status(), 200, "{level}: the stated time was too short");

        // What an empty bucket could not hold never fits.
        let response = scene.embed(61).await;
        assert_eq!(header(&response, "x-should-retry"), "false");
        assert_eq!(header(&response, "retry-after-ms"), "");
        let (status, code, message) = refused(response).await;
        assert_eq!((status, code.as_str()), (400, "request_too_large_for_limit"), "{message}");
        assert!(message.contains(level) && message.contains("never fit"), "{message}");
        scene.server.limit(&path, json!({})).await;
    }
}

#[tokio::test]
async fn concurrency_at_every_level() {
    let scene = Scene::new().await;
    let path = "/d/default/hostile/stream?frames=1000&ms=20";
    for (level, limits) in scene.levels("hostile") {
        scene.server.limit(&limits, json!({ "concurrency": 1 })).await;
        let mut open = scene.server.call_with(&scene.secret, Method::GET, path).send().await.unwrap();
        assert!(open.chunk().await.unwrap().is_some());
        let response = scene.echo().await;
        assert_eq!(header(&response, "x-mayfly-retry-estimate"), "true", "nobody knows when a call ends");
        let (status, code, message) = refused(response).await;
        assert_eq!((status, code.as_str()), (429, "rate_limited"));
        assert!(message.contains(level) && message.contains("concurrency = 1: 1 used, 1 requested"), "{message}");
        drop(open);
        scene.server.eventually("the place is free again", async || scene.echo().await.status() == 200).await;
        scene.server.limit(&limits, json!({})).await;
    }
}

/// A refusal for money says level and limit, and that no retry helps.
async fn money_refusal(response: Response, level: &str, limit: &str) {
    assert_eq!(header(&response, "x-should-retry"), "false");
    assert_eq!(header(&response, "retry-after-ms"), "");
    let (status, code, message) = refused(response).await;
    assert_eq!((status, code.as_str()), (402, "insufficient_quota"), "{message}");
    assert!(message.contains(level) && message.contains(limit), "{message}");
}

#[tokio::test]
async fn money_at_every_level() {
    let mut scene = Scene::new().await;
    scene.server.price("input_tokens", "1");
    let unit = scene.text_tokens;
    for (level, path) in scene.levels("embeddings") {
        let cap = scene.spent + 10 * unit;
        scene.server.limit(&path, json!({ "spend": { "amount": cap.to_string(), "per": "month" } })).await;
        scene.spend(8).await;
        money_refusal(scene.embed(3).await, level, &format!("spend = {cap} per month")).await;
        scene.spend(2).await;
        money_refusal(scene.embed(1).await, level, "spend").await;

        let small = json!({ "spend": { "amount": (unit * 2).to_string(), "per": "month" } });
        scene.server.limit(&path, small).await;
        assert_eq!(scene.embed(1).await.status(), 402, "a cap that is lowered below what was spent");
        scene.server.limit(&path, json!({ "request_cost_max": (unit * 2).to_string() })).await;
        scene.spend(2).await;
        money_refusal(scene.embed(3).await, level, &format!("limit request_cost_max = {}: 0 held", unit * 2)).await;
        scene.server.limit(&path, json!({})).await;
    }
    let usage = scene.server.get("/usage").await;
    assert_eq!(usage["total"]["cost"], scene.spent.to_string(), "what was refused cost nothing: {usage}");
}

#[tokio::test]
async fn prepaid_credit_is_used_up_at_every_level() {
    let mut scene = Scene::new().await;
    scene.server.price("input_tokens", "1");
    let unit = scene.text_tokens;
    for (level, path) in scene.levels("embeddings") {
        scene.server.limit(&path, json!({ "prepaid": true })).await;
        money_refusal(scene.embed(1).await, level, "no credit was granted").await;
        let grant = json!({ "amount": (unit * 3).to_string() });
        let granted = scene.server.api(Method::POST, &format!("{path}/credit")).json(&grant).send().await.unwrap();
        assert_eq!(granted.status(), 201);
        scene.spend(2).await;
        money_refusal(scene.embed(2).await, level, "prepaid").await;
        scene.spend(1).await;
        money_refusal(scene.embed(1).await, level, "prepaid").await;
        let credit = scene.server.get(&format!("{path}/credit")).await;
        assert_eq!((&credit["balance"], &credit["spent"]), (&json!("0"), &json!((unit * 3).to_string())), "{credit}");
        scene.server.limit(&path, json!({})).await;
    }
}

#[tokio::test]
async fn what_would_be_more_than_a_whole_cap_never_fits() {
    let scene = Scene::new().await;
    scene.server.price("input_tokens", "1");
    let cap = scene.text_tokens * 4;
    scene.server.limit("/projects/default", json!({ "spend": { "amount": cap.to_string(), "per": "day" } })).await;
    let response = scene.embed(5).await;
    assert_eq!(header(&response, "x-should-retry"), "false");
    let (status, code, message) = refused(response).await;
    assert_eq!((status, code.as_str()), (400, "request_too_large_for_limit"), "{message}");
    assert_eq!(scene.embed(4).await.status(), 200);
}

#[tokio::test]
async fn wake_ups_are_limited_and_warm_calls_are_not() {
    let server = Server::start_with(&[("MAYFLY_HOST__CODE_IDLE_MS", "1500")]);
    server.deploy_guest("echo", "hostile", json!({})).await;
    let echo = async || server.call(Method::GET, "/d/default/echo/echo").send().await.unwrap();
    let level = "/projects/default/deployments/echo";
    server.limit(level, json!({ "wakeups_per_minute": 1 })).await;
    for _ in 0..5 {
        assert_eq!(echo().await.status(), 200, "one wake-up, then it is warm");
    }
    server.eventually("it sleeps", async || server.get(level).await["status"]["tier"] == "zero").await;
    let wait = rate_refusal(echo().await, "deployment", "wakeups_per_minute = 1").await;
    assert!(wait > Duration::from_secs(20) && wait <= Duration::from_secs(60), "{wait:?}");
    assert_eq!(server.get(level).await["status"]["tier"], "zero", "who is refused wakes nobody");
    server.limit(level, json!({ "wakeups_per_minute": 2 })).await;
    assert_eq!(echo().await.status(), 200, "a change holds at once");
}

#[tokio::test]
async fn fifty_changes_at_once_never_give_out_more_than_the_pool() {
    const POOL: u64 = 1000;
    let server = Server::start();
    let (_, stored) = server.upload(guest("plain")).await;
    for number in 0..5 {
        let (status, _) =
            server.deploy(&format!("d{number}"), json!({ "handler": { "digest": stored["digest"] } })).await;
        assert!(status.is_success());
    }
    server.limit("/projects/default", json!({ "tokens_per_minute": POOL })).await;
    let path = |number: usize| format!("/projects/default/deployments/d{}/limits", number % 5);
    let changes = (0..50_usize).map(|number| {
        let share = json!({ "tokens_per_minute": 150 + 50 * (number % 7) });
        server.api(Method::PUT, &path(number)).json(&share).send()
    });
    let answers = futures::future::join_all(changes).await;
    let statuses: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().status().as_u16()).collect();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 409)), "{statuses:?}");
    assert!(statuses.contains(&200) && statuses.contains(&409), "{statuses:?}");
    let mut given_out = 0;
    for number in 0..5 {
        let limits = server.get(&path(number)).await;
        given_out += limits["tokens_per_minute"].as_u64().unwrap_or(0);
    }
    assert!(given_out <= POOL, "{given_out} given out of {POOL}");
    let smaller = json!({ "tokens_per_minute": given_out - 1 });
    let response = server.api(Method::PUT, "/projects/default/limits").json(&smaller).send().await.unwrap();
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "conflict");
    assert!(problem["detail"].as_str().unwrap().contains(&given_out.to_string()), "{problem}");
}

#[tokio::test]
async fn a_deploy_key_leaves_the_operators_limits_alone() {
    let server = Server::start();
    server.deploy_guest("echo", "hostile", json!({})).await;
    let deploy = server.cli_json(&["keys", "create", "--project", "default", "--scope", "deploy"]);
    let deploy = deploy["secret"].as_str().unwrap();
    let (key, _) = server.call_key(json!({})).await;
    let put = async |path: &str, limits: Value| {
        let url = format!("{}/api/v1{path}/limits", server.admin);
        let response = server.http.put(url).bearer_auth(deploy).json(&limits).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap()["code"].as_str().unwrap_or_default().to_owned())
    };
    let forbidden = (403, "insufficient_scope".to_owned());
    for path in ["/projects/default/deployments/echo".to_owned(), format!("/keys/{key}")] {
        assert_eq!(put(&path, json!({ "concurrency": 3 })).await.0, 200, "its own");
        server.limit(&path, json!({ "concurrency": 2 })).await;
        for wanted in [json!({}), json!({ "concurrency": 9 }), json!({ "concurrency": 1 })] {
            assert_eq!(put(&path, wanted).await, forbidden);
        }
        assert_eq!(server.get(&format!("{path}/limits")).await, json!({ "concurrency": 2 }));
        server.limit(&path, json!({})).await;
        assert_eq!(put(&path, json!({ "concurrency": 4 })).await.0, 200, "the operator has let go of it");
    }
    for path in ["/projects/default", "/tenants/default"] {
        assert_ne!(put(path, json!({ "concurrency": 3 })).await.0, 200);
    }
}
