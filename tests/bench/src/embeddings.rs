//! One sentence to one vector, on one connection, against the same model in process: tokenise, run, pool, normalise.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ort::session::Session;
use ort::value::TensorRef;
use tokenizers::Tokenizer;

use crate::measure::Samples;
use crate::row::Row;
use crate::server::Server;
use crate::{Bench, wire};

pub(crate) const NAME: &str = "embeddings_one_connection";
const SENTENCE: &str = "how do I reset my password";

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let runs = if bench.quick { 300 } else { 2_000 };
    let package = bench.root.join("target/test-models/minilm");
    // As many threads on both sides.
    let threads = std::thread::available_parallelism()?.get();

    let server = Server::start(bench, &[("MAYFLY_INFERENCE__INTRA_OP_THREADS", &threads.to_string())])?;
    server.add_model("minilm", &package)?;
    server.deploy_builtin("embeddings", "embed", &[("model", "minilm")])?;
    let mut connection = server.connect()?;
    let body = format!("{{\"model\":\"embed\",\"input\":\"{SENTENCE}\"}}");
    let mut peer = Peer::open(bench, &package, threads)?;

    let first = connection.call("POST", "/d/default/embed/v1/embeddings", body.as_bytes())?;
    ensure!(first.status == 200, "the server answered {}: {}", first.status, String::from_utf8_lossy(&first.body));
    let (ours_vector, peer_vector) = (vector(&first)?, peer.embed(SENTENCE)?);
    let difference = ours_vector.iter().zip(&peer_vector).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    ensure!(ours_vector.len() == peer_vector.len() && difference < 1e-4, "the vectors differ by {difference}");

    // In turns, so that both see the same machine.
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for run in 0..runs + 20 {
        let answer = connection.call("POST", "/d/default/embed/v1/embeddings", body.as_bytes())?;
        ensure!(answer.status == 200, "the server answered {}", answer.status);
        let peer_took = peer.timed(SENTENCE)?;
        if run >= 20 {
            ours.push(answer.whole);
            theirs.push(peer_took);
        }
    }
    let ratio = ours.median_ms() / theirs.median_ms();
    Ok(vec![Row {
        name: NAME,
        ours: Some(ours.median_ms()),
        peer: Some(theirs.median_ms()),
        unit: "ms",
        ratio: Some(ratio),
        target: "ratio <= 1.25",
        pass: ratio <= 1.25,
        note: format!(
            "p50 of {runs}, HTTP against in-process ort + tokenizers, {threads} threads, 8 tokens; p99 {:.2} / {:.2}",
            ours.quantile_ms(0.99),
            theirs.quantile_ms(0.99)
        ),
    }])
}

fn vector(answer: &wire::Answer) -> anyhow::Result<Vec<f32>> {
    let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
    serde_json::from_value(body["data"][0]["embedding"].clone()).context("the embedding")
}

/// The bare library.
struct Peer {
    tokenizer: Tokenizer,
    session: Session,
}

impl Peer {
    fn open(bench: &Bench, package: &Path, threads: usize) -> anyhow::Result<Self> {
        let mut tokenizer = Tokenizer::from_file(package.join("tokenizer.json")).map_err(|e| anyhow::anyhow!("{e}"))?;
        tokenizer.with_padding(None).with_truncation(None).map_err(|e| anyhow::anyhow!("{e}"))?;
        let session = Session::builder(&bench.onnxruntime()?)?
            .with_intra_threads(threads)
            .map_err(|e| anyhow::anyhow!("{e}"))?
            .with_intra_op_spinning(false)
            .map_err(|e| anyhow::anyhow!("{e}"))?
            .commit_from_file(package.join("model.onnx"))?;
        Ok(Self { tokenizer, session })
    }

    fn timed(&mut self, text: &str) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        std::hint::black_box(self.embed(text)?);
        Ok(begin.elapsed())
    }

    fn embed(&mut self, text: &str) -> anyhow::Result<Vec<f32>> {
        let encoding = self.tokenizer.encode(text, true).map_err(|e| anyhow::anyhow!("{e}"))?;
        let ids: Vec<i64> = encoding.get_ids().iter().map(|&id| i64::from(id)).collect();
        let shape = [1_usize, ids.len()];
        let (mask, types) = (vec![1_i64; ids.len()], vec![0_i64; ids.len()]);
        let outputs = self.session.run(ort::inputs![
            "input_ids" => TensorRef::from_array_view((shape, ids.as_slice()))?,
            "attention_mask" => TensorRef::from_array_view((shape, mask.as_slice()))?,
            "token_type_ids" => TensorRef::from_array_view((shape, types.as_slice()))?,
        ])?;
        let (shape, hidden) = outputs["last_hidden_state"].try_extract_tensor::<f32>()?;
        let width = usize::try_from(shape[2])?;
        let mut sum = vec![0.0_f32; width];
        for position in hidden.chunks_exact(width) {
            for (total, value) in sum.iter_mut().zip(position) {
                *total += value;
            }
        }
        // The mean's divisor cancels out in the norm.
        let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        sum.iter_mut().for_each(|x| *x /= norm);
        Ok(sum)
    }
}
