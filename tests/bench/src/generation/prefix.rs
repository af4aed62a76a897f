//! The first text of a prompt whose first 500 tokens were computed for an earlier one.

use anyhow::ensure;

use super::median;
use super::scene::{Scene, request};
use super::stream::Stream;
use crate::Bench;
use crate::row::Row;

pub(crate) const NAME: &str = "generation_reused_prefix";

const PREFIX: u32 = 500;
const BEHIND: u32 = 16;

pub(super) fn measure(bench: &Bench, scene: &Scene) -> anyhow::Result<Vec<Row>> {
    let rounds = if bench.quick { 3 } else { 9 };
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let prefix = scene.words(PREFIX);
        let first = |behind: String| {
            let seen = Stream::ask(&scene.server, &request(&format!("{prefix} {behind}"), 1))?.read()?;
            anyhow::Ok((seen.first().as_secs_f64() * 1e3, seen.cached_tokens))
        };
        let (ms, cached) = first(scene.words(BEHIND))?;
        // What the chat template begins with is everybody's.
        ensure!(cached < BEHIND, "{cached} tokens of a new prompt were cached");
        cold.push(ms);
        let (ms, cached) = first(scene.words(BEHIND))?;
        ensure!(cached >= PREFIX, "{cached} tokens of {PREFIX} were reused");
        warm.push(ms);
    }
    let (cold, warm) = (median(&cold), median(&warm));
    Ok(vec![Row {
        name: NAME,
        ours: Some(warm),
        peer: Some(cold),
        unit: "ms",
        ratio: Some(warm / cold),
        target: "ratio at most 0.25",
        pass: warm / cold <= 0.25,
        note: format!(
            "first text of {PREFIX} reused and {BEHIND} new prompt tokens; peer: nothing reused; medians of {rounds}"
        ),
    }])
}
