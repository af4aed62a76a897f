//! A ninth caller with a long prompt: what the eight who stream feel of it, and what it feels of them.

use std::thread;
use std::time::{Duration, Instant};

use super::eight::{NEW, stream_while};
use super::median;
use super::scene::Scene;
use crate::Bench;
use crate::measure::Samples;
use crate::row::Row;

pub(crate) const GAP: &str = "generation_ninth_gap_p99";
pub(crate) const FIRST: &str = "generation_ninth_first_token";

const PROMPT: u32 = 1000;
const OTHERS: u32 = 8;

/// What one round saw.
#[derive(Debug, Default)]
struct Seen {
    /// Between two texts of one of the eight, before the ninth comes.
    before: Samples,
    /// From when it comes to its first text.
    during: Samples,
    firsts: Vec<f64>,
}

pub(super) fn measure(bench: &Bench, scene: &Scene) -> anyhow::Result<Vec<Row>> {
    let (rounds, seconds) = if bench.quick { (1, 3) } else { (3, 5) };
    let (mut alone, mut seen) = (Vec::new(), Seen::default());
    for _ in 0..rounds {
        alone.push(scene.ask(PROMPT, 1)?.first().as_secs_f64() * 1e3);
        round(scene, Duration::from_secs(seconds), &mut seen)?;
    }
    let (before, during) = (seen.before.quantile_ms(0.99), seen.during.quantile_ms(0.99));
    let (alone, first) = (median(&alone), median(&seen.firsts));
    let row = |name, ours: f64, peer: f64, target, most: f64, note| Row {
        name,
        ours: Some(ours),
        peer: Some(peer),
        unit: "ms",
        ratio: Some(ours / peer),
        target,
        pass: ours / peer <= most,
        note,
    };
    Ok(vec![
        row(
            GAP,
            during,
            before,
            "ratio at most 2.5",
            2.5,
            format!(
                "p99 of {} gaps between texts of eight streams while a ninth caller's {PROMPT} tokens go in; peer: p99 of {} before, their medians {:.1} / {:.1}; {rounds} rounds",
                seen.during.len(),
                seen.before.len(),
                seen.during.median_ms(),
                seen.before.median_ms()
            ),
        ),
        row(
            FIRST,
            first,
            alone,
            "ratio at most 3",
            3.0,
            format!(
                "the ninth caller's first text, {PROMPT} tokens beside eight streams; peer: the same alone; {rounds} rounds"
            ),
        ),
    ])
}

fn round(scene: &Scene, quiet: Duration, seen: &mut Seen) -> anyhow::Result<()> {
    let requests: Vec<_> = (0..OTHERS).map(|place| scene.request(24 + 8 * place, NEW)).collect();
    let ((from, came, first), streams) = stream_while(scene, &requests, Duration::ZERO, || {
        let from = Instant::now();
        thread::sleep(quiet);
        let seen = scene.ask(PROMPT, 1)?;
        Ok((from, seen.sent, seen.texts[0]))
    })?;
    for stream in streams {
        for two in stream.texts.windows(2) {
            // The gap that it comes into is the first that may feel it.
            if two[0] >= from && two[1] <= came {
                seen.before.push(two[1] - two[0]);
            } else if two[1] > came && two[0] < first {
                seen.during.push(two[1] - two[0]);
            }
        }
    }
    seen.firsts.push((first - came).as_secs_f64() * 1e3);
    Ok(())
}
