//! The trivial handler on sixteen connections, fresh instance for each request, against `wasmtime serve` as it comes.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::Bench;
use crate::load::load;
use crate::measure::Samples;
use crate::row::Row;
use crate::server::{Server, deploy, upload};
use crate::wire::Wire;

pub(crate) const NAME: &str = "trivial_16_connections";
const CONNECTIONS: usize = 16;

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let component = bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release/plain.wasm");
    let peer = Peer::start(&component)?;
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
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut latencies, mut peer_latencies) = (Samples::default(), Samples::default());
    for round in 0..=rounds {
        let length = Duration::from_secs(seconds);
        let (rate, seen) = load(server.data(), server.key(), "/d/default/plain/", CONNECTIONS, length)?;
        let (peer_rate, peer_seen) = load(peer.address, "", "/", CONNECTIONS, length)?;
        if round > 0 {
            ours.push(rate);
            theirs.push(peer_rate);
            latencies.extend(seen);
            peer_latencies.extend(peer_seen);
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let ratio = ours / theirs;
    Ok(vec![Row {
        name: NAME,
        ours: Some(ours),
        peer: Some(theirs),
        unit: "/s",
        ratio: Some(ratio),
        target: "ratio at least 1.5",
        pass: ratio >= 1.5,
        note: format!(
            "median of {rounds} rounds of {seconds} s in turns, keys, limits and ledger on; p50 {:.2} ms, p99 {:.2} ms; peer p50 {:.2} ms, p99 {:.2} ms: {}",
            latencies.median_ms(),
            latencies.quantile_ms(0.99),
            peer_latencies.median_ms(),
            peer_latencies.quantile_ms(0.99),
            peer.version
        ),
    }])
}

/// `wasmtime serve` on the same component.
struct Peer {
    child: Child,
    address: SocketAddr,
    version: String,
}

impl Peer {
    fn start(component: &std::path::Path) -> anyhow::Result<Self> {
        let binary = std::env::var_os("MAYFLY_BENCH_WASMTIME").map_or_else(|| PathBuf::from("wasmtime"), PathBuf::from);
        let version = Command::new(&binary).arg("--version").output().context(
            "`wasmtime` is not there: cargo install wasmtime-cli --version 48.0.8 --locked, or set MAYFLY_BENCH_WASMTIME",
        )?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        ensure!(version.contains(" 48."), "the peer is {version}, not of the 48 line");
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(&binary)
            .args(["serve", "-S", "cli", "--addr", &address.to_string()])
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
