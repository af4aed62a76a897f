//! The callers and the developers of a soak, each a thread with connections of its own.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use crate::Bench;
use crate::cold::with_custom_section;
use crate::compute::{ask, deploy_compute};
use crate::onnx;
use crate::server::{Server, deploy, upload};
use crate::wire::Wire;

/// Between the beginnings of two calls of one caller. Trivial calls come fast enough to be many, slowly enough that half an
/// hour of their ledger's rows fits on a disk.
const TRIVIAL_EVERY: Duration = Duration::from_millis(5);
const EMBEDDING_EVERY: Duration = Duration::from_millis(25);
const CHAT_EVERY: Duration = Duration::from_millis(200);
/// Between two turns of a developer. What was uploaded stays in the store, some hundreds of KB each.
const DEPLOYMENT_EVERY: Duration = Duration::from_secs(2);
const MODEL_EVERY: Duration = Duration::from_secs(3);
const FAILURES_SHOWN: u64 = 20;

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) over: AtomicBool,
    trivial: AtomicU64,
    embeddings: AtomicU64,
    chats: AtomicU64,
    deployments: AtomicU64,
    models: AtomicU64,
    failures: AtomicU64,
    /// The first one.
    failure: Mutex<Option<String>>,
}

impl Traffic {
    pub(super) fn begin<'a>(&'a self, threads: &'a Scope<'a, '_>, bench: &'a Bench, server: &'a Server) {
        for _ in 0..2 {
            self.caller(threads, server, "trivial", TRIVIAL_EVERY, &self.trivial, |wire| {
                succeeded(wire, "GET", "/d/default/plain/", "").map(drop)
            });
            self.caller(threads, server, "embeddings", EMBEDDING_EVERY, &self.embeddings, |wire| {
                let body = json!({ "model": "embed", "input": "how do i reset my password" }).to_string();
                succeeded(wire, "POST", "/d/default/embed/v1/embeddings", &body).map(drop)
            });
            self.caller(threads, server, "chats", CHAT_EVERY, &self.chats, |wire| {
                let messages = json!([{ "role": "user", "content": "What is the capital of Norway?" }]);
                let body = json!({ "messages": messages, "max_tokens": 24, "stream": true }).to_string();
                let answer = succeeded(wire, "POST", "/d/default/chat/v1/chat/completions", &body)?;
                ensure!(answer.contains("[DONE]"), "a stream ended with {answer:?}");
                Ok(())
            });
        }
        self.again(threads, "deployments", DEPLOYMENT_EVERY, &self.deployments, |number| {
            deployment(bench, server, number)
        });
        self.again(threads, "models", MODEL_EVERY, &self.models, |number| model(bench, server, number));
    }

    /// Calls on one connection, which is made anew after a failure.
    fn caller<'a>(
        &'a self,
        threads: &'a Scope<'a, '_>,
        server: &'a Server,
        what: &'static str,
        every: Duration,
        count: &'a AtomicU64,
        call: impl Fn(&mut Wire) -> anyhow::Result<()> + Send + 'a,
    ) {
        let mut kept = None;
        self.again(threads, what, every, count, move |_| {
            let mut wire = match kept.take() {
                Some(wire) => wire,
                None => server.connect()?,
            };
            call(&mut wire)?;
            kept = Some(wire);
            Ok(())
        });
    }

    /// Does `turn` every so often, late ones at once, until it is over.
    fn again<'a>(
        &'a self,
        threads: &'a Scope<'a, '_>,
        what: &'static str,
        every: Duration,
        count: &'a AtomicU64,
        mut turn: impl FnMut(u64) -> anyhow::Result<()> + Send + 'a,
    ) {
        threads.spawn(move || {
            let mut number = 0;
            while !self.over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                match turn(number) {
                    Ok(()) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => self.failed(what, &error),
                }
                number += 1;
                thread::sleep(every.saturating_sub(begun.elapsed()));
            }
        });
    }

    pub(super) fn failed(&self, what: &str, error: &anyhow::Error) {
        if self.failures.fetch_add(1, Ordering::Relaxed) < FAILURES_SHOWN {
            eprintln!("[soak] {what}: {error:#}");
        }
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| format!("{what}: {error:#}"));
    }

    /// What failed, if anything did.
    pub(super) fn why(&self) -> Option<String> {
        let first = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(format!("{} failures, the first: {first}", self.failures.load(Ordering::Relaxed)))
    }

    pub(super) fn line(&self) -> String {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        format!(
            "{} trivial, {} embeddings, {} chats, {} deployments, {} models, {} failures",
            count(&self.trivial),
            count(&self.embeddings),
            count(&self.chats),
            count(&self.deployments),
            count(&self.models),
            count(&self.failures)
        )
    }
}

/// A deployment's life: code like nobody's, a call, another revision, a call, the end.
fn deployment(bench: &Bench, server: &Server, number: u64) -> anyhow::Result<()> {
    let guests = bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release");
    let wasm = with_custom_section(&fs::read(guests.join("plain.wasm"))?, u32::try_from(number)?);
    let (mut admin, mut wire) = (server.connect_admin()?, server.connect()?);
    let (name, digest) = (format!("churn-{number}"), upload(&mut admin, &wasm)?);
    for revision in ["first", "second"] {
        deploy(&mut admin, &name, &json!({ "handler": { "digest": digest }, "config": { "revision": revision } }))?;
        succeeded(&mut wire, "GET", &format!("/d/default/{name}/"), "")?;
    }
    succeeded(&mut admin, "DELETE", &format!("/api/v1/projects/default/deployments/{name}"), "")?;
    Ok(())
}

/// A model's life: a graph like nobody's, a deployment that runs it, the end of both.
fn model(bench: &Bench, server: &Server, number: u64) -> anyhow::Result<()> {
    let (name, folder) = (format!("model-{number}"), tempfile::tempdir()?);
    fs::write(folder.path().join("model.onnx"), onnx::double(&name))?;
    deploy_compute(bench, server, &name, folder.path())?;
    ask(&mut server.connect()?, &name, "runs=20&bytes=4096")?;
    let mut admin = server.connect_admin()?;
    succeeded(&mut admin, "DELETE", &format!("/api/v1/projects/default/deployments/{name}"), "")?;
    succeeded(&mut admin, "DELETE", &format!("/api/v1/models/{name}"), "")?;
    Ok(())
}

fn succeeded(wire: &mut Wire, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
    let answer = wire.call(method, path, body.as_bytes())?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(answer.status < 300, "{method} {path} answered {}: {text}", answer.status);
    Ok(text)
}
