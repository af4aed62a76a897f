//! Keys in time: two of each deployment, made anew under load; the end of a key in mid-stream; what each may call.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, guest};

const SLOTS: &str = "/projects/default/deployments/meter/keys";

async fn rotate(server: &Server, slot: &str) -> (String, String) {
    let response = server.api(Method::POST, &format!("{SLOTS}/{slot}")).send().await.unwrap();
    assert_eq!(response.status(), 201);
    let made: Value = response.json().await.unwrap();
    (made["key"]["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
}

/// What callers of a fleet share: the secret they use now, and which of them have seen it.
#[derive(Clone)]
struct Fleet(Arc<Mutex<(u32, String)>>);

impl Fleet {
    fn now(&self) -> (u32, String) {
        self.0.lock().unwrap().clone()
    }

    fn moves_to(&self, secret: &str) -> u32 {
        let mut now = self.0.lock().unwrap();
        *now = (now.0 + 1, secret.to_owned());
        now.0
    }
}

#[tokio::test]
async fn rotation_under_load_loses_no_call() {
    const CALLERS: usize = 4;
    const ROTATIONS: u32 = 10;
    let server = Server::start_metered(&[]).await;
    let (primary, secret) = rotate(&server, "primary").await;
    let (secondary, _) = rotate(&server, "secondary").await;
    let fleet = Fleet(Arc::new(Mutex::new((0, secret))));
    let seen: Arc<Vec<AtomicU32>> = Arc::new((0..CALLERS).map(|_| AtomicU32::new(0)).collect());
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (fleet, seen, http) = (fleet.clone(), Arc::clone(&seen), server.http.clone());
            let url = format!("{}/d/default/meter/?rows=1", server.data);
            tokio::spawn(async move {
                let mut answers = 0_i64;
                loop {
                    let (generation, secret) = fleet.now();
                    let response = http.post(&url).bearer_auth(&secret).send().await.unwrap();
                    let status = response.status();
                    assert_eq!(status, 200, "generation {generation}: {}", response.text().await.unwrap());
                    answers += 1;
                    // No call of this caller runs on an older key any more.
                    seen[caller].store(generation, Ordering::Release);
                    if generation >= ROTATIONS {
                        return answers;
                    }
                }
            })
        })
        .collect();

    for turn in 0..ROTATIONS {
        let (slot, id) = if turn % 2 == 0 { ("secondary", &secondary) } else { ("primary", &primary) };
        let (same, fresh) = rotate(&server, slot).await;
        assert_eq!(same, *id, "the key keeps its id, so that its limits count on");
        let generation = fleet.moves_to(&fresh);
        server
            .eventually("everybody has moved", async || {
                seen.iter().all(|caller| caller.load(Ordering::Acquire) >= generation)
            })
            .await;
    }
    let mut answers = 0;
    for caller in callers {
        answers += caller.await.unwrap();
    }
    let usage = server.get("/usage?group_by=key").await;
    assert_eq!(usage["total"]["calls"], json!(answers), "{usage}");
    assert_eq!(usage["data"].as_array().unwrap().len(), 2, "two keys, whatever their secrets were: {usage}");

    // A secret that was replaced is dead at once; the other one lives.
    let (_, current) = fleet.now();
    let (_, fresh) = rotate(&server, "primary").await;
    let status = async |secret: &str| {
        server.call_with(secret, Method::POST, "/d/default/meter/").send().await.unwrap().status().as_u16()
    };
    assert_eq!((status(&current).await, status(&fresh).await), (401, 200));
    let shown = server.get(SLOTS).await;
    assert_eq!((&shown["primary"]["id"], &shown["secondary"]["id"]), (&json!(primary), &json!(secondary)));
    server
        .eventually("the time of the last use is written", async || {
            server.get(SLOTS).await["primary"]["last_used_at"].is_string()
        })
        .await;
}

#[tokio::test]
async fn a_key_that_expires_in_mid_stream_lets_its_call_end() {
    let server = Server::start_metered(&[]).await;
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() + 1_500_000;
    let end = mayfly_api::Timestamp::from_micros(i64::try_from(micros).unwrap()).to_string();
    let (id, secret) = server.call_key(json!({ "expires_at": end })).await;
    let mut stream =
        server.call_with(&secret, Method::GET, "/d/default/meter/?frames=30&rows=1&ms=100").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let call = stream.headers()["x-request-id"].to_str().unwrap().to_owned();
    let again = async || server.call_with(&secret, Method::POST, "/d/default/meter/").send().await.unwrap().status();
    server.eventually("the key has expired", async || again().await == 401).await;
    assert_eq!(server.get(&format!("/requests/{call}")).await["ended"], false, "the call runs on");
    let mut bytes = 0;
    while let Some(chunk) = stream.chunk().await.unwrap() {
        bytes += chunk.len();
    }
    assert_eq!(bytes, 30 * 64);
    let record = server.settled(&call).await;
    assert_eq!(
        (&record["outcome"], &record["usage"]["rows"], &record["key"]),
        (&json!("completed"), &json!(30), &json!(id)),
        "{record}"
    );
    let past = json!({ "scopes": ["call"], "project": "default", "expires_at": end });
    let refused = server.api(Method::POST, "/keys").json(&past).send().await.unwrap();
    assert!(refused.status().is_client_error(), "a key that never works is not made");
}

#[tokio::test]
async fn a_key_bound_to_a_deployment_finds_no_other() {
    let server = Server::start_metered(&[]).await;
    let (_, stored) = server.upload(guest("hostile")).await;
    server.deploy("other", json!({ "handler": { "digest": stored["digest"] } })).await;
    let (_, bound) = server.call_key(json!({ "deployments": ["meter"] })).await;
    let (_, slot) = rotate(&server, "primary").await;
    for secret in [&bound, &slot] {
        let status =
            async |path: &str| server.call_with(secret, Method::POST, path).send().await.unwrap().status().as_u16();
        assert_eq!((status("/d/default/meter/").await, status("/d/default/other/echo").await), (200, 404));
    }
    let gone = server.api(Method::DELETE, "/projects/default/deployments/meter").send().await.unwrap();
    assert_eq!(gone.status(), 204);
    let other = async |secret: &str| {
        server.call_with(secret, Method::GET, "/v1/models").send().await.unwrap().status().as_u16()
    };
    assert_eq!(other(&slot).await, 401, "a deployment takes its own two keys with it");
    assert_eq!(other(&bound).await, 200, "a key that names it lives, and reaches nothing");
}
