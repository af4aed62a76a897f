//! How fast text comes: one stream, eight ragged streams, a prompt.

use std::thread;
use std::time::{Duration, Instant};

use super::bare::{Bare, CHUNK, Row as Slot, likeliest};
use super::eight::{NEW, stream_while};
use super::genai::Genai;
use super::scene::{Scene, large_model, threads};
use super::{failed, median};
use crate::Bench;
use crate::row::Row;

pub(crate) const ONE: &str = "generation_one_stream";
pub(crate) const ONE_GENAI: &str = "generation_one_stream_genai";
pub(crate) const EIGHT: &str = "generation_eight_streams";
pub(crate) const EIGHT_GENAI: &str = "generation_eight_streams_genai";
pub(crate) const SCALING: &str = "generation_eight_to_one";
pub(crate) const PREFILL: &str = "generation_prefill_512";

/// Tokens of the one stream, in and out.
const TOKENS: u32 = 64;
const PROMPT: u32 = 512;
/// Prompts of the eight streams.
const PROMPTS: [u32; 8] = [24, 136, 40, 120, 56, 104, 72, 88];
/// Between two arrivals.
const ARRIVAL: Duration = Duration::from_millis(60);
/// Positions of a slot of the bare loop.
const POSITIONS: usize = 1024;
/// Peers' threads spin for a while after a run: they shall not do it in the others' time.
const SETTLE: Duration = Duration::from_millis(50);

/// Figures of one side, one for each round.
#[derive(Debug, Default)]
struct Figures {
    /// Tokens per second of the one stream, prompt included.
    one: Vec<f64>,
    /// The same from its first token on.
    one_decode: Vec<f64>,
    /// Tokens per second while all eight stream.
    eight: Vec<f64>,
    /// Prompt tokens per second.
    prefill: Vec<f64>,
}

pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let graph = large_model(bench)?.join("model.onnx");
    let scene = Scene::start(bench)?;
    let open = |spinning| Bare::open(bench, &graph, threads()?, spinning, (PROMPTS.len(), POSITIONS));
    let mut bare = [open(false)?, open(true)?];
    let mut genai = Genai::start(bench);
    let (rounds, window) = if bench.quick { (3, Duration::from_secs(3)) } else { (7, Duration::from_secs(6)) };
    let (mut ours, mut theirs) = (Figures::default(), [Figures::default(), Figures::default()]);
    let (mut one_genai, mut eight_genai) = (Vec::new(), Vec::new());
    // All memory touched once.
    scene.ask(PROMPT, TOKENS)?;
    for bare in &mut bare {
        bare_prefill(bare)?;
        bare_one(bare)?;
    }
    if let Ok(peer) = &mut genai {
        peer.generate(&[ids(TOKENS, 0)], TOKENS)?;
    }
    for _ in 0..rounds {
        let (seen, eight) = (scene.ask(TOKENS, TOKENS)?, eight_streams(&scene, window)?);
        ours.one.push(f64::from(TOKENS) / seen.whole().as_secs_f64());
        ours.one_decode.push(seen.decode_rate());
        ours.eight.push(eight);
        // The eight have left; the step they were in has not.
        thread::sleep(SETTLE * 4);
        ours.prefill.push(f64::from(PROMPT) / scene.ask(PROMPT, 1)?.first().as_secs_f64());
        for (bare, figures) in bare.iter_mut().zip(&mut theirs) {
            let (one, decode) = bare_one(bare)?;
            figures.one.push(one);
            figures.one_decode.push(decode);
            figures.eight.push(bare_eight(bare)?);
            figures.prefill.push(bare_prefill(bare)?);
            thread::sleep(SETTLE);
        }
        if let Ok(peer) = &mut genai {
            one_genai.push(f64::from(TOKENS) / peer.generate(&[ids(TOKENS, 0)], TOKENS)?.seconds);
            let eight: Vec<_> = (0..8).map(|row| ids(TOKENS, row)).collect();
            eight_genai.push(f64::from(8 * (TOKENS - 1)) / peer.generate(&eight, TOKENS)?.decode_seconds);
            thread::sleep(SETTLE);
        }
    }
    let said = format!("medians of {rounds} rounds in turns, {} threads", threads()?);
    let with_bare = |figures: fn(&Figures) -> &Vec<f64>| theirs.each_ref().map(|side| median(figures(side)));
    let row = |name, ours: f64, peer: f64, unit, target, least: f64, note: String| Row {
        name,
        ours: Some(ours),
        peer: Some(peer),
        unit,
        ratio: Some(ours / peer),
        target,
        pass: ours / peer >= least,
        note,
    };
    let against_bare = |name, values: &[f64], peers: [f64; 2], what: &str| {
        let [off, on] = peers;
        let note = format!("{what}; {said}; peer: the faster of spinning off ({off:.1}) and on ({on:.1})");
        row(name, median(values), off.max(on), "/s", "ratio at least 0.95", 0.95, note)
    };
    let whole = "64 in, 64 out, request to last token over HTTP streaming against a bare loop";
    let together = format!("{window:?} while all eight stream, ragged, against a bare ragged loop");
    let mut rows = vec![
        against_bare(ONE, &ours.one, with_bare(|side| &side.one), whole),
        against_bare(EIGHT, &ours.eight, with_bare(|side| &side.eight), &together),
        row(
            SCALING,
            median(&ours.eight),
            median(&ours.one_decode),
            "/s",
            "ratio at least 2.8",
            2.8,
            format!(
                "eight streams against our own single stream, both from the first token on; {said}; the bare loop's own: {:.2}",
                with_bare(|side| &side.eight).into_iter().fold(0.0, f64::max)
                    / with_bare(|side| &side.one_decode).into_iter().fold(0.0, f64::max)
            ),
        ),
        against_bare(
            PREFILL,
            &ours.prefill,
            with_bare(|side| &side.prefill),
            "512 prompt tokens to the first text over HTTP",
        ),
    ];
    match genai {
        Ok(peer) => {
            let said = format!("{said}; onnxruntime-genai {} in process", peer.version);
            rows.push(row(
                ONE_GENAI,
                median(&ours.one),
                median(&one_genai),
                "/s",
                "ratio at least 0.92",
                0.92,
                format!("64 in, 64 out, request to last token; {said}"),
            ));
            rows.push(row(
                EIGHT_GENAI,
                median(&ours.eight),
                median(&eight_genai),
                "/s",
                "ratio at least 0.88",
                0.88,
                format!("eight ragged streams against its static batch of eight, both from the first token on; {said}"),
            ));
        }
        Err(error) => rows.extend(failed(&[ONE_GENAI, EIGHT_GENAI], &error)),
    }
    Ok(rows)
}

/// Token ids that are like nobody else's.
fn ids(count: u32, row: u32) -> Vec<u32> {
    (0..count).map(|place| 1000 + row * 211 + place * 37).collect()
}

/// Eight callers who come one after the other. Gives the tokens per second of all, while all of them stream.
#[expect(clippy::cast_precision_loss, reason = "a few hundred")]
fn eight_streams(scene: &Scene, window: Duration) -> anyhow::Result<f64> {
    let requests: Vec<_> = PROMPTS.into_iter().map(|prompt| scene.request(prompt, NEW)).collect();
    let (from, streams) = stream_while(scene, &requests, ARRIVAL, || {
        let from = Instant::now();
        thread::sleep(window);
        Ok(from)
    })?;
    let mut tokens = 0.0;
    for stream in streams {
        let within = stream.texts.iter().filter(|at| **at > from && **at <= from + window).count();
        tokens += within as f64 * stream.tokens_per_text(scene)?;
    }
    Ok(tokens / window.as_secs_f64())
}

/// Tokens per second of one sequence, prompt included, and from its first token on.
fn bare_one(bare: &mut Bare) -> anyhow::Result<(f64, f64)> {
    let prompt = ids(TOKENS, 0);
    let begun = Instant::now();
    let mut token = likeliest(bare.prefill(0, &prompt, CHUNK)?);
    let first = Instant::now();
    for new in 0..TOKENS as usize - 1 {
        let row = Slot { past: prompt.len() + new, token };
        token = bare.decode(&[row])?.next().map_or(0, likeliest);
    }
    let rate = |tokens: u32, since: Instant| f64::from(tokens) / since.elapsed().as_secs_f64();
    Ok((rate(TOKENS, begun), rate(TOKENS - 1, first)))
}

/// Tokens per second of eight sequences, as long as the streams' while they are looked at.
fn bare_eight(bare: &mut Bare) -> anyhow::Result<f64> {
    let mut rows = Vec::new();
    for (slot, prompt) in PROMPTS.into_iter().enumerate() {
        let prompt = ids(prompt + TOKENS, u32::try_from(slot)?);
        let token = likeliest(bare.prefill(slot, &prompt, CHUNK)?);
        rows.push(Slot { past: prompt.len(), token });
    }
    let begun = Instant::now();
    for _ in 0..TOKENS {
        let tokens = bare.decode(&rows)?.map(likeliest);
        rows.iter_mut().zip(tokens).for_each(|(row, token)| *row = Slot { past: row.past + 1, token });
    }
    Ok(f64::from(TOKENS * 8) / begun.elapsed().as_secs_f64())
}

/// Prompt tokens per second, to the first token.
fn bare_prefill(bare: &mut Bare) -> anyhow::Result<f64> {
    let prompt = ids(PROMPT, 0);
    let begun = Instant::now();
    std::hint::black_box(likeliest(bare.prefill(0, &prompt, CHUNK)?));
    Ok(f64::from(PROMPT) / begun.elapsed().as_secs_f64())
}
