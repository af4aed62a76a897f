//! The queue of spans and the task that sends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use mayfly_calls::{EndedCall, Observer, Spans};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use reqwest::StatusCode;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::sampler::Sampler;
use crate::span::{span, text, trace_id};

/// How often the same spans are sent to a collector that is not there or asks to be spared.
const TRIES_MAX: u32 = 3;
/// Before the second try; doubled before the third.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a collector can ask for.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A collector that takes nothing is named in the log this often at most.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Bytes of a collector's answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What all spans have in common.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Mayfly's version.
    pub version: String,
    /// Where callers connect: a host name or an address.
    pub address: String,
    /// The port, if it is known.
    pub port: Option<u16>,
}

/// The export could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The collector's address, or the HTTP client.
    #[error("the collector of telemetry.otlp_endpoint cannot be used")]
    Client(#[source] Option<reqwest::Error>),
}

/// Takes spans of calls and sends them. Clones share it.
#[derive(Debug, Clone)]
pub struct Exporter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Span>,
    sampler: Sampler,
    counts: Arc<Counts>,
    stop: CancellationToken,
    sent: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    /// Whether the last request failed.
    failing: AtomicBool,
}

impl Exporter {
    /// Begins to take spans; none if no collector is set. Within a Tokio runtime: the sending is a task on it.
    ///
    /// # Errors
    /// [`StartError`]. A collector that is not there is no error.
    pub fn start(config: &Config, node: &Node) -> Result<Option<Self>, StartError> {
        if config.otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let url = config.url().ok_or(StartError::Client(None))?;
        let client = reqwest::Client::builder()
            .default_headers(headers(config))
            .timeout(Duration::from_millis(config.request_ms_max))
            // The headers are for the collector that was named, and for no other.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| StartError::Client(Some(error)))?;
        let (queue, spans) = mpsc::channel(config.queue_spans_max as usize);
        let (counts, stop) = (Arc::<Counts>::default(), CancellationToken::new());
        let sender = Sender {
            client,
            url,
            template: template(node),
            batch_spans_max: config.batch_spans_max as usize,
            batch_wait: Duration::from_millis(config.batch_wait_ms),
            counts: counts.clone(),
            stop: stop.clone(),
            told: None,
        };
        let task = tokio::spawn(sender.run(spans));
        let sampler = Sampler::new(config.sample_ratio);
        let sent = tokio::sync::Mutex::new(Some(task));
        Ok(Some(Self(Arc::new(Inner { queue, sampler, counts, stop, sent }))))
    }

    /// Sends what is left, for as long as `wait` allows, and ends. Spans that come later are dropped.
    pub async fn close(&self, wait: Duration) {
        self.0.stop.cancel();
        if let Some(mut task) = self.0.sent.lock().await.take()
            && tokio::time::timeout(wait, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Observer for Exporter {
    fn ended(&self, call: &EndedCall<'_>) {
        let trace = trace_id(call);
        if !self.0.sampler.takes(call.seen.trace.as_ref(), &trace) {
            return;
        }
        // A place first: a span that nobody takes is not made.
        match self.0.queue.try_reserve() {
            Ok(place) => place.send(span(call)),
            Err(_) => self.0.counts.drop_spans(1),
        }
    }

    fn spans(&self) -> Spans {
        let counts = &self.0.counts;
        Spans { exported: counts.exported.load(Ordering::Relaxed), dropped: counts.dropped.load(Ordering::Relaxed) }
    }
}

impl Counts {
    fn drop_spans(&self, count: usize) {
        self.dropped.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

fn headers(config: &Config) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.otlp_headers {
        if let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value.expose())) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers
}

/// A request without spans.
fn template(node: &Node) -> ResourceSpans {
    let instance = mayfly_types::RequestId::new().to_string();
    let mut attributes = vec![
        text("service.name", "mayfly"),
        text("service.version", node.version.as_str()),
        text("service.instance.id", instance),
        text("server.address", node.address.as_str()),
    ];
    attributes.extend(node.port.map(|port| text("server.port", port.to_string())));
    let scope = InstrumentationScope {
        name: "mayfly".to_owned(),
        version: node.version.clone(),
        ..InstrumentationScope::default()
    };
    ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    }
}

/// The task that sends.
struct Sender {
    client: reqwest::Client,
    url: reqwest::Url,
    template: ResourceSpans,
    batch_spans_max: usize,
    batch_wait: Duration,
    counts: Arc<Counts>,
    stop: CancellationToken,
    /// When the log was last told that the collector takes nothing.
    told: Option<Instant>,
}

impl Sender {
    async fn run(mut self, mut spans: mpsc::Receiver<Span>) {
        loop {
            let first = tokio::select! {
                biased;
                span = spans.recv() => span,
                () = self.stop.cancelled() => {
                    spans.close();
                    spans.recv().await
                }
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            let until = tokio::time::Instant::now() + self.batch_wait;
            while batch.len() < self.batch_spans_max {
                let room = self.batch_spans_max - batch.len();
                tokio::select! {
                    biased;
                    count = spans.recv_many(&mut batch, room) => if count == 0 { break },
                    () = self.stop.cancelled() => break,
                    () = tokio::time::sleep_until(until) => break,
                }
            }
            self.send(batch).await;
        }
    }

    /// Sends one request, a few times if it must; counts what became of its spans.
    async fn send(&mut self, batch: Vec<Span>) {
        let count = batch.len();
        let mut resource = self.template.clone();
        if let Some(scope) = resource.scope_spans.first_mut() {
            scope.spans = batch;
        }
        let body = bytes::Bytes::from(ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec());
        let mut pause = RETRY_PAUSE;
        for left in (0..TRIES_MAX).rev() {
            match self.post(body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.counts.drop_spans(rejected);
                    let taken = u64::try_from(count - rejected).unwrap_or(u64::MAX);
                    self.counts.exported.fetch_add(taken, Ordering::Relaxed);
                    if self.counts.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!("the collector takes spans again");
                    }
                    return;
                }
                Err(failed) if failed.is_final || left == 0 => {
                    self.tell(&failed.why);
                    break;
                }
                Err(failed) => {
                    tokio::select! {
                        () = tokio::time::sleep(failed.after.unwrap_or(pause).min(RETRY_PAUSE_MAX)) => {}
                        // No time left for pauses.
                        () = self.stop.cancelled() => {}
                    }
                    pause *= 2;
                }
            }
        }
        self.counts.drop_spans(count);
    }

    /// How many spans the collector has not taken.
    async fn post(&self, body: bytes::Bytes) -> Result<usize, Failed> {
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/x-protobuf").body(body);
        // The address may have a password in it.
        let response = request.send().await.map_err(|error| Failed::of(&error.without_url()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(rejected(response).await);
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let may_pass = [429, 502, 503, 504].map(|code| StatusCode::from_u16(code).ok()).contains(&Some(status));
        Err(Failed { is_final: !may_pass, why: format!("it answered {status}"), after: after.map(Duration::from_secs) })
    }

    fn tell(&mut self, why: &str) {
        self.counts.failing.store(true, Ordering::Relaxed);
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(why, "the collector of telemetry.otlp_endpoint takes no spans; they are dropped");
        }
    }
}

/// A request that the collector has not taken.
struct Failed {
    /// The same again would not be taken either.
    is_final: bool,
    why: String,
    /// When it wants to be asked again.
    after: Option<Duration>,
}

impl Failed {
    fn of(error: &reqwest::Error) -> Self {
        let mut why = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            why.push_str(": ");
            why.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { is_final: error.is_builder(), why, after: None }
    }
}

/// What a collector that answers 200 has not taken all the same.
async fn rejected(mut response: reqwest::Response) -> usize {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return 0;
        }
        body.extend_from_slice(&piece);
    }
    let answer = ExportTraceServiceResponse::decode(body.as_slice()).unwrap_or_default();
    answer.partial_success.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or(0))
}

#[cfg(test)]
mod tests;
