//! What one `wasi:nn` compute costs a guest, against the same session in process.
//!
//! The guest makes its input, computes, reads the output: one copy in, one copy out. The peer does the same with `ort`: the
//! input copied into a fresh vector, the run, the output copied out of it. One run is the time of a request for many
//! less that of a request for none, divided; HTTP, instance and billing of the request are in both. One intra-op thread on both
//! sides: what is to be seen is the way to the run, not the run.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ort::session::Session;
use ort::value::{DynValue, Tensor, TensorRef};
use serde_json::{Value, json};

use crate::Bench;
use crate::measure::median;
use crate::onnx;
use crate::row::Row;
use crate::server::{Server, deploy, upload};
use crate::wire::Wire;

pub(crate) const SMALL: &str = "compute_1k";
pub(crate) const MIDDLE: &str = "compute_100k";
pub(crate) const LARGE: &str = "compute_4m";
pub(crate) const CHAIN: &str = "tensors_32_of_1m";

const CHAIN_TENSORS: usize = 32;
const CHAIN_BYTES: usize = 1 << 20;

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let package = |name: &str, graph: &[u8]| {
        let package = folder.path().join(name);
        fs::create_dir(&package)?;
        fs::write(package.join("model.onnx"), graph)?;
        anyhow::Ok(package)
    };
    let double = package("double", &onnx::double("mayfly-bench"))?;
    let negate = package("negate", &onnx::negate_all(CHAIN_TENSORS, (CHAIN_BYTES / size_of::<f32>()) as u64))?;
    let mut rows = Vec::new();
    {
        let (_server, mut wire, mut session) = sides(bench, "double", &double)?;
        for (name, bytes, runs) in [(SMALL, 1 << 10, 2_000), (MIDDLE, 100 << 10, 1_000), (LARGE, 4 << 20, 60)] {
            rows.push(single(bench, &mut wire, &mut session, name, bytes, runs)?);
        }
    }
    rows.push(chain(bench, &negate)?);
    Ok(rows)
}

/// A fresh server with `package` deployed as `name`, a connection to it, and a fresh session of the same graph.
fn sides(bench: &Bench, name: &str, package: &Path) -> anyhow::Result<(Server, Wire, Session)> {
    let server = Server::start(bench, &[("MAYFLY_INFERENCE__INTRA_OP_THREADS", "1")])?;
    deploy_compute(bench, &server, name, package)?;
    let wire = server.connect()?;
    Ok((server, wire, session(bench, &package.join("model.onnx"))?))
}

/// Deploys the guest that computes as often as it is told, with limits for a slow machine.
pub(crate) fn deploy_compute(bench: &Bench, server: &Server, name: &str, package: &Path) -> anyhow::Result<()> {
    let guest = bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release/compute.wasm");
    let wasm = fs::read(&guest).with_context(|| guest.display().to_string())?;
    server.add_model(name, package)?;
    let mut admin = server.connect_admin()?;
    let spec = json!({
        "handler": { "digest": upload(&mut admin, &wasm)? },
        "models": { "model": name },
        "limits": { "deadline_ms_max": 600_000, "guest_cpu_ms_max": 600_000 },
    });
    deploy(&mut admin, name, &spec)
}

fn session(bench: &Bench, graph: &Path) -> anyhow::Result<Session> {
    Ok(Session::builder(&bench.onnxruntime()?)?
        .with_intra_threads(1)
        .map_err(|error| anyhow::anyhow!("{error}"))?
        .with_intra_op_spinning(false)
        .map_err(|error| anyhow::anyhow!("{error}"))?
        .commit_from_file(graph)?)
}

fn single(
    bench: &Bench,
    wire: &mut Wire,
    session: &mut Session,
    name: &'static str,
    bytes: usize,
    runs: u32,
) -> anyhow::Result<Row> {
    let rounds = if bench.quick { 5 } else { 15 };
    let values = vec![1.0_f32; bytes / size_of::<f32>()];
    let shape = [1_usize, values.len()];
    let query = format!("bytes={bytes}");
    let (mut ours, mut theirs, mut bare, mut copies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let took = ask_many(wire, "double", &query, runs, 2.0)?;
        let peer = timed(runs, || {
            let input = Tensor::from_array((shape, values.clone()))?;
            let outputs = session.run(ort::inputs!["x" => input])?;
            let output = outputs["y"].try_extract_tensor::<f32>()?.1.to_vec();
            ensure!(output.first() == Some(&2.0), "the bare session gave {:?}", output.first());
            Ok(())
        })?;
        let in_place = timed(runs, || {
            let input = TensorRef::from_array_view((shape, values.as_slice()))?;
            let outputs = session.run(ort::inputs!["x" => input])?;
            std::hint::black_box(outputs["y"].try_extract_tensor::<f32>()?.1.first());
            Ok(())
        })?;
        let copied = timed(runs, || {
            std::hint::black_box(std::hint::black_box(&values).clone());
            Ok(())
        })?;
        // The first loads the model and touches all memory once.
        if round > 0 {
            ours.push(took);
            theirs.push(peer);
            bare.push(in_place);
            copies.push(copied);
        }
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    let (target, pass) = if name == SMALL {
        ("under 8 us over bare", ours - theirs < 8.0)
    } else {
        ("ratio at most 1.25", ours / theirs <= 1.25)
    };
    Ok(Row {
        name,
        ours: Some(ours),
        peer: Some(theirs),
        unit: "us",
        ratio: Some(ours / theirs),
        target,
        pass,
        note: format!(
            "one compute of {bytes} B in a guest, input made and output read; medians of {rounds} rounds of {runs}; {:.1} us over the peer: bare run with one copy in and one out; bare without copies {:.1} us, one copy {:.1} us",
            ours - theirs,
            median(&bare),
            median(&copies),
        ),
    })
}

fn chain(bench: &Bench, package: &Path) -> anyhow::Result<Row> {
    // Even: what was negated twice is what it was.
    let (rounds, steps) = if bench.quick { (5, 100) } else { (15, 100) };
    let elements = CHAIN_BYTES / size_of::<f32>();
    let query = format!("bytes={CHAIN_BYTES}&tensors={CHAIN_TENSORS}");
    let names: Vec<_> = (0..CHAIN_TENSORS).map(|index| (format!("x{index}"), format!("y{index}"))).collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        // Which pages a process was given moves either side by a tenth and stays as long as it lives.
        let (_server, mut wire, mut session) = sides(bench, "negate", package)?;
        let mut bare = || {
            let mut state = Vec::with_capacity(CHAIN_TENSORS);
            for _ in 0..CHAIN_TENSORS {
                state.push(Tensor::from_array(([1_usize, elements], vec![1.0_f32; elements]))?.into_dyn());
            }
            let took = timed(steps, || {
                let inputs: Vec<(&str, DynValue)> =
                    names.iter().map(|(input, _)| input.as_str()).zip(std::mem::take(&mut state)).collect();
                let mut outputs = session.run(inputs)?;
                for (_, output) in &names {
                    state.push(outputs.remove(output).with_context(|| format!("no output {output}"))?);
                }
                Ok(())
            })?;
            let first = state[0].try_extract_tensor::<f32>()?.1.first().copied();
            ensure!(first == Some(1.0), "the bare session gave {first:?}");
            Ok(took)
        };
        // The first of each loads the model and touches all memory once.
        ask_many(&mut wire, "negate", &query, steps, 1.0)?;
        bare()?;
        ours.push(ask_many(&mut wire, "negate", &query, steps, 1.0)? / 1e3);
        theirs.push(bare()? / 1e3);
    }
    let ratio = median(&ours) / median(&theirs);
    Ok(Row {
        name: CHAIN,
        ours: Some(median(&ours)),
        peer: Some(median(&theirs)),
        unit: "ms",
        ratio: Some(ratio),
        target: "ratio at most 1.1",
        pass: ratio <= 1.1,
        note: format!(
            "one step of {CHAIN_TENSORS} tensors of 1 MiB, each output handed back as an input; medians of {rounds} rounds of {steps}, each with a fresh server and a fresh session; peer: bare session, values handed back"
        ),
    })
}

/// Microseconds of one run within a request: that of `runs` less that of none.
fn ask_many(wire: &mut Wire, deployment: &str, query: &str, runs: u32, expected: f64) -> anyhow::Result<f64> {
    let none = ask(wire, deployment, &format!("runs=0&{query}"))?.0;
    let (many, answer) = ask(wire, deployment, &format!("runs={runs}&{query}"))?;
    ensure!(answer["first"].as_f64() == Some(expected), "the guest answered {answer}");
    Ok((many.as_secs_f64() - none.as_secs_f64()) * 1e6 / f64::from(runs))
}

/// One request to the guest: what it took, and its answer.
pub(crate) fn ask(wire: &mut Wire, deployment: &str, query: &str) -> anyhow::Result<(Duration, Value)> {
    let answer = wire.call("GET", &format!("/d/default/{deployment}/?{query}"), b"")?;
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "{deployment} answered {}: {body}", answer.status);
    Ok((answer.whole, serde_json::from_str(&body)?))
}

/// Microseconds of one of `runs`.
fn timed(runs: u32, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    for _ in 0..runs {
        run()?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(runs))
}
