//! Whether greedy tokens are the same however they came about: alone, in a batch, the prompt in chunks, behind a reused
//! prefix, and through a guest's own loop over `wasi:nn`.
//!
//! On the small model, in fp32, they must be identical. On the large one in int4 the shape of a run changes its sums a
//! little, so tokens count up to the first step whose two likeliest tokens are closer than the largest difference that
//! the bare loop saw between such runs.

use std::path::Path;
use std::thread;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::bare::{Bare, CHUNK, Row as Slot, likeliest};
use super::failed;
use super::scene::{large_model, patient, server, threads, words};
use crate::Bench;
use crate::row::Row;
use crate::server::{Server, deploy, upload};

pub(crate) const TINY: &str = "generation_greedy_tiny_chat";
pub(crate) const LARGE: &str = "generation_greedy_05b";

const ROWS: usize = 8;
/// New tokens of each prompt.
const TINY_NEW: usize = 96;
const LARGE_NEW: usize = 32;
/// Prompt tokens in one run, where prompts go in chunks.
const SMALL_CHUNK: usize = 7;

/// Tokens of each prompt, one way.
#[derive(Debug)]
struct Way {
    name: &'static str,
    /// Or why there are none.
    tokens: anyhow::Result<Vec<Vec<u32>>>,
}

/// What a comparison found.
#[derive(Debug, Default)]
struct Findings {
    /// Answers that differ, and ways that gave none.
    wrong: usize,
    compared: usize,
    said: Vec<String>,
}

impl Findings {
    /// Compares the first `clear` tokens of each answer.
    fn compare(&mut self, what: &str, way: &Way, expected: &[Vec<u32>], clear: impl Fn(usize) -> usize) {
        match &way.tokens {
            Ok(answers) => {
                for (place, (tokens, expected)) in answers.iter().zip(expected).enumerate() {
                    let (clear, same) = (clear(place), same(tokens, expected));
                    self.compared += clear.min(same);
                    if same < clear {
                        self.wrong += 1;
                        self.said.push(format!("{what}{}, prompt {place}: differs at token {same}", way.name));
                    }
                }
            }
            Err(error) => {
                self.wrong += 1;
                self.said.push(format!("{what}{}: could not be measured: {error:#}", way.name));
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
    fn row(self, name: &'static str, target: &'static str, what: String) -> Row {
        let ours = self.wrong as f64;
        let note = std::iter::once(what).chain(self.said).collect::<Vec<_>>().join("; ");
        // Nothing compared is no success.
        let pass = self.wrong == 0 && self.compared > 0;
        Row { name, ours: Some(ours), peer: None, unit: "", ratio: None, target, pass, note }
    }
}

/// How many tokens both begin with.
fn same(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut rows = tiny(bench).map_or_else(|error| failed(&[TINY], &error), |row| vec![row]);
    rows.extend(large(bench).map_or_else(|error| failed(&[LARGE], &error), |row| vec![row]));
    Ok(rows)
}

fn tiny(bench: &Bench) -> anyhow::Result<Row> {
    let models = bench.root.join("examples/models");
    let asked = std::fs::read(models.join("tiny-chat-questions.json")).context("tiny-chat is not there")?;
    let asked: Value = serde_json::from_slice(&asked)?;
    let mut findings = Findings::default();
    for layout in ["tiny-chat-genai", "tiny-chat-optimum"] {
        let package = models.join(layout);
        let prompts = questions(&asked, &package)?;
        let mut ways = ways(bench, &package, &prompts, TINY_NEW)?.into_iter();
        let alone = ways.next().context("the first way")?.tokens?;
        for way in ways {
            findings.compare(&format!("{layout}, "), &way, &alone, |_| TINY_NEW);
        }
    }
    let what = format!(
        "answers that differ from the same prompt's alone, fp32, both layouts, five other ways each: {} tokens are the same",
        findings.compared
    );
    Ok(findings.row(TINY, "none differs", what))
}

/// Prompts of tiny-chat as its template writes them.
fn questions(asked: &Value, package: &Path) -> anyhow::Result<Vec<Vec<u32>>> {
    let tokenizer = Tokenizer::from_file(package.join("tokenizer.json")).map_err(|error| anyhow::anyhow!("{error}"))?;
    let questions = asked["questions"].as_array().context("questions")?;
    let plain = questions.iter().filter_map(|question| match question["messages"].as_array()?.as_slice() {
        [only] if question["tools"].as_array().is_none_or(Vec::is_empty) => only["content"].as_str(),
        _ => None,
    });
    let plain: Vec<&str> = plain.collect();
    let prompts = plain.iter().step_by((plain.len() / ROWS).max(1)).take(ROWS).map(|content| {
        let text = format!("<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n");
        let encoding = tokenizer.encode(text, false).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(encoding.get_ids().to_vec())
    });
    let prompts: Vec<_> = prompts.collect::<anyhow::Result<_>>()?;
    ensure!(prompts.len() == ROWS, "{} questions are too few", prompts.len());
    Ok(prompts)
}

fn large(bench: &Bench) -> anyhow::Result<Row> {
    let package = large_model(bench)?;
    let tokenizer = Tokenizer::from_file(package.join("tokenizer.json")).map_err(|error| anyhow::anyhow!("{error}"))?;
    let prompts = (0..8).map(|row| {
        let encoding = tokenizer.encode(words(5000 + row, 24 + 8 * row), false);
        anyhow::Ok(encoding.map_err(|error| anyhow::anyhow!("{error}"))?.get_ids().to_vec())
    });
    let prompts: Vec<Vec<u32>> = prompts.collect::<anyhow::Result<_>>()?;
    let reference = Reference::measure(bench, &package, &prompts)?;
    let ways = ways(bench, &package, &prompts, LARGE_NEW)?;
    let clear = |place: usize| {
        let gaps = reference.gaps.get(place).into_iter().flatten();
        gaps.take_while(|gap| **gap >= reference.difference).count()
    };
    let mut findings = Findings::default();
    for way in &ways {
        findings.compare("", way, &reference.tokens, clear);
    }
    let what = format!(
        "answers that differ from the bare loop's alone before a step whose top two are within {:.4}, the largest logit difference between its runs; int4, six ways: {} tokens are the same of {} that are clear, of {} in all",
        reference.difference,
        findings.compared,
        ways.len() * (0..ROWS).map(clear).sum::<usize>(),
        ways.len() * ROWS * LARGE_NEW
    );
    Ok(findings.row(LARGE, "none before a near tie", what))
}

/// What the bare loop gives for each prompt alone.
#[derive(Debug, Default)]
struct Reference {
    tokens: Vec<Vec<u32>>,
    /// Between the two likeliest, at each step.
    gaps: Vec<Vec<f32>>,
    /// The largest between the logits of one step alone, and in a batch behind a prompt in chunks.
    difference: f32,
}

impl Reference {
    fn measure(bench: &Bench, package: &Path, prompts: &[Vec<u32>]) -> anyhow::Result<Self> {
        let graph = package.join("model.onnx");
        let mut bare = Bare::open(bench, &graph, threads()?, false, (ROWS, 256))?;
        let mut seen = Self::default();
        let mut alone = Vec::new();
        for prompt in prompts {
            let mut steps = vec![bare.prefill(0, prompt, CHUNK)?.to_vec()];
            let mut tokens = vec![likeliest(&steps[0])];
            while tokens.len() < LARGE_NEW {
                let row = Slot { past: prompt.len() + tokens.len() - 1, token: tokens[tokens.len() - 1] };
                let logits = bare.decode(&[row])?.next().context("a row")?;
                tokens.push(likeliest(logits));
                steps.push(logits.to_vec());
            }
            seen.gaps.push(steps.iter().map(|logits| gap(logits)).collect());
            seen.tokens.push(tokens);
            alone.push(steps);
        }
        for (slot, (prompt, steps)) in prompts.iter().zip(&alone).enumerate() {
            seen.note(&steps[0], bare.prefill(slot, prompt, SMALL_CHUNK)?);
        }
        for step in 1..LARGE_NEW {
            let rows: Vec<_> = (prompts.iter().zip(&seen.tokens))
                .map(|(prompt, tokens)| Slot { past: prompt.len() + step - 1, token: tokens[step - 1] })
                .collect();
            for (steps, logits) in alone.iter().zip(bare.decode(&rows)?) {
                seen.note(&steps[step], logits);
            }
        }
        Ok(seen)
    }

    fn note(&mut self, alone: &[f32], other: &[f32]) {
        let difference = alone.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        self.difference = self.difference.max(difference);
    }
}

fn gap(logits: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &value in logits {
        if value > first {
            (first, second) = (value, first);
        } else if value > second {
            second = value;
        }
    }
    first - second
}

/// Every way of the server, each prompt alone first.
fn ways(bench: &Bench, package: &Path, prompts: &[Vec<u32>], new: usize) -> anyhow::Result<Vec<Way>> {
    let first = Guests::start(bench, package, &[])?;
    let chunk = SMALL_CHUNK.to_string();
    let generate = |guests: &Guests, kind: &str, reused: bool| -> anyhow::Result<Vec<Vec<u32>>> {
        let places = prompts.iter().enumerate();
        places.map(|(place, prompt)| guests.generate(&format!("{kind}-{place}"), prompt, new, reused)).collect()
    };
    let by_hand = |cut: usize| -> anyhow::Result<Vec<Vec<u32>>> {
        prompts.iter().map(|prompt| first.by_hand(prompt, new, cut)).collect()
    };
    let mut ways = vec![
        Way { name: "alone", tokens: generate(&first, "alone", false) },
        Way { name: "reused", tokens: generate(&first, "alone", true) },
    ];
    let batch = thread::scope(|scope| {
        let callers: Vec<_> = prompts
            .iter()
            .enumerate()
            .map(|(place, prompt)| {
                let first = &first;
                scope.spawn(move || first.generate(&format!("batch-{place}"), prompt, new, false))
            })
            .collect();
        let joined = callers.into_iter().map(|one| one.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?);
        joined.collect::<anyhow::Result<_>>()
    });
    ways.push(Way { name: "batch", tokens: batch });
    ways.push(Way { name: "wasi:nn", tokens: by_hand(usize::MAX) });
    ways.push(Way { name: "wasi:nn in pieces", tokens: by_hand(5) });
    drop(first);
    let chunked = Guests::start(bench, package, &[("MAYFLY_INFERENCE__GENERATION_PREFILL_CHUNK_MAX", &chunk)])?;
    ways.push(Way { name: "chunks", tokens: generate(&chunked, "alone", false) });
    Ok(ways)
}

/// A server with the test guest that generates, in several deployments: prefixes are reused within one only.
#[derive(Debug)]
struct Guests(Server);

impl Guests {
    fn start(bench: &Bench, package: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let component = bench.root.join("tests/fixtures/guests/target/wasm32-wasip2/release/generate.wasm");
        let server = server(bench, settings)?;
        server.add_model("decoder", package)?;
        let mut admin = server.connect_admin()?;
        let digest = upload(&mut admin, &std::fs::read(component).context("the guest `generate`")?)?;
        let spec = json!({ "handler": { "digest": digest }, "models": { "model": "decoder" }, "limits": patient() });
        for kind in ["alone", "batch"] {
            for place in 0..ROWS {
                deploy(&mut admin, &format!("{kind}-{place}"), &spec)?;
            }
        }
        Ok(Self(server))
    }

    /// The host's engine.
    fn generate(&self, deployment: &str, prompt: &[u32], new: usize, reused: bool) -> anyhow::Result<Vec<u32>> {
        let options = json!({ "max_tokens": new, "temperature": 0, "ignore_eos": true });
        let answer =
            self.ask(&format!("/d/default/{deployment}/"), &json!({ "tokens": prompt, "options": options }))?;
        let cached = answer["usage"][1].as_u64().with_context(|| format!("no usage: {answer}"))?;
        ensure!((cached > 0) == reused, "{cached} tokens of {deployment} were reused");
        tokens(&answer["choices"][0]["tokens"], new)
    }

    /// The guest's own loop.
    fn by_hand(&self, prompt: &[u32], new: usize, cut: usize) -> anyhow::Result<Vec<u32>> {
        let path = format!("/d/default/alone-0/loop?new={new}&cut={cut}");
        let answer = self.ask(&path, &json!({ "tokens": prompt }))?;
        tokens(&answer["tokens"], new).with_context(|| answer.to_string())
    }

    fn ask(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer = self.0.connect()?.call("POST", path, body.to_string().as_bytes())?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 200, "{path} answered {}: {text}", answer.status);
        serde_json::from_str(&text).with_context(|| format!("{path} answered {text}"))
    }
}

fn tokens(value: &Value, count: usize) -> anyhow::Result<Vec<u32>> {
    let tokens: Vec<u32> = serde_json::from_value(value.clone())?;
    ensure!(tokens.len() == count, "{} tokens instead of {count}", tokens.len());
    Ok(tokens)
}
