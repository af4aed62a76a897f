//! Language models: the server over HTTP streaming against a bare loop on the same graph, and against
//! `onnxruntime-genai`; and what callers do to each other.
//!
//! The model has Qwen2.5-0.5B's shape with random weights in int4 (`examples/models/make-05b.sh`). All sides have as many
//! intra-op threads, and take turns within one run.

mod bare;
mod eight;
mod genai;
mod greedy;
mod idle;
mod masks;
mod ninth;
mod prefix;
mod scene;
mod speed;
mod stream;

pub(crate) use greedy::{LARGE as GREEDY_LARGE, TINY as GREEDY_TINY, measure as greedy};
pub(crate) use idle::{NAME as IDLE, measure as idle};
pub(crate) use masks::NAME as MASKS;
pub(crate) use ninth::{FIRST as NINTH_FIRST, GAP as NINTH_GAP};
pub(crate) use prefix::NAME as PREFIX;
pub(crate) use scene::{large_model, patient};
pub(crate) use speed::{EIGHT, EIGHT_GENAI, ONE, ONE_GENAI, PREFILL, SCALING, measure as speed};

use crate::Bench;
use crate::measure::median;
use crate::row::Row;

/// What callers do to each other, and what prefixes and masks do to a caller: one server for all of it.
pub(crate) fn callers(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let scene = scene::Scene::start(bench)?;
    let mut rows = Vec::new();
    rows.extend(ninth::measure(bench, &scene).unwrap_or_else(|error| failed(&[NINTH_GAP, NINTH_FIRST], &error)));
    rows.extend(prefix::measure(bench, &scene).unwrap_or_else(|error| failed(&[PREFIX], &error)));
    rows.extend(masks::measure(bench, &scene).unwrap_or_else(|error| failed(&[MASKS], &error)));
    Ok(rows)
}

fn failed(names: &[&'static str], error: &anyhow::Error) -> Vec<Row> {
    names.iter().map(|name| Row::failed(name, &format!("{error:#}"))).collect()
}
