//! Against a collector that answers as it was told to.
#![expect(clippy::unwrap_used, reason = "tests")]

use mayfly_ledger::Outcome;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::span::tests::{row, seen};

/// Answers requests in turn with these statuses and bodies, the last one for ever; gives its address and the number of
/// spans of each request.
async fn collector(answers: Vec<(&'static str, Vec<u8>)>) -> (String, mpsc::UnboundedReceiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (spans, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut nth = 0;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            while let Some(body) = request(&mut stream).await {
                let count = ExportTraceServiceRequest::decode(body.as_slice()).unwrap().resource_spans[0].scope_spans
                    [0]
                .spans
                .len();
                let _ = spans.send(count);
                let (status, answer) = &answers[nth.min(answers.len() - 1)];
                nth += 1;
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", answer.len());
                stream.write_all(&[head.as_bytes(), answer].concat()).await.unwrap();
            }
        }
    });
    (address, seen)
}

/// The body of the next request.
async fn request(stream: &mut BufReader<tokio::net::TcpStream>) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            return Some(body);
        }
    }
}

fn start(endpoint: &str, change: impl FnOnce(&mut Config)) -> Exporter {
    let mut config = Config { otlp_endpoint: endpoint.to_owned(), batch_wait_ms: 10, ..Config::default() };
    change(&mut config);
    Exporter::start(&config, &Node::default()).unwrap().unwrap()
}

fn end_calls(exporter: &Exporter, count: usize) {
    for _ in 0..count {
        let (row, seen) = (row(Outcome::Completed, 200), seen(None, "/"));
        let took = Duration::from_millis(1);
        exporter.ended(&EndedCall { row: &row, took, first_token: None, finishes: &[], seen: &seen });
    }
}

async fn until(exporter: &Exporter, exported: u64, dropped: u64) {
    let wanted = Spans { exported, dropped };
    for _ in 0..1_000 {
        if exporter.spans() == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} is not {wanted:?}", exporter.spans());
}

#[tokio::test]
async fn nothing_is_exported_unless_it_is_asked_for() {
    assert!(Exporter::start(&Config::default(), &Node::default()).unwrap().is_none());
}

#[tokio::test]
async fn no_request_has_more_than_a_batch() {
    let (endpoint, mut seen) = collector(vec![("200 OK", Vec::new())]).await;
    let exporter = start(&endpoint, |config| config.batch_spans_max = 10);
    end_calls(&exporter, 25);
    until(&exporter, 25, 0).await;
    let mut counts = Vec::new();
    while let Ok(count) = seen.try_recv() {
        counts.push(count);
    }
    assert!(counts.iter().all(|count| *count <= 10) && counts.iter().sum::<usize>() == 25, "{counts:?}");
}

#[tokio::test]
async fn a_collector_that_asks_for_it_is_asked_again() {
    let (endpoint, mut seen) = collector(vec![("503 Service Unavailable", Vec::new()), ("200 OK", Vec::new())]).await;
    let exporter = start(&endpoint, |_| {});
    end_calls(&exporter, 3);
    until(&exporter, 3, 0).await;
    assert_eq!((seen.recv().await, seen.recv().await), (Some(3), Some(3)), "the same spans");
}

#[tokio::test]
async fn what_a_collector_rejects_is_counted() {
    let partial = ExportTracePartialSuccess { rejected_spans: 2, ..ExportTracePartialSuccess::default() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let (endpoint, _seen) = collector(vec![("200 OK", answer), ("401 Unauthorized", Vec::new())]).await;
    let exporter = start(&endpoint, |_| {});
    end_calls(&exporter, 5);
    until(&exporter, 3, 2).await;
    end_calls(&exporter, 4);
    until(&exporter, 3, 6).await;
}

#[tokio::test]
async fn a_full_queue_drops_at_once() {
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let exporter = start(&endpoint, |config| (config.queue_spans_max, config.batch_spans_max) = (4, 2));
    let begun = Instant::now();
    end_calls(&exporter, 1_000);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let lost = exporter.spans().dropped;
    assert!((990..=998).contains(&lost), "{lost}");
    let begun = Instant::now();
    exporter.close(Duration::from_millis(100)).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "a stop does not wait for it");
}
