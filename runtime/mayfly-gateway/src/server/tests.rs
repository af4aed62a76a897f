use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::*;
use crate::limits::full;

fn allowed() -> Allowed {
    Allowed {
        connections_max: 8,
        streams_per_connection_max: 8,
        header_bytes_max: 4096,
        headers_max: 32,
        head_wait: Duration::from_secs(5),
        write_wait: Duration::from_secs(5),
    }
}

/// `/slow` takes 300 ms, `/never` never ends, everything else is answered at once with its path.
async fn answer(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/slow" => sleep(Duration::from_millis(300)).await,
        "/never" => std::future::pending().await,
        _ => {}
    }
    let _ = request.into_body().collect().await;
    Response::new(full(Bytes::from(path)))
}

async fn start(allowed: Allowed) -> (SocketAddr, Arc<Listening>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, Arc::new(Listening::start(listener, allowed, CancellationToken::new(), answer)))
}

async fn say(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the other side closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut text)).await.expect("the server closes");
    String::from_utf8(text).unwrap()
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: h\r\n{more}\r\n")
}

#[tokio::test]
async fn two_servers_in_one_process() {
    let ((first, one), (second, two)) = (start(allowed()).await, start(allowed()).await);
    assert!(rest(say(first, &get("/a", "connection: close\r\n")).await).await.ends_with("/a"));
    assert!(one.drain(Duration::from_secs(1)).await);
    assert!(TcpStream::connect(first).await.is_err(), "nobody listens after a drain");
    assert!(rest(say(second, &get("/b", "connection: close\r\n")).await).await.ends_with("/b"));
    assert!(two.drain(Duration::from_secs(1)).await);
}

#[tokio::test]
async fn a_drain_lets_running_requests_end_and_says_close() {
    let (address, server) = start(allowed()).await;
    let idle = say(address, &get("/a", "")).await;
    let slow = say(address, &get("/slow", "")).await;
    sleep(Duration::from_millis(100)).await;
    assert!(server.drain(Duration::from_secs(5)).await);
    let text = rest(slow).await;
    assert!(text.to_ascii_lowercase().contains("connection: close") && text.ends_with("/slow"), "{text}");
    assert!(rest(idle).await.ends_with("/a"));
}

#[tokio::test]
async fn what_does_not_end_is_cut() {
    let (address, server) = start(allowed()).await;
    let never = say(address, &get("/never", "")).await;
    sleep(Duration::from_millis(50)).await;
    assert!(!server.drain(Duration::from_millis(100)).await);
    assert_eq!(rest(never).await, "");
}

#[tokio::test]
async fn one_connection_too_many_is_told() {
    let (address, server) = start(Allowed { connections_max: 1, ..allowed() }).await;
    let mut first = say(address, &get("/a", "")).await;
    let mut head = [0; 12];
    first.read_exact(&mut head).await.unwrap();
    let refused = rest(TcpStream::connect(address).await.unwrap()).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("\"overloaded\""), "{refused}");
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())));
    drop(first);
    sleep(Duration::from_millis(100)).await;
    assert!(rest(say(address, &get("/b", "connection: close\r\n")).await).await.ends_with("/b"));
    server.drain(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn who_says_nothing_or_half_a_head_is_cut_off() {
    let (address, server) = start(Allowed { head_wait: Duration::from_millis(150), ..allowed() }).await;
    for text in ["", "PRI * HT", "GET / HTTP/1.1\r\nhos"] {
        let stream = say(address, text).await;
        let answer = rest(stream).await;
        assert!(!answer.contains("200 OK"), "{text}: {answer}");
    }
    let keep_alive = rest(say(address, &get("/a", "")).await).await;
    assert!(keep_alive.ends_with("/a"), "an answer, then the unused connection is closed: {keep_alive}");
    let longer_than_the_wait = rest(say(address, &get("/slow", "connection: close\r\n")).await).await;
    assert!(longer_than_the_wait.ends_with("/slow"), "a request that runs is not idle");
    server.drain(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let (address, server) = start(allowed()).await;
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || Request::get(format!("http://{address}/two")).body(http_body_util::Empty::<Bytes>::new()).unwrap();
    for _ in 0..3 {
        let response = send.send_request(request()).await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "/two");
    }
    assert!(server.drain(Duration::from_secs(1)).await);
    let _ = timeout(Duration::from_secs(1), connection).await.expect("the connection ends with the drain");
}
