//! The trivial handler on sixteen connections, fresh instance for each request, against `wasmtime serve` as it
//! comes, and with the flags of its pool tuned.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::Bench;
use crate::load::{Request, load};
use crate::measure::{Samples, median};
use crate::row::Row;
use crate::server::{Server, deploy, upload};
use crate::wire::Wire;

pub(crate) const NAME: &str = "trivial_16_connections";
pub(crate) const TUNED: &str = "trivial_16_tuned";
pub(crate) const TUNED_P99: &str = "trivial_16_tuned_p99";
const CONNECTIONS: usize = 16;

/// What the pool keeps of a slot between two instances, and how it finds what was written.
const POOL: &str = "pooling-allocator=y,pooling-memory-keep-resident=1048576,pooling-table-keep-resident=1048576,pooling-pagemap-scan=auto";

/// One side's rounds.
#[derive(Debug, Default)]
struct Side {
    /// Answers per second.
    rates: Vec<f64>,
    latencies: Samples,
}

impl Side {
    fn round(
        &mut self,
        address: SocketAddr,
        key: &str,
        path: &str,
        length: Duration,
        kept: bool,
    ) -> anyhow::Result<()> {
        let (rate, seen) = load(address, &Request::get(path, key), CONNECTIONS, length)?;
        if kept {
            self.rates.push(rate);
            self.latencies.extend(seen);
        }
        Ok(())
    }
}

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let component = bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release/plain.wasm");
    let peer = Peer::start(&component, &[])?;
    let tuned = Peer::start(&component, &["-O", POOL])?;
    let server = Server::start(bench, &[])?;
    let mut admin = server.connect_admin()?;
    let digest = upload(&mut admin, &std::fs::read(&component)?)?;
    deploy(&mut admin, "plain", &json!({ "handler": { "digest": digest } }))?;
    // Limits at every level a call has, high enough not to refuse.
    let limits = json!({ "concurrency": 1_000, "requests_per_minute": 1_000_000_000_u64, "tokens_per_minute": 1_000_000_000_u64 });
    for path in ["/api/v1/projects/default/limits", "/api/v1/projects/default/deployments/plain/limits"] {
        let answer = admin.call("PUT", path, limits.to_string().as_bytes())?;
        ensure!(answer.status < 300, "PUT {path}: {}", String::from_utf8_lossy(&answer.body));
    }
    let (rounds, seconds) = if bench.quick { (2, 2) } else { (5, 4) };
    let (mut ours, mut theirs, mut tuned_rounds) = (Side::default(), Side::default(), Side::default());
    for round in 0..=rounds {
        let (length, kept) = (Duration::from_secs(seconds), round > 0);
        ours.round(server.data(), server.key(), "/d/default/plain/", length, kept)?;
        theirs.round(peer.address, "", "/", length, kept)?;
        tuned_rounds.round(tuned.address, "", "/", length, kept)?;
    }
    let row = |name, peer: &Side, target, least: f64, note: &str| {
        let (ours_rate, peer_rate) = (median(&ours.rates), median(&peer.rates));
        Row {
            name,
            ours: Some(ours_rate),
            peer: Some(peer_rate),
            unit: "/s",
            ratio: Some(ours_rate / peer_rate),
            target,
            pass: ours_rate / peer_rate >= least,
            note: format!(
                "median of {rounds} rounds of {seconds} s in turns, keys, limits and ledger on; p50 {:.2} ms, p99 {:.2} ms; peer p50 {:.2} ms, p99 {:.2} ms: {note}",
                ours.latencies.median_ms(),
                ours.latencies.quantile_ms(0.99),
                peer.latencies.median_ms(),
                peer.latencies.quantile_ms(0.99),
            ),
        }
    };
    let with_pool = format!("{} serve -O {POOL}", tuned.version);
    let p99 = [&ours, &tuned_rounds].map(|side| side.latencies.quantile_ms(0.99));
    Ok(vec![
        row(NAME, &theirs, "ratio at least 2.0", 2.0, &peer.version),
        row(TUNED, &tuned_rounds, "ratio at least 0.85", 0.85, &with_pool),
        Row {
            name: TUNED_P99,
            ours: Some(p99[0]),
            peer: Some(p99[1]),
            unit: "ms",
            ratio: Some(p99[0] / p99[1]),
            target: "ratio at most 1.3",
            pass: p99[0] / p99[1] <= 1.3,
            note: format!("of all answers of the same rounds; peer: {with_pool}"),
        },
    ])
}

/// `wasmtime serve` on the same component.
struct Peer {
    child: Child,
    address: SocketAddr,
    version: String,
}

impl Peer {
    fn start(component: &std::path::Path, options: &[&str]) -> anyhow::Result<Self> {
        let binary = std::env::var_os("MAYFLY_BENCH_WASMTIME").map_or_else(|| PathBuf::from("wasmtime"), PathBuf::from);
        let version = Command::new(&binary).arg("--version").output().context(
            "`wasmtime` is not there: cargo install wasmtime-cli --version 48.0.8 --locked, or set MAYFLY_BENCH_WASMTIME",
        )?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        ensure!(version.contains(" 48."), "the peer is {version}, not of the 48 line");
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(&binary)
            .args(["serve", "-S", "cli", "--addr", &address.to_string()])
            .args(options)
            .arg(component)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let peer = Self { child, address, version };
        let begun = Instant::now();
        loop {
            match Wire::connect(address, "").and_then(|mut wire| wire.call("GET", "/", b"")) {
                Ok(answer) if answer.status == 200 => return Ok(peer),
                _ if begun.elapsed() > Duration::from_secs(20) => anyhow::bail!("`wasmtime serve` does not answer"),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
