//! Models that were dropped and are asked for again: a large fp32 graph through HTTP, with what its comings and goings
//! leave behind, and the 0.5B int4 language model against a bare session's load. All files are in the page cache.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ort::session::Session;
use ort::value::TensorRef;
use serde_json::{Value, json};

use crate::Bench;
use crate::compute::deploy_compute;
use crate::generation::{large_model, patient};
use crate::measure::Samples;
use crate::onnx::{Graph, Size};
use crate::row::Row;
use crate::server::{Server, deploy};
use crate::wire::{Answer, Wire};

pub(crate) const FIRST_ANSWER: &str = "wake_400mb";
pub(crate) const MEMORY: &str = "wake_400mb_memory";
pub(crate) const INT4: &str = "wake_05b_int4";

const LAYERS: u64 = 100;
const WIDTH: u64 = 1024;
const LAYER_BYTES: u64 = WIDTH * WIDTH * 4;

/// A session nobody asks is dropped after this, so that each call finds none.
const IDLE: Duration = Duration::from_millis(500);
/// What dropping it and giving memory back may take beyond that.
const REST: Duration = Duration::from_millis(1_500);
/// For the copy with packed weights, which is made beside the first calls.
const PACKED_WAIT_MAX: Duration = Duration::from_secs(120);
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn matmuls(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let package = matmul_package(bench)?;
    let server = server(bench)?;
    deploy_compute(bench, &server, "matmuls", &package)?;
    let mut wire = server.connect()?;
    let wake = |wire: &mut Wire| {
        let answer = wire.call("GET", &format!("/d/default/matmuls/?runs=1&bytes={}", WIDTH * 4), b"")?;
        woken(&answer)?;
        Ok::<_, anyhow::Error>(answer.whole)
    };
    // What is set up once, and the memory of one load and unload.
    let first = wake(&mut wire)?;
    let packed = wait_for_packed(&server)?;
    thread::sleep(IDLE + REST);
    wake(&mut wire)?;
    thread::sleep(IDLE + REST);
    let before = server.resident_bytes()?;

    let (mut ours, mut bare) = (Samples::default(), Samples::default());
    let count = if bench.quick { 8 } else { 40 };
    for _ in 0..count {
        ours.push(wake(&mut wire)?);
        bare.push(bare_wake(bench, &package.join("model.onnx"))?);
        thread::sleep(IDLE + REST);
    }
    let after = server.resident_bytes()?;
    // Had the last one still been there, that figure would be of a loaded model.
    wake(&mut wire)?;

    let p50 = ours.median_ms();
    let ratio = u32::try_from(after / 1024)?;
    let ratio = f64::from(ratio) / f64::from(u32::try_from(before / 1024)?);
    let mib = |bytes: u64| anyhow::Ok(f64::from(u32::try_from(bytes / 1024)?) * 1024.0 / MIB);
    Ok(vec![
        Row {
            name: FIRST_ANSWER,
            ours: Some(p50),
            peer: Some(bare.median_ms()),
            unit: "ms",
            ratio: Some(p50 / bare.median_ms()),
            target: "p50 < 60 ms",
            pass: p50 < 60.0,
            note: format!(
                "request to whole answer of a model that was dropped, {count} times; p99 {:.0} ms, the first of all {:.0} ms; the copy with packed weights was {}; peer: a default session's load and first run in process, as many threads",
                ours.quantile_ms(0.99),
                first.as_secs_f64() * 1e3,
                if packed { "there" } else { "not there" },
            ),
        },
        Row {
            name: MEMORY,
            ours: Some(mib(after)?),
            peer: Some(mib(before)?),
            unit: "MiB",
            ratio: Some(ratio),
            target: "within 5 %",
            pass: ratio <= 1.05,
            note: format!(
                "resident memory at rest after {count} more loads and unloads; peer: after the two before them"
            ),
        },
    ])
}

pub(crate) fn int4(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let package = large_model(bench)?;
    let server = server(bench)?;
    server.add_model("large", &package)?;
    let spec = json!({ "handler": { "builtin": "chat" }, "models": { "model": "large" }, "limits": patient() });
    deploy(&mut server.connect_admin()?, "chat", &spec)?;
    let mut wire = server.connect()?;
    let body: Value = json!({ "messages": [{ "role": "user", "content": "ab cd" }], "max_tokens": 1, "temperature": 0, "ignore_eos": true });
    let body = body.to_string();
    let load = |wire: &mut Wire| {
        let answer = wire.call("POST", "/d/default/chat/v1/chat/completions", body.as_bytes())?;
        woken(&answer)?;
        Ok::<_, anyhow::Error>((answer.timing("model").context("`Server-Timing` has no `model`")?, answer.whole))
    };
    load(&mut wire)?;
    let packed = wait_for_packed(&server)?;
    thread::sleep(IDLE + REST);
    let (mut ours, mut whole, mut bare) = (Samples::default(), Samples::default(), Samples::default());
    let count = if bench.quick { 5 } else { 15 };
    for _ in 0..count {
        let (loaded, answered) = load(&mut wire)?;
        ours.push(loaded);
        whole.push(answered);
        let begun = Instant::now();
        drop(std::hint::black_box(session(bench, &package.join("model.onnx"))?));
        bare.push(begun.elapsed());
        thread::sleep(IDLE + REST);
    }
    ensure!(ours.median_ms() > 0.0, "the server says that nothing was loaded");
    let ratio = ours.median_ms() / bare.median_ms();
    Ok(vec![Row {
        name: INT4,
        ours: Some(ours.median_ms()),
        peer: Some(bare.median_ms()),
        unit: "ms",
        ratio: Some(ratio),
        target: "ratio at most 0.7",
        pass: ratio <= 0.7,
        note: format!(
            "`model` of `Server-Timing`, medians of {count} in turns; the whole answer of one token {:.0} ms; the copy with packed weights was {}; peer: a default session's load and end in process",
            whole.median_ms(),
            if packed { "there" } else { "not there" },
        ),
    }])
}

fn server(bench: &Bench) -> anyhow::Result<Server> {
    let (idle, threads) = (IDLE.as_millis().to_string(), std::thread::available_parallelism()?.to_string());
    let settings = [
        ("MAYFLY_INFERENCE__SESSION_IDLE_MS", idle.as_str()),
        ("MAYFLY_INFERENCE__SESSION_STAY_MS_MIN", "0"),
        ("MAYFLY_INFERENCE__INTRA_OP_THREADS", threads.as_str()),
    ];
    Server::start(bench, &settings)
}

/// That it was answered, and by a model that was not loaded before.
fn woken(answer: &Answer) -> anyhow::Result<()> {
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "the server answered {}: {body}", answer.status);
    let cold = answer.header("x-mayfly-cold");
    ensure!(cold == Some("model"), "x-mayfly-cold was {cold:?}: the model had not been dropped");
    Ok(())
}

/// Whether the node's copy with packed weights came and is whole: as long as before, one second later.
fn wait_for_packed(server: &Server) -> anyhow::Result<bool> {
    let folder = server.data_dir().join("node/models");
    let (begun, mut last) = (Instant::now(), 0);
    while begun.elapsed() < PACKED_WAIT_MAX {
        let now = size(&folder)?;
        if now > 0 && now == last {
            return Ok(true);
        }
        last = now;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(false)
}

/// Bytes of all files below `folder`, none if it is not there.
fn size(folder: &Path) -> anyhow::Result<u64> {
    if !folder.exists() {
        return Ok(0);
    }
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        // Files come and go meanwhile.
        let Ok(metadata) = entry.as_ref().map_err(drop).and_then(|entry| entry.metadata().map_err(drop)) else {
            continue;
        };
        total += if metadata.is_dir() { size(&entry?.path())? } else { metadata.len() };
    }
    Ok(total)
}

fn bare_wake(bench: &Bench, graph: &Path) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut session = session(bench, graph)?;
    let row = vec![1.0_f32; usize::try_from(WIDTH)?];
    let input = TensorRef::from_array_view(([1, row.len()], row.as_slice()))?;
    let outputs = session.run(ort::inputs!["x" => input])?;
    std::hint::black_box(outputs["y"].try_extract_tensor::<f32>()?.1.first());
    Ok(begun.elapsed())
}

/// As it comes, but for the threads, of which all sides have as many.
fn session(bench: &Bench, graph: &Path) -> anyhow::Result<Session> {
    Ok(Session::builder(&bench.onnxruntime()?)?
        .with_intra_threads(std::thread::available_parallelism()?.get())
        .map_err(|error| anyhow::anyhow!("{error}"))?
        .commit_from_file(graph)?)
}

/// A hundred matrices of 1024 x 1024, 400 MiB, beside the graph. Written once.
fn matmul_package(bench: &Bench) -> anyhow::Result<PathBuf> {
    let folder = bench.root.join("target/bench-models/matmuls-400mb");
    let done = folder.join(".done");
    if done.exists() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    let mut graph = Graph::default();
    graph.input("x", [Size::Named("n"), Size::Fixed(WIDTH)]);
    graph.output("y", [Size::Named("n"), Size::Fixed(WIDTH)]);
    let mut weights = BufWriter::with_capacity(1 << 20, File::create(folder.join("weights.bin"))?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut before = "x".to_owned();
    for layer in 0..LAYERS {
        let name = format!("w{layer}");
        graph.external_weight(&name, [WIDTH, WIDTH], "weights.bin", layer * LAYER_BYTES, LAYER_BYTES);
        let after = if layer + 1 == LAYERS { "y".to_owned() } else { format!("h{layer}") };
        graph.node("MatMul", &[&before, &name], &after);
        before = after;
        for _ in 0..WIDTH * WIDTH {
            // xorshift; 1/32 either way keeps a row's length from layer to layer, so nothing overflows or becomes subnormal.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let weight = if state & 1 == 0 { 1.0_f32 / 32.0 } else { -1.0 / 32.0 };
            weights.write_all(&weight.to_le_bytes())?;
        }
    }
    weights.flush()?;
    fs::write(folder.join("model.onnx"), graph.file("mayfly-bench"))?;
    fs::write(done, "")?;
    Ok(folder)
}
