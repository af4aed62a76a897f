//! Guests that misbehave: each gets a clear error, spoils only its own request, and the next request works.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::Server;

/// Tight limits, so that the tests are quick.
fn limits() -> Value {
    json!({ "limits": { "guest_cpu_ms_max": 200, "deadline_ms_max": 5000, "memory_bytes_max": 16 << 20, "handles_max": 200 } })
}

async fn hostile() -> Server {
    let server = Server::start();
    server.deploy_guest("bad", "hostile", limits()).await;
    server
}

/// The answer to a GET of the hostile guest: status, and the error's code and message.
async fn misbehave(server: &Server, path: &str) -> (u16, String, String) {
    let response = server.call(Method::GET, &format!("/d/default/bad{path}")).send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {status} {text}"));
    let part = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
    (status, part("code"), part("message"))
}

async fn still_answers(server: &Server) {
    let response = server.call(Method::GET, "/d/default/bad/echo").send().await.unwrap();
    assert_eq!(response.status(), 200, "the next request works");
}

#[tokio::test]
async fn each_fault_is_named_and_the_next_request_works() {
    let mut server = hostile().await;
    for (path, status, code, says) in [
        ("/spin", 502, "handler_failed", "guest_cpu_ms_max = 200"),
        ("/recurse", 502, "handler_failed", "trapped"),
        ("/eat", 502, "handler_failed", "memory_bytes_max"),
        ("/panic", 502, "handler_failed", "trapped"),
        ("/no-answer", 502, "handler_failed", "without setting a response"),
        ("/exit?code=0", 502, "handler_failed", "exit"),
        ("/handles?kind=fields", 502, "handler_failed", "handles_max"),
        ("/sleep?ms=60000", 504, "deadline_exceeded", "5000"),
    ] {
        let (got_status, got_code, message) = misbehave(&server, path).await;
        assert_eq!((got_status, got_code.as_str()), (status, code), "{path}: {message}");
        assert!(message.contains(says), "{path}: `{message}` does not say `{says}`");
        assert!(!message.contains("/rustc/") && !message.contains(".rs:"), "{path}: no host path: {message}");
        still_answers(&server).await;
    }
    assert!(server.is_alive());
}

#[tokio::test]
async fn a_trap_in_mid_answer_cuts_the_connection() {
    let server = hostile().await;
    for path in ["/trap-mid", "/spin-mid"] {
        let response = server.call(Method::GET, &format!("/d/default/bad{path}")).send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        if response.status() == 502 {
            // The fault came before anything had left: the caller gets a proper error.
            assert!(response.text().await.unwrap().contains("handler_failed"));
        } else {
            assert_eq!(response.status(), 200);
            assert!(response.bytes().await.is_err(), "{path}: a part must not pass for the whole");
        }
        still_answers(&server).await;
        server
            .eventually("the call is settled", async || server.get(&format!("/requests/{id}")).await["ended"] == true)
            .await;
        let call = server.get(&format!("/requests/{id}")).await;
        assert_eq!(call["outcome"], "guest_fault", "{path}: {call}");
    }
}

#[tokio::test]
async fn a_body_may_not_end_unfinished() {
    let server = hostile().await;
    let response = server.call(Method::GET, "/d/default/bad/unfinished").send().await.unwrap();
    let whole = response.status().is_success() && response.bytes().await.is_ok();
    assert!(!whole, "an unfinished body is no success");
    still_answers(&server).await;
}

#[tokio::test]
async fn reserved_and_lying_headers_do_not_pass() {
    let server = hostile().await;
    let response = server.call(Method::GET, "/d/default/bad/headers?kind=reserved").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    assert_eq!(headers["x-own"], "kept");
    for (name, forged) in [
        ("x-mayfly-cold", "none"),
        ("x-mayfly-usage", "0"),
        ("x-request-id", "forged"),
        ("server-timing", "guest;dur=0"),
        ("x-ratelimit-remaining-requests", "999"),
        ("content-security-policy", "default-src *"),
    ] {
        assert!(headers.get_all(name).iter().all(|value| value != forged), "{name} came from the guest");
    }
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert!(headers.get("set-cookie").is_none());
    for kind in ["long", "short", "huge", "many"] {
        let response = server.call(Method::GET, &format!("/d/default/bad/headers?kind={kind}")).send().await;
        let whole = match response {
            Ok(response) => response.status().is_success() && response.bytes().await.is_ok(),
            Err(_) => false,
        };
        assert!(!whole, "{kind}: a lying head is no success");
        still_answers(&server).await;
    }
}

#[tokio::test]
async fn a_flood_of_output_is_bounded() {
    let server = hostile().await;
    let response = server.call(Method::GET, "/d/default/bad/print?bytes=1000000&to=stderr").send().await.unwrap();
    assert!(response.status().as_u16() < 600);
    let log = server.api(Method::GET, "/projects/default/deployments/bad/logs?tail=10000").send().await.unwrap();
    let text = log.text().await.unwrap();
    assert!(text.lines().count() > 1, "some of it is kept");
    assert!(text.len() < 400_000, "log_bytes_max bounds what one call writes, {} bytes", text.len());
    still_answers(&server).await;
}

#[tokio::test]
async fn the_sandbox_shows_nothing() {
    let server = hostile().await;
    let response = server.call(Method::GET, "/d/default/bad/env").send().await.unwrap();
    let seen: Value = response.json().await.unwrap();
    for empty in ["vars", "args"] {
        assert_eq!(seen[empty], json!([]), "{seen}");
    }
    for denied in ["read_dir", "read_file", "write_file", "tcp", "udp", "resolve"] {
        assert!(seen[denied]["err"].is_string(), "{denied}: {seen}");
    }
    assert!(seen["outgoing"].to_string().contains("HttpRequestDenied"), "{seen}");
}

#[tokio::test]
async fn a_request_body_over_its_limit_is_refused() {
    let server = Server::start();
    server.deploy_guest("bad", "hostile", json!({ "limits": { "request_body_bytes_max": 1000 } })).await;
    // With a length the host can tell at once; without one, when the limit is passed.
    let known = server.call(Method::POST, "/d/default/bad/echo").body(vec![b'x'; 1001]);
    assert_eq!(known.send().await.unwrap().status(), 413);
    let pieces = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let unknown =
        server.call(Method::POST, "/d/default/bad/echo").body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
    // The guest was already reading: its read fails at the limit, and what it makes of that is its own answer.
    let seen: Value = unknown.json().await.unwrap();
    assert!(seen["body"]["error"].is_string(), "{seen}");
    let fits = server.call(Method::POST, "/d/default/bad/echo").body(vec![b'x'; 1000]).send().await.unwrap();
    assert_eq!(fits.status(), 200);
}

/// Its body is still to come when it is refused: its client reads the refusal and goes on, on the same connection.
#[tokio::test]
async fn a_refused_request_leaves_its_connection_usable() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = Server::start();
    server.deploy_guest("bad", "hostile", json!({ "limits": { "request_body_bytes_max": 1000 } })).await;
    let mut stream = tokio::net::TcpStream::connect(server.data.strip_prefix("http://").unwrap()).await.unwrap();
    let head = |length: usize| {
        let key = &server.key;
        format!(
            "POST /d/default/bad/echo HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    stream.write_all(head(100_000).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    stream.write_all(&[b'x'; 100_000]).await.unwrap();
    stream.write_all(head(2).as_bytes()).await.unwrap();
    stream.write_all(b"ok").await.unwrap();
    let mut answers = String::new();
    let mut bytes = [0; 4096];
    while !answers.contains("HTTP/1.1 200") {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut bytes)).await;
        let count = read.expect("both are answered").unwrap();
        assert!(count > 0, "closed after {answers}");
        answers.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(answers.starts_with("HTTP/1.1 413"), "{answers}");
}

#[tokio::test]
async fn a_response_over_its_limit_is_cut() {
    let server = Server::start();
    server.deploy_guest("bad", "hostile", json!({ "limits": { "response_body_bytes_max": 100_000 } })).await;
    let response = server.call(Method::GET, "/d/default/bad/body?bytes=1000000").send().await.unwrap();
    let whole = response.status().is_success() && response.bytes().await.is_ok();
    assert!(!whole);
    still_answers(&server).await;
}

#[tokio::test]
async fn a_spinning_neighbour_does_not_stop_a_victim() {
    let server = hostile().await;
    server.deploy_guest("victim", "hostile", json!({})).await;
    let spinning: Vec<_> = (0..8).map(|_| server.call(Method::GET, "/d/default/bad/spin").send()).collect();
    let spinning = tokio::spawn(futures::future::join_all(spinning));
    for _ in 0..10 {
        let response = server.call(Method::GET, "/d/default/victim/echo").send().await.unwrap();
        assert_eq!(response.status(), 200);
    }
    for answer in spinning.await.unwrap() {
        // Its CPU limit, or on a busy machine its deadline.
        assert!(matches!(answer.unwrap().status().as_u16(), 502 | 504));
    }
}

#[tokio::test]
async fn a_handler_that_goes_on_after_its_answer_is_dropped() {
    let server = hostile().await;
    let response = server.call(Method::GET, "/d/default/bad/late?ms=60000").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(response.bytes().await.is_ok(), "its answer was whole");
    server.eventually("its instance is gone", async || server.get("/node").await["instances"] == 0).await;
    let call = server.get(&format!("/requests/{id}")).await;
    assert_eq!((call["ended"].as_bool(), call["status"].as_u64()), (Some(true), Some(200)), "{call}");
    still_answers(&server).await;
}
