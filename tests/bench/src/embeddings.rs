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
    check(&first, &peer.embed(&[SENTENCE])?[0])?;

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

/// That an answer of `/v1/embeddings` has the vector `expected`.
pub(crate) fn check(answer: &wire::Answer, expected: &[f32]) -> anyhow::Result<()> {
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "the server answered {}: {body}", answer.status);
    let body: serde_json::Value = serde_json::from_str(&body)?;
    let vector: Vec<f32> = serde_json::from_value(body["data"][0]["embedding"].clone()).context("the embedding")?;
    same(&vector, expected)
}

/// That two vectors are the same but for rounding.
pub(crate) fn same(vector: &[f32], expected: &[f32]) -> anyhow::Result<()> {
    let difference = vector.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    ensure!(vector.len() == expected.len() && difference < 1e-4, "the vectors differ by {difference}");
    Ok(())
}

/// The bare library.
pub(crate) struct Peer {
    tokenizer: Tokenizer,
    session: Session,
}

impl Peer {
    pub(crate) fn open(bench: &Bench, package: &Path, threads: usize) -> anyhow::Result<Self> {
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
        std::hint::black_box(self.embed(&[text])?);
        Ok(begin.elapsed())
    }

    /// Tokens of `text`, special ones included.
    pub(crate) fn tokens(&self, text: &str) -> anyhow::Result<usize> {
        Ok(self.tokenizer.encode(text, true).map_err(|e| anyhow::anyhow!("{e}"))?.len())
    }

    /// One vector for each of `texts`, in one run.
    ///
    /// # Errors
    /// Also if they have different numbers of tokens: nothing is padded here.
    pub(crate) fn embed(&mut self, texts: &[&str]) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut ids: Vec<i64> = Vec::new();
        for (before, text) in texts.iter().enumerate() {
            let encoding = self.tokenizer.encode(*text, true).map_err(|e| anyhow::anyhow!("{e}"))?;
            ids.extend(encoding.get_ids().iter().map(|&id| i64::from(id)));
            ensure!(ids.len() == encoding.len() * (before + 1), "the texts have different numbers of tokens");
        }
        let shape = [texts.len(), ids.len() / texts.len()];
        let (mask, types) = (vec![1_i64; ids.len()], vec![0_i64; ids.len()]);
        let outputs = self.session.run(ort::inputs![
            "input_ids" => TensorRef::from_array_view((shape, ids.as_slice()))?,
            "attention_mask" => TensorRef::from_array_view((shape, mask.as_slice()))?,
            "token_type_ids" => TensorRef::from_array_view((shape, types.as_slice()))?,
        ])?;
        let (sizes, hidden) = outputs["last_hidden_state"].try_extract_tensor::<f32>()?;
        let width = usize::try_from(sizes[2])?;
        Ok(hidden.chunks_exact(width * shape[1]).map(|row| pool(row, width)).collect())
    }
}

/// The mean of all positions, of length one.
fn pool(hidden: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f32; width];
    for position in hidden.chunks_exact(width) {
        for (total, value) in sum.iter_mut().zip(position) {
            *total += value;
        }
    }
    // The mean's divisor cancels out in the norm.
    let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    sum.iter_mut().for_each(|x| *x /= norm);
    sum
}
