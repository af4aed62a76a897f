//! Callers who stream at the same time for as long as somebody looks at them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::scene::Scene;
use super::stream::Stream;

/// So long the first text of each may take.
const BEGIN_MAX: Duration = Duration::from_secs(240);
/// So long a call may take to settle once its caller has left.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// New tokens each may ask for: more than it gets to.
pub(super) const NEW: u32 = 2000;

/// What one caller saw before it left.
#[derive(Debug)]
pub(super) struct Streamed {
    /// When each piece of text came.
    pub(super) texts: Vec<Instant>,
    id: String,
}

impl Streamed {
    /// Tokens that one text stood for, as the host counted them: a token that ends within a character brings none. The one
    /// that was made while the caller left is left out.
    #[expect(clippy::cast_precision_loss, reason = "some hundred")]
    pub(super) fn tokens_per_text(&self, scene: &Scene) -> anyhow::Result<f64> {
        let (begun, path) = (Instant::now(), format!("/v1/requests/{}", self.id));
        loop {
            let answer = scene.server.connect()?.call("GET", &path, b"")?;
            let record: Value = serde_json::from_slice(&answer.body)?;
            if record["outcome"].is_string() {
                let tokens = record["usage"]["output_tokens"].as_u64().context("usage.output_tokens")?;
                return Ok(tokens.saturating_sub(1) as f64 / self.texts.len() as f64);
            }
            ensure!(begun.elapsed() < SETTLE_MAX, "{path} does not end: {record}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Sends `requests`, `arrival` apart, and runs `look` as soon as each had its first text; then their callers leave. Gives
/// what `look` gave, and when each caller's texts came.
pub(super) fn stream_while<T>(
    scene: &Scene,
    requests: &[Value],
    arrival: Duration,
    look: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Vec<Streamed>)> {
    let (server, over, begun) = (&scene.server, &AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        let (began, begin) = mpsc::channel();
        let callers: Vec<_> = requests
            .iter()
            .zip(0..)
            .map(|(request, place)| {
                let began = began.clone();
                scope.spawn(move || {
                    thread::sleep((begun + arrival * place).saturating_duration_since(Instant::now()));
                    let mut stream = Stream::ask(server, request)?;
                    stream.begin()?;
                    let mut texts = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let event = stream.next()?.context("a stream ended too early")?;
                        if event.has_text() {
                            if texts.is_empty() {
                                let _ = began.send(());
                            }
                            texts.push(event.at);
                        }
                    }
                    Ok(Streamed { texts, id: std::mem::take(&mut stream.id) })
                })
            })
            .collect();
        let looked = requests
            .iter()
            .try_for_each(|_| begin.recv_timeout(BEGIN_MAX).context("not all streams began"))
            .and_then(|()| look());
        over.store(true, Ordering::Relaxed);
        let texts = callers.into_iter().map(|one| one.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?);
        // What a caller saw says more than that one was missing.
        let texts = texts.collect::<anyhow::Result<_>>()?;
        Ok((looked?, texts))
    })
}
