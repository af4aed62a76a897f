//! Limits over HTTP: how exact a token limit is, and whether a cap on money can be overspent.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::Bench;
use crate::row::Row;
use crate::server::Server;

pub(crate) const TOKENS: &str = "token_limit_exactness";
pub(crate) const MONEY: &str = "money_cap_overspend";

/// Tokens per minute of the key under test.
const LIMIT: u64 = 6_000;
/// Tokens of one call.
const TOKENS_PER_CALL: u64 = 10;

fn server(bench: &Bench) -> anyhow::Result<Server> {
    let server = Server::start(bench, &[])?;
    server.add_model("encoder", &bench.root.join("tests/fixtures/models/embedder"))?;
    server.deploy_builtin("embeddings", "embed", &[("model", "encoder")])?;
    Ok(server)
}

const PATH: &str = "/d/default/embed/v1/embeddings";
const LIMITS: &str = "/api/v1/projects/default/deployments/embed/limits";

/// A call that costs exactly [`TOKENS_PER_CALL`]: token ids are counted as they come.
fn plan() -> Vec<u8> {
    let ids = vec![3; usize::try_from(TOKENS_PER_CALL).expect("ten")];
    json!({ "model": "embed", "input": ids }).to_string().into_bytes()
}

fn put(server: &Server, path: &str, body: &Value) -> anyhow::Result<()> {
    let answer = server.connect_admin()?.call("PUT", path, body.to_string().as_bytes())?;
    ensure!(answer.status < 300, "PUT {path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
    Ok(())
}

/// Sixteen callers on a token limit, each waiting as long as it was told; for a minute after the burst is used up.
#[expect(clippy::cast_precision_loss, reason = "counts of one minute")]
pub(crate) fn tokens(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let server = server(bench)?;
    put(&server, LIMITS, &json!({ "tokens_per_minute": LIMIT }))?;
    let seconds = if bench.quick { 15 } else { 60 };
    let (passed, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let (lone_retries, lone_refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let callers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    let mut connection = server.connect()?;
                    let body = plan();
                    while !over.load(Ordering::Relaxed) {
                        let answer = connection.call("POST", PATH, &body)?;
                        match answer.status {
                            200 => passed.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed()),
                            429 => {
                                let wait = answer.header("retry-after-ms").context("retry-after-ms")?.parse()?;
                                std::thread::sleep(Duration::from_millis(wait));
                            }
                            other => anyhow::bail!("status {other}: {}", String::from_utf8_lossy(&answer.body)),
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        // The burst, then the time that counts.
        std::thread::sleep(Duration::from_secs(seconds + 5));
        over.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??;
        }
        Ok(())
    })?;
    // Alone now: a retry at the stated time must succeed.
    let mut connection = server.connect()?;
    for _ in 0..if bench.quick { 5 } else { 20 } {
        let mut refused = connection.call("POST", PATH, &plan())?;
        while refused.status == 200 {
            ensure!(begun.elapsed() < Duration::from_secs(600), "the limit does not hold");
            refused = connection.call("POST", PATH, &plan())?;
        }
        if refused.status == 429 {
            let wait = refused.header("retry-after-ms").context("retry-after-ms")?.parse()?;
            std::thread::sleep(Duration::from_millis(wait));
            lone_retries.fetch_add(1, Ordering::Relaxed);
            let again = connection.call("POST", PATH, &plan())?;
            lone_refused.fetch_add(u64::from(again.status != 200), Ordering::Relaxed);
        }
    }
    let passed = passed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let within = |from: u64, to: u64| {
        let range = Duration::from_secs(from)..Duration::from_secs(to);
        passed.iter().filter(|at| range.contains(at)).count() as u64 * TOKENS_PER_CALL
    };
    let steady = within(5, 5 + seconds) as f64 / (LIMIT as f64 * seconds as f64 / 60.0);
    let total = passed.len() as u64 * TOKENS_PER_CALL;
    let most = LIMIT + LIMIT * begun.elapsed().as_millis().try_into().unwrap_or(u64::MAX) / 60_000;
    let refused = lone_refused.load(Ordering::Relaxed);
    let off = (steady - 1.0).abs() * 100.0;
    Ok(vec![Row {
        name: TOKENS,
        ours: Some(off),
        peer: None,
        unit: "%",
        ratio: Some(steady),
        target: "within 0.1 % of the limit",
        pass: off <= 0.1 && total <= most && refused == 0,
        note: format!(
            "16 callers on {LIMIT} tokens/min, {TOKENS_PER_CALL} a call, {seconds} s after the burst; {total} passed in all, limit and burst allow {most}; {} lone retries at the stated time, {refused} refused",
            lone_retries.load(Ordering::Relaxed)
        ),
    }])
}

/// Sixty-four callers on a cap that pays for a part of their calls.
#[expect(clippy::cast_precision_loss, reason = "counts of a few thousand calls")]
pub(crate) fn money(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let server = server(bench)?;
    let mut admin = server.connect_admin()?;
    let price = json!({ "model": "encoder", "meter": "input_tokens", "amount": "0.01", "per": 1, "currency": "USD" });
    let added = admin.call("POST", "/api/v1/prices", price.to_string().as_bytes())?;
    ensure!(added.status < 300, "price: {}", String::from_utf8_lossy(&added.body));
    // A call costs 0.10: the cap pays for 400 calls, and not for a part of one more.
    let cap = json!({ "spend": { "amount": "40.05", "per": "month" } });
    put(&server, LIMITS, &cap)?;
    let (paid, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let callers: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    let mut connection = server.connect()?;
                    let body = plan();
                    let mut denied = 0;
                    while denied < 3 {
                        ensure!(paid.load(Ordering::Relaxed) < 1_000, "the cap does not hold");
                        let answer = connection.call("POST", PATH, &body)?;
                        match answer.status {
                            200 => paid.fetch_add(1, Ordering::Relaxed),
                            402 => {
                                denied += 1;
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                            other => anyhow::bail!("status {other}: {}", String::from_utf8_lossy(&answer.body)),
                        };
                    }
                    Ok(())
                })
            })
            .collect();
        for caller in callers {
            caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??;
        }
        Ok(())
    })?;
    let usage = admin.call("GET", "/api/v1/usage?group_by=deployment", b"")?;
    let usage: Value = serde_json::from_slice(&usage.body)?;
    let cost: f64 = usage["data"][0]["cost"].as_str().context("the cost")?.parse()?;
    let paid = paid.load(Ordering::Relaxed);
    let over = (cost - 40.05).max(0.0);
    Ok(vec![Row {
        name: MONEY,
        ours: Some(over),
        peer: None,
        unit: "USD",
        ratio: None,
        target: "overspend exactly 0",
        pass: over == 0.0 && paid == 400 && (cost - 0.1 * paid as f64).abs() < 1e-9,
        note: format!(
            "64 callers, a cap of 40.05 and calls of 0.10: {paid} paid, {} refused, {cost} spent",
            refused.load(Ordering::Relaxed)
        ),
    }])
}
