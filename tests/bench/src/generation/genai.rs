//! The peer `onnxruntime-genai`, in a Python process of its own that takes one command after the other.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::scene::{large_model, threads};
use crate::Bench;

/// A running peer. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Genai {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(super) version: String,
}

/// What one batch took.
#[derive(Debug)]
pub(super) struct Took {
    /// From the prompts to the last token.
    pub(super) seconds: f64,
    /// From the first new token to the last.
    pub(super) decode_seconds: f64,
}

impl Genai {
    pub(super) fn start(bench: &Bench) -> anyhow::Result<Self> {
        let python = bench.root.join("target/bench-peers/genai/bin/python");
        ensure!(python.exists(), "onnxruntime-genai is not there: run tests/bench/run.sh");
        let mut child = Command::new(&python)
            .arg(bench.root.join("tests/bench/genai.py"))
            .arg(large_model(bench)?)
            .arg(threads()?.to_string())
            .env("ORT_DISABLE_TELEMETRY", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("stdin")?;
        let output = BufReader::new(child.stdout.take().context("stdout")?);
        let mut peer = Self { child, input, output, version: String::new() };
        peer.version = peer.answer()?["version"].as_str().context("its version")?.to_owned();
        Ok(peer)
    }

    /// Continues `prompts`, equally long, by `new` tokens each, as one static batch.
    pub(super) fn generate(&mut self, prompts: &[Vec<u32>], new: u32) -> anyhow::Result<Took> {
        writeln!(self.input, "{}", json!({ "prompts": prompts, "new": new }))?;
        let answer = self.answer()?;
        ensure!(answer["tokens"] == new, "it ended early: {answer}");
        let seconds = |name: &str| answer[name].as_f64().context("a time");
        Ok(Took { seconds: seconds("seconds")?, decode_seconds: seconds("decode_seconds")? })
    }

    fn answer(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the peer ended");
        serde_json::from_str(&line).with_context(|| format!("the peer said {line:?}"))
    }
}

impl Drop for Genai {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
