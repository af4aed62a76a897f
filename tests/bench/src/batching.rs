//! Thirty-two callers of `/v1/embeddings`, one sentence of 16 tokens each: what running together gains over one after
//! the other, against what it gains the bare library, and against a Python server that batches.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::Bench;
use crate::embeddings::{Peer, check};
use crate::load::{Request, load};
use crate::measure::{Samples, median};
use crate::row::Row;
use crate::server::Server;
use crate::wire::Wire;

pub(crate) const GAIN: &str = "embeddings_32_gain";
pub(crate) const PEER: &str = "embeddings_32_peer";

const CONNECTIONS: usize = 32;
/// Fourteen words of the vocabulary, and the two special tokens.
const SENTENCE: &str = "how do i reset my password if i have lost the phone it needs";
const TOKENS: usize = 16;
const PATH: &str = "/d/default/embed/v1/embeddings";
const PYTHON_PATH: &str = "/v1/embeddings";

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let package = bench.root.join("target/test-models/minilm");
    // As many threads on all sides.
    let threads = std::thread::available_parallelism()?.get();
    let server = Server::start(bench, &[("MAYFLY_INFERENCE__INTRA_OP_THREADS", &threads.to_string())])?;
    server.add_model("minilm", &package)?;
    server.deploy_builtin("embeddings", "embed", &[("model", "minilm")])?;
    let mut bare = Peer::open(bench, &package, threads)?;
    ensure!(bare.tokens(SENTENCE)? == TOKENS, "the sentence has {} tokens", bare.tokens(SENTENCE)?);
    let body = format!("{{\"model\":\"embed\",\"input\":\"{SENTENCE}\"}}");
    let expected = bare.embed(&[SENTENCE])?.swap_remove(0);
    check(&server.connect()?.call("POST", PATH, body.as_bytes())?, &expected)?;
    let python = Python::start(bench, &package, threads).and_then(|python| {
        check(&Wire::connect(python.address, "")?.call("POST", PYTHON_PATH, body.as_bytes())?, &expected)?;
        Ok(python)
    });

    let (rounds, seconds) = if bench.quick { (3, 3) } else { (7, 5) };
    let length = Duration::from_secs(seconds);
    let (mut one, mut many) = (Vec::new(), Vec::new());
    let (mut ours, mut latencies) = (Vec::new(), Samples::default());
    let (mut theirs, mut their_latencies) = (Vec::new(), Samples::default());
    for round in 0..=rounds {
        let (rate, seen) = load(server.data(), &Request::post(PATH, server.key(), &body), CONNECTIONS, length)?;
        let bare_one = rows_per_second(&mut bare, 1, length)?;
        let bare_many = rows_per_second(&mut bare, CONNECTIONS, length)?;
        let peer = match &python {
            Ok(python) => Some(load(python.address, &Request::post(PYTHON_PATH, "", &body), CONNECTIONS, length)?),
            Err(_) => None,
        };
        // The first warms all sides.
        if round > 0 {
            ours.push(rate);
            latencies.extend(seen);
            one.push(bare_one);
            many.push(bare_many);
            if let Some((rate, seen)) = peer {
                theirs.push(rate);
                their_latencies.extend(seen);
            }
        }
    }
    let (ours, one, many) = (median(&ours), median(&one), median(&many));
    let (gain, bare_gain) = (ours / one, many / one);
    let said = format!("medians of {rounds} rounds of {seconds} s in turns, {TOKENS} tokens, {threads} threads");
    let gained = Row {
        name: GAIN,
        ours: Some(gain),
        peer: Some(bare_gain),
        unit: "x",
        ratio: Some(gain / bare_gain),
        target: "ratio at least 0.85",
        pass: gain / bare_gain >= 0.85,
        note: format!(
            "over bare batch 1, {one:.0} rows/s; ours {ours:.0} rows/s at {CONNECTIONS} connections over HTTP, p50 {:.1} ms, p99 {:.1} ms; peer: bare batch {CONNECTIONS}, {many:.0} rows/s; {said}",
            latencies.median_ms(),
            latencies.quantile_ms(0.99),
        ),
    };
    let against_python = match python {
        Ok(python) => {
            let theirs = median(&theirs);
            Row {
                name: PEER,
                ours: Some(ours),
                peer: Some(theirs),
                unit: "/s",
                ratio: Some(ours / theirs),
                target: "ratio at least 2.0",
                pass: ours / theirs >= 2.0,
                note: format!(
                    "{CONNECTIONS} connections; {said}; peer: {}, batches of up to 32 within 5 ms, p50 {:.1} ms, p99 {:.1} ms",
                    python.version,
                    their_latencies.median_ms(),
                    their_latencies.quantile_ms(0.99),
                ),
            }
        }
        Err(error) => Row::failed(PEER, &format!("{error:#}")),
    };
    Ok(vec![gained, against_python])
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
fn rows_per_second(bare: &mut Peer, batch: usize, length: Duration) -> anyhow::Result<f64> {
    let texts = vec![SENTENCE; batch];
    let (begun, mut rows) = (Instant::now(), 0);
    while begun.elapsed() < length {
        rows += std::hint::black_box(bare.embed(&texts)?).len();
    }
    Ok(rows as f64 / begun.elapsed().as_secs_f64())
}

/// LitServe with the same model. Dropping it ends all of its processes.
struct Python {
    child: Child,
    address: SocketAddr,
    version: String,
}

impl Python {
    fn start(bench: &Bench, package: &Path, threads: usize) -> anyhow::Result<Self> {
        let python = bench.root.join("target/bench-peers/litserve/bin/python");
        ensure!(python.exists(), "LitServe is not there: run tests/bench/run.sh");
        let version = Command::new(&python)
            .args(["-c", "from importlib.metadata import version as v; print('LitServe', v('litserve'), 'on onnxruntime', v('onnxruntime'))"])
            .output()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        // It ends by itself when its standard input does: it has workers of its own, which a kill would leave behind.
        let child = Command::new(&python)
            .arg(bench.root.join("tests/bench/litserve.py"))
            .arg(package)
            .args([address.port().to_string(), threads.to_string()])
            .env("ORT_DISABLE_TELEMETRY", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let mut peer = Self { child, address, version };
        let begun = Instant::now();
        loop {
            match Wire::connect(address, "").and_then(|mut wire| wire.call("GET", "/health", b"")) {
                Ok(answer) if answer.status == 200 => return Ok(peer),
                _ if begun.elapsed() > Duration::from_secs(60) => bail!("LitServe does not answer"),
                _ => thread::sleep(Duration::from_millis(100)),
            }
            if let Some(status) = peer.child.try_wait()? {
                bail!("LitServe ended: {status}");
            }
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
