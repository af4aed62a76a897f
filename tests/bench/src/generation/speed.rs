//! How fast text comes: one stream, eight ragged streams, a prompt.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::bare::{Bare, CHUNK, Row as Slot, likeliest};
use super::genai::Genai;
use super::scene::{Scene, large_model, threads};
use super::stream::{Seen, Stream};
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
/// Prompts of the eight streams; the first to come ask for the most.
const PROMPTS: [u32; 8] = [24, 136, 40, 120, 56, 104, 72, 88];
const NEW: [u32; 8] = [240, 232, 224, 216, 208, 200, 192, 184];
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
    let rounds = if bench.quick { 2 } else { 7 };
    let (mut ours, mut theirs) = (Figures::default(), [Figures::default(), Figures::default()]);
    let (mut one_genai, mut eight_genai) = (Vec::new(), Vec::new());
    let mut windows = Vec::new();
    for round in 0..=rounds {
        // The first finds caches cold.
        let keep = round > 0;
        let (seen, (eight, window)) = (scene.ask(TOKENS, TOKENS)?, eight_streams(&scene)?);
        let prefill = f64::from(PROMPT) / scene.ask(PROMPT, 1)?.first().as_secs_f64();
        if keep {
            ours.one.push(f64::from(TOKENS) / seen.whole().as_secs_f64());
            ours.one_decode.push(seen.decode_rate());
            ours.eight.push(eight);
            ours.prefill.push(prefill);
            windows.push(window.as_secs_f64());
        }
        for (bare, figures) in bare.iter_mut().zip(&mut theirs) {
            let (one, eight, prefill) = (bare_one(bare)?, bare_eight(bare)?, bare_prefill(bare)?);
            thread::sleep(SETTLE);
            if keep {
                figures.one.push(one);
                figures.eight.push(eight);
                figures.prefill.push(prefill);
            }
        }
        if let Ok(peer) = &mut genai {
            let one = peer.generate(&[ids(TOKENS, 0)], TOKENS)?;
            let eight: Vec<_> = (0..8).map(|row| ids(TOKENS, row)).collect();
            let eight = peer.generate(&eight, TOKENS)?;
            thread::sleep(SETTLE);
            if keep {
                one_genai.push(f64::from(TOKENS) / one.seconds);
                eight_genai.push(f64::from(8 * (TOKENS - 1)) / eight.decode_seconds);
            }
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
    let window = format!("while all eight stream ({:.1} s), ragged, against a bare ragged loop", median(&windows));
    let mut rows = vec![
        against_bare(ONE, &ours.one, with_bare(|side| &side.one), whole),
        against_bare(EIGHT, &ours.eight, with_bare(|side| &side.eight), &window),
        row(
            SCALING,
            median(&ours.eight),
            median(&ours.one_decode),
            "/s",
            "ratio at least 2.8",
            2.8,
            format!("eight streams against our own single stream, both from the first token on; {said}"),
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

/// Eight callers who come one after the other. Gives the tokens per second of all, from the first text of the last that
/// began to the end of the first that ended, and how long that was.
fn eight_streams(scene: &Scene) -> anyhow::Result<(f64, Duration)> {
    let begun = Instant::now();
    let requests: Vec<_> = PROMPTS.into_iter().zip(NEW).map(|(prompt, new)| scene.request(prompt, new)).collect();
    let (server, seen) = (&scene.server, |caller: thread::ScopedJoinHandle<'_, anyhow::Result<Seen>>| {
        caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?
    });
    let seen: Vec<Seen> = thread::scope(|scope| {
        let callers: Vec<_> = requests
            .iter()
            .zip(0..)
            .map(|(request, place)| {
                scope.spawn(move || {
                    thread::sleep((begun + ARRIVAL * place).saturating_duration_since(Instant::now()));
                    Stream::ask(server, request)?.read()
                })
            })
            .collect();
        callers.into_iter().map(seen).collect::<anyhow::Result<_>>()
    })?;
    let from = seen.iter().map(|seen| seen.texts[0]).max().context("eight callers")?;
    let to = seen.iter().map(Seen::end).min().context("eight callers")?;
    anyhow::ensure!(to > from, "the eight never streamed at once");
    let tokens: f64 = seen.iter().map(|seen| seen.tokens_within(from, to)).sum();
    Ok((tokens / (to - from).as_secs_f64(), to - from))
}

/// Tokens per second of one sequence, prompt included.
fn bare_one(bare: &mut Bare) -> anyhow::Result<f64> {
    let prompt = ids(TOKENS, 0);
    let begun = Instant::now();
    let mut token = likeliest(bare.prefill(0, &prompt, CHUNK)?);
    for new in 0..TOKENS as usize - 1 {
        let row = Slot { past: prompt.len() + new, token };
        token = bare.decode(&[row])?.next().map_or(0, likeliest);
    }
    Ok(f64::from(TOKENS) / begun.elapsed().as_secs_f64())
}

/// Tokens per second of eight sequences, as long as the streams' in the middle of their time together.
fn bare_eight(bare: &mut Bare) -> anyhow::Result<f64> {
    let mut rows = Vec::new();
    for (slot, (prompt, new)) in PROMPTS.into_iter().zip(NEW).enumerate() {
        let prompt = ids(prompt + new / 4, u32::try_from(slot)?);
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
