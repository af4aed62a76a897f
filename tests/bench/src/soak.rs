//! Mixed traffic for half an hour, and what is left of it: `mayfly-bench --soak MINUTES`.
//!
//! Calls to a trivial handler, embeddings and streamed chats go on all the time; beside them deployments with code of their
//! own are created, called, changed and deleted, and models added, run and removed. Every ten seconds it looks at the
//! process. The last third is compared with the one before it; in the first, caches fill and clocks come round, which is why
//! all idle clocks are short against it.

mod process;
mod traffic;

use std::fs;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use crate::Bench;
use crate::row::Row;
use crate::server::{Server, deploy, upload};
use process::Sample;
use traffic::Traffic;

const NAME: &str = "soak";
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Fewer samples in a third say nothing.
const MINUTES_MIN: u64 = 2;
const GROWTH_MAX: f64 = 0.03;
/// What a count may differ by that goes up and down with calls that happen to be open: a leak of one for each deployment or
/// model is many times that in a third.
const DESCRIPTORS_SLACK: f64 = 8.0;
const MAPPINGS_SLACK: f64 = 24.0;

/// # Errors
/// The server could not be started or died.
#[expect(clippy::print_stdout, reason = "the table is the output")]
pub(crate) fn run(bench: &Bench, minutes: u64) -> anyhow::Result<Row> {
    ensure!(minutes >= MINUTES_MIN, "--soak takes at least {MINUTES_MIN} minutes");
    let length = Duration::from_secs(minutes * 60);
    // A twelfth of the whole, at most: each clock comes round a few times before what is compared begins.
    let idle = |default: Duration| default.min(length / 12).as_millis().to_string();
    let (session, code, record) =
        (idle(Duration::from_secs(300)), idle(Duration::from_secs(300)), idle(Duration::from_secs(60)));
    let server = Server::start(
        bench,
        &[
            ("MAYFLY_INFERENCE__SESSION_IDLE_MS", &session),
            ("MAYFLY_HOST__CODE_IDLE_MS", &code),
            ("MAYFLY_REGISTRY__IDLE_MS", &record),
        ],
    )?;
    set_up(bench, &server)?;
    let begun = Instant::now();
    let traffic = Traffic::default();
    let mut samples = Vec::new();
    println!("{}", process::HEAD);
    thread::scope(|threads| {
        traffic.begin(threads, bench, &server);
        while begun.elapsed() < length {
            thread::sleep(LOOK_EVERY.min(length.saturating_sub(begun.elapsed())));
            match Sample::take(server.process(), begun.elapsed()) {
                Ok(sample) => {
                    println!("{}   {}", sample.line(), traffic.line());
                    samples.push(sample);
                }
                Err(error) => {
                    traffic.failed("looking at the process", &error);
                    break;
                }
            }
        }
        traffic.over.store(true, Ordering::Relaxed);
    });
    row(minutes, length, &samples, &traffic)
}

/// What stays for the whole time.
fn set_up(bench: &Bench, server: &Server) -> anyhow::Result<()> {
    server.add_model("minilm", &bench.root.join("target/test-models/minilm"))?;
    server.deploy_builtin("embeddings", "embed", &[("model", "minilm")])?;
    server.add_model("tiny", &bench.root.join("examples/models/tiny-chat-genai"))?;
    server.deploy_builtin("chat", "chat", &[("model", "tiny")])?;
    let mut admin = server.connect_admin()?;
    let plain = fs::read(bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release/plain.wasm"))?;
    let digest = upload(&mut admin, &plain)?;
    deploy(&mut admin, "plain", &json!({ "handler": { "digest": digest } }))
}

fn row(minutes: u64, length: Duration, samples: &[Sample], traffic: &Traffic) -> anyhow::Result<Row> {
    let third = |number: u32| {
        let within = (length / 3 * number)..=(length / 3 * (number + 1));
        Sample::medians(samples.iter().filter(|sample| within.contains(&sample.at)))
    };
    let (before, last) = (third(1), third(2));
    ensure!(before.is_some() && last.is_some(), "it ended early: {}", traffic.why().unwrap_or_default());
    let (Some(before), Some(last)) = (before, last) else { anyhow::bail!("no samples") };
    let grown = last.resident_mib / before.resident_mib - 1.0;
    let flat = grown <= GROWTH_MAX;
    let descriptors = last.descriptors <= before.descriptors + DESCRIPTORS_SLACK;
    let mappings = last.mappings <= before.mappings + MAPPINGS_SLACK;
    let why = traffic.why();
    Ok(Row {
        name: NAME,
        ours: Some(last.resident_mib),
        peer: Some(before.resident_mib),
        unit: "MiB",
        ratio: Some(last.resident_mib / before.resident_mib),
        target: "grown at most 3 %, no growth of descriptors or VMAs, no failure",
        pass: flat && descriptors && mappings && why.is_none(),
        note: format!(
            "{minutes} minutes; medians of the last third, peer: of the one before; descriptors {:.0} after {:.0}, VMAs {:.0} after {:.0}, threads {:.0} after {:.0}; {}; {}",
            last.descriptors,
            before.descriptors,
            last.mappings,
            before.mappings,
            last.threads,
            before.threads,
            traffic.line(),
            why.unwrap_or_else(|| "no failure".to_owned()),
        ),
    })
}
