//! Callers who stream at the same time for as long as somebody looks at them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::scene::Scene;
use super::stream::Stream;

/// So long the first text of each may take.
const BEGIN_MAX: Duration = Duration::from_secs(240);
/// New tokens each may ask for: more than it gets to.
pub(super) const NEW: u32 = 2000;

/// Sends `requests`, `arrival` apart, and runs `look` as soon as each had its first text; then their callers leave. Gives
/// what `look` gave, and when each caller's texts came.
pub(super) fn stream_while<T>(
    scene: &Scene,
    requests: &[Value],
    arrival: Duration,
    look: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Vec<Vec<Instant>>)> {
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
                    Ok(texts)
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
