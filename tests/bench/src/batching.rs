//! Thirty-two callers of `/v1/embeddings`, one sentence of 16 tokens each: what running together gains over one after
//! the other, against what it gains the bare library, and against Python servers that batch.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::Bench;
use crate::embeddings::{Peer, check};
use crate::load::{Request, load};
use crate::measure::{Samples, median};
use crate::python::{BENTOML, LITSERVE, Python};
use crate::row::Row;
use crate::server::Server;

pub(crate) const GAIN: &str = "embeddings_32_gain";
pub(crate) const PEER: &str = "embeddings_32_peer";
pub(crate) const BENTO: &str = "embeddings_32_bentoml";

const CONNECTIONS: usize = 32;
/// Fourteen words of the vocabulary, and the two special tokens.
const SENTENCE: &str = "how do i reset my password if i have lost the phone it needs";
const TOKENS: usize = 16;
const PATH: &str = "/d/default/embed/v1/embeddings";

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let package = bench.root.join("target/test-models/minilm");
    // As many threads on all sides.
    let threads = std::thread::available_parallelism()?.get();
    let server = Server::start(bench, &[("MAYFLY_INFERENCE__INTRA_OP_THREADS", &threads.to_string())])?;
    server.add_model("minilm", &package)?;
    server.deploy_builtin("embeddings", "embed", &[("model", "minilm")])?;
    let mut bare = Peer::open(bench, &package, threads)?;
    let mut narrow = (0..threads).map(|_| Peer::open(bench, &package, 1)).collect::<Result<Vec<_>, _>>()?;
    ensure!(bare.tokens(SENTENCE)? == TOKENS, "the sentence has {} tokens", bare.tokens(SENTENCE)?);
    let body = format!("{{\"model\":\"embed\",\"input\":\"{SENTENCE}\"}}");
    let expected = bare.embed(&[SENTENCE])?.swap_remove(0);
    check(&server.connect()?.call("POST", PATH, body.as_bytes())?, &expected)?;
    let mut pythons = [(PEER, &LITSERVE), (BENTO, &BENTOML)].map(|(row, kind)| {
        let started = Python::start(bench, kind, &package, threads, SENTENCE, &expected);
        (row, started, Vec::new(), Samples::default())
    });

    let (rounds, seconds) = if bench.quick { (3, 3) } else { (7, 5) };
    let length = Duration::from_secs(seconds);
    let (mut one, mut many, mut most) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ours, mut latencies) = (Vec::new(), Samples::default());
    for round in 0..=rounds {
        let (rate, seen) = load(server.data(), &Request::post(PATH, server.key(), &body), CONNECTIONS, length)?;
        let bare_one = rows_per_second(&mut bare, 1, length)?;
        let bare_many = rows_per_second(&mut bare, CONNECTIONS, length)?;
        let bare_most = side_by_side(&mut narrow, CONNECTIONS.div_ceil(threads), length)?;
        // The first warms all sides.
        if round > 0 {
            ours.push(rate);
            latencies.extend(seen);
            one.push(bare_one);
            many.push(bare_many);
            most.push(bare_most);
        }
        for (_, python, rates, latencies) in &mut pythons {
            let Ok(python) = python else { continue };
            let _turn = python.turn()?;
            let (rate, seen) = load(python.address(), &python.request(SENTENCE), CONNECTIONS, length)?;
            if round > 0 {
                rates.push(rate);
                latencies.extend(seen);
            }
        }
    }
    let (ours, one, many, most) = (median(&ours), median(&one), median(&many), median(&most));
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
    let against_python = pythons.map(|(name, python, rates, latencies)| match python {
        Ok(python) => {
            let theirs = median(&rates);
            Row {
                name,
                ours: Some(ours),
                peer: Some(theirs),
                unit: "/s",
                ratio: Some(ours / theirs),
                target: "ratio at least 2.0",
                pass: ours / theirs >= 2.0,
                note: format!(
                    "{CONNECTIONS} connections; {said}; bare sessions of one thread side by side, and no server: {most:.0} rows/s, {:.2} times the peer; peer: {}, {}, p50 {:.1} ms, p99 {:.1} ms",
                    most / theirs,
                    python.version(),
                    python.batches(),
                    latencies.median_ms(),
                    latencies.quantile_ms(0.99),
                ),
            }
        }
        Err(error) => Row::failed(name, &format!("{error:#}")),
    });
    Ok(std::iter::once(gained).chain(against_python).collect())
}

/// What the machine's cores can do with this model at most: each works by itself, and nobody is served.
fn side_by_side(sessions: &mut [Peer], batch: usize, length: Duration) -> anyhow::Result<f64> {
    std::thread::scope(|scope| {
        let work = |session| scope.spawn(move || rows_per_second(session, batch, length));
        let running: Vec<_> = sessions.iter_mut().map(work).collect();
        running.into_iter().map(|one| one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).sum()
    })
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
