//! Back-pressure over HTTP: limits answer at once, lines are short and in order, nobody waits past a deadline, and none
//! of it is felt next door.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::json;

use crate::harness::{Server, header, refused};

/// A server with deployment `busy` (its path decides what it does) of this scale, and `calm`.
async fn scene(settings: &[(&str, &str)], scale: serde_json::Value, deadline_ms: u64) -> Server {
    let server = Server::start_with(settings);
    let limits = json!({ "deadline_ms_max": deadline_ms });
    server.deploy_guest("busy", "hostile", json!({ "scale": scale, "limits": limits })).await;
    server.deploy_guest("calm", "plain", json!({})).await;
    // Both are awake.
    assert_eq!(server.call(Method::GET, "/d/default/calm/").send().await.unwrap().status(), 200);
    assert_eq!(server.call(Method::GET, "/d/default/busy/echo").send().await.unwrap().status(), 200);
    server
}

/// A call of `busy` that takes so long, on its way.
fn sleep(server: &Server, ms: u64) -> tokio::task::JoinHandle<(Response, Duration)> {
    let request = server.call(Method::GET, &format!("/d/default/busy/sleep?ms={ms}"));
    tokio::spawn(async move {
        let begin = Instant::now();
        let response = request.send().await.unwrap();
        (response, begin.elapsed())
    })
}

async fn metric(server: &Server, name: &str) -> f64 {
    let text = server.http.get(format!("{}/metrics", server.admin)).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}\n{text}")).parse().unwrap()
}

async fn reaches(server: &Server, name: &str, value: f64) {
    server.eventually(&format!("{name} is {value}"), async || metric(server, name).await == value).await;
}

/// Milliseconds that the server itself says a call waited, or took to be refused.
fn queue_ms(response: &Response) -> f64 {
    let timing = header(response, "server-timing");
    let queue = timing.split(", ").find_map(|part| part.strip_prefix("queue;dur="));
    queue.unwrap_or_else(|| panic!("{timing}")).parse().unwrap()
}

#[tokio::test]
async fn a_deployment_at_its_limit_refuses_at_once_and_its_neighbour_feels_nothing() {
    let server = scene(&[], json!({ "concurrency_max": 2, "queue_max": 0 }), 30_000).await;
    let running = [sleep(&server, 4_000), sleep(&server, 4_000)];
    reaches(&server, "mayfly_calls_open", 2.0).await;
    let mut waits = Vec::new();
    for _ in 0..50 {
        let response = server.call(Method::GET, "/d/default/busy/echo").send().await.unwrap();
        waits.push(queue_ms(&response));
        assert_eq!(header(&response, "x-mayfly-retry-estimate"), "true");
        assert!(!header(&response, "retry-after").is_empty());
        let (status, code, message) = refused(response).await;
        assert_eq!((status, code.as_str()), (429, "rate_limited"));
        assert!(message.contains("scale.concurrency_max"), "{message}");
        assert_eq!(server.call(Method::GET, "/d/default/calm/").send().await.unwrap().status(), 200);
    }
    waits.sort_by(f64::total_cmp);
    assert!(waits[25] < 20.0, "the server says what a refusal took: {waits:?} ms");
    assert!(metric(&server, "mayfly_refusal_seconds_count").await >= 50.0);
    for call in running {
        assert_eq!(call.await.unwrap().0.status(), 200, "and those that ran did not notice either");
    }
}

#[tokio::test]
async fn a_short_line_is_served_in_order() {
    let server = scene(&[], json!({ "concurrency_max": 1, "queue_max": 2 }), 30_000).await;
    let first = sleep(&server, 1_000);
    reaches(&server, "mayfly_calls_open", 1.0).await;
    let second = sleep(&server, 400);
    reaches(&server, "mayfly_calls_waiting", 1.0).await;
    let third = sleep(&server, 1);
    reaches(&server, "mayfly_calls_waiting", 2.0).await;
    let begin = Instant::now();
    let fourth = server.call(Method::GET, "/d/default/busy/echo").send().await.unwrap();
    assert!(begin.elapsed() < Duration::from_millis(500), "it is not kept waiting: {:?}", begin.elapsed());
    assert_eq!(refused(fourth).await.0, 429);
    let [(first, _), (second, _), (third, _)] = [first.await.unwrap(), second.await.unwrap(), third.await.unwrap()];
    assert_eq!((first.status(), second.status(), third.status()).0, 200);
    assert_eq!((second.status().as_u16(), third.status().as_u16()), (200, 200));
    let waited = (queue_ms(&second), queue_ms(&third));
    assert!(waited.0 > 100.0 && waited.1 > waited.0 + 200.0, "the third waited for the second: {waited:?}");
    assert_eq!(metric(&server, "mayfly_call_queue_wait_seconds_count").await, 2.0);
    assert_eq!(metric(&server, "mayfly_calls_waiting").await, 0.0);
}

#[tokio::test]
async fn a_caller_who_leaves_the_line_leaves_its_place() {
    let server = scene(&[], json!({ "concurrency_max": 1, "queue_max": 1 }), 30_000).await;
    let first = sleep(&server, 3_000);
    reaches(&server, "mayfly_calls_open", 1.0).await;
    let address = server.data.strip_prefix("http://").unwrap().to_owned();
    for request in ["GET", "POST"] {
        let body = if request == "POST" { "content-length: 5\r\n\r\nhello" } else { "\r\n" };
        let mut stream = TcpStream::connect(&address).unwrap();
        let head =
            format!("{request} /d/default/busy/echo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", server.key);
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        reaches(&server, "mayfly_calls_waiting", 1.0).await;
        drop(stream);
        reaches(&server, "mayfly_calls_waiting", 0.0).await;
    }
    assert!(!first.is_finished(), "all that was while the first ran");
    let next = sleep(&server, 1);
    assert_eq!(first.await.unwrap().0.status(), 200);
    assert_eq!(next.await.unwrap().0.status(), 200);
    reaches(&server, "mayfly_calls_open", 0.0).await;
}

#[tokio::test]
async fn nobody_waits_past_the_deadline() {
    let server = scene(&[], json!({ "concurrency_max": 1, "queue_max": 5 }), 30_000).await;
    let first = sleep(&server, 3_000);
    reaches(&server, "mayfly_calls_open", 1.0).await;
    // A revision with less patience; the line is the deployment's and goes on.
    let scale = json!({ "concurrency_max": 1, "queue_max": 5 });
    server.deploy_guest("busy", "hostile", json!({ "scale": scale, "limits": { "deadline_ms_max": 600 } })).await;
    let (late, took) = sleep(&server, 1).await.unwrap();
    assert!((Duration::from_millis(550)..Duration::from_millis(2_500)).contains(&took), "{took:?}");
    let (status, code, message) = refused(late).await;
    assert_eq!((status, code.as_str()), (503, "overloaded"));
    assert!(message.contains("deadline_ms_max"), "{message}");
    assert_eq!(first.await.unwrap().0.status(), 200);
    reaches(&server, "mayfly_calls_open", 0.0).await;
}

#[tokio::test]
async fn who_cannot_be_served_in_time_is_told_at_once() {
    let server = scene(&[], json!({ "concurrency_max": 1, "queue_max": 100 }), 4_000).await;
    let first = sleep(&server, 300);
    reaches(&server, "mayfly_calls_open", 1.0).await;
    // The line keeps its deployment's pace in memory from here on.
    let second = sleep(&server, 300);
    reaches(&server, "mayfly_calls_waiting", 1.0).await;
    assert_eq!(first.await.unwrap().0.status(), 200);
    let crowd: Vec<_> = (0..40).map(|_| sleep(&server, 300)).collect();
    let (mut served, mut told, mut late) = (0, 0, 0);
    for call in crowd {
        let (response, took) = call.await.unwrap();
        match response.status().as_u16() {
            200 => served += 1,
            429 => {
                assert!(took < Duration::from_secs(2), "it was kept waiting for {took:?}");
                assert_eq!(header(&response, "x-mayfly-retry-estimate"), "true");
                let wait: u64 = header(&response, "retry-after-ms").parse().unwrap();
                assert!(wait > 1_000, "{wait}");
                assert!(refused(response).await.2.contains("ms of waiting"));
                told += 1;
            }
            _ => late += 1,
        }
    }
    assert_eq!(second.await.unwrap().0.status(), 200);
    assert!(served >= 5 && told >= 20 && late <= 3, "{served} served, {told} told, {late} late");
}

#[tokio::test]
async fn a_node_that_fills_up_keeps_something_for_others() {
    let settings = [("MAYFLY_CALLS__CALLS_MAX", "10"), ("MAYFLY_CALLS__CALLS_PER_DEPLOYMENT_MAX", "10")];
    let server = scene(&settings, json!({}), 30_000).await;
    let running: Vec<_> = (0..8).map(|_| sleep(&server, 3_000)).collect();
    reaches(&server, "mayfly_calls_open", 8.0).await;
    let (status, code, message) = refused(sleep(&server, 1).await.unwrap().0).await;
    assert_eq!((status, code.as_str()), (503, "overloaded"));
    assert!(message.contains("calls_max = 10"), "{message}");
    for _ in 0..10 {
        assert_eq!(server.call(Method::GET, "/d/default/calm/").send().await.unwrap().status(), 200);
    }
    for call in running {
        assert_eq!(call.await.unwrap().0.status(), 200);
    }
}

/// A raw connection that has said `text`; reads give up after ten seconds.
fn say(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.data.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// What the server says until it closes.
fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all);
    let told = String::from_utf8_lossy(&all).into_owned();
    assert!(end.is_ok() || !told.is_empty(), "the server has not closed: {end:?}");
    told
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_hold_nobody_up() {
    let settings = [
        ("MAYFLY_GATEWAY__HEAD_MS_MAX", "800"),
        ("MAYFLY_GATEWAY__BODY_IDLE_MS_MAX", "800"),
        ("MAYFLY_GATEWAY__OPENAI_BODY_MS_MAX", "1500"),
    ];
    let server = scene(&settings, json!({}), 30_000).await;
    let auth = format!("host: x\r\nauthorization: Bearer {}\r\n", server.key);
    let mut slow = Vec::new();
    for _ in 0..40 {
        slow.push(say(&server, "GET /d/default/calm/ HTTP/1.1\r\nhost: x\r\nx-slow: "));
        slow.push(say(&server, &format!("POST /d/default/busy/echo HTTP/1.1\r\n{auth}content-length: 100\r\n\r\nabc")));
        slow.push(say(&server, &format!("POST /v1/embeddings HTTP/1.1\r\n{auth}content-length: 100\r\n\r\n{{")));
    }
    // One that sends a byte now and then, often enough for the pace of a body.
    let mut trickle = say(&server, &format!("POST /v1/embeddings HTTP/1.1\r\n{auth}content-length: 100\r\n\r\n{{"));
    let trickling = std::thread::spawn(move || {
        let begin = Instant::now();
        while trickle.write_all(b" ").is_ok() && begin.elapsed() < Duration::from_secs(8) {
            std::thread::sleep(Duration::from_millis(200));
            trickle.set_nonblocking(true).unwrap();
            let answered = trickle.peek(&mut [0]).is_ok();
            trickle.set_nonblocking(false).unwrap();
            if answered {
                break;
            }
        }
        begin.elapsed()
    });
    // A reader that never reads, of more than all buffers hold.
    let stalled = say(&server, &format!("GET /d/default/busy/body?bytes=50000000 HTTP/1.1\r\n{auth}\r\n"));
    for _ in 0..20 {
        assert_eq!(server.call(Method::GET, "/d/default/calm/").send().await.unwrap().status(), 200);
    }
    let told: Vec<String> = tokio::task::spawn_blocking(move || slow.into_iter().map(rest).collect()).await.unwrap();
    for (place, told) in told.iter().enumerate() {
        // The second of three reaches a handler, which is told that the body broke off and may answer that.
        let is_told = place % 3 == 1 && told.contains("\"error\"");
        assert!(is_told || !told.contains(" 200 OK"), "{place}: {told}");
    }
    let trickled = trickling.join().unwrap();
    assert!(trickled < Duration::from_secs(6), "bytes now and then were enough for {trickled:?}");
    reaches(&server, "mayfly_calls_open", 0.0).await;
    drop(stalled);
    assert!(metric(&server, "mayfly_calls_total{outcome=\"client_left\"}").await >= 1.0, "the stalled reader");
}
