//! Runs of a decoder: prompt chunks and decode steps over slots of attention state.
//!
//! What runs when is the scheduler's business; a [`Runner`] does one step of it and shows the logits. One
//! implementation for each layout of decoder graphs.

pub(super) mod binding;
mod concatenated;
mod group_query;
mod held;
mod memory;

use ort::session::{RunOptions, Session};
use ort::value::TensorElementType;

use self::concatenated::Concatenated;
use self::group_query::GroupQuery;
use super::kv::Placement;
use crate::library::Library;
use crate::{DecoderInfo, DecoderLayout, ElementType};

/// How much a runner has to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunnerLimits {
    pub(super) slots: u32,
    /// Positions of one slot.
    pub(super) context: u32,
    /// Tokens of one prompt chunk.
    pub(super) chunk_max: u32,
}

/// One row of a decode step: the token that goes to position `past` of `slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DecodeRow {
    pub(super) slot: u32,
    pub(super) past: u32,
    pub(super) token: u32,
}

/// Runs one decoder. A failed run leaves the slots in it void, and the rest as they were.
pub(super) trait Runner {
    /// Runs `tokens` of one sequence at positions `start..` of `slot`. Afterwards row 0 of the logits is the last one's.
    fn prefill(&mut self, slot: u32, start: u32, tokens: &[u32]) -> ort::Result<()>;

    /// Runs one token for each row; row `i` of the logits is its own. Several rows are those of slots `0..rows.len()`.
    fn decode(&mut self, rows: &[DecodeRow]) -> ort::Result<()>;

    /// Logits of a row of the last run. Whoever samples may change them in place.
    fn logits(&mut self, row: usize) -> ort::Result<&mut [f32]>;

    /// Makes the first `positions` of slot `to` those of slot `from`.
    fn copy(&mut self, from: u32, to: u32, positions: u32) -> ort::Result<()>;

    /// Gives the memory of a slot back.
    fn release(&mut self, slot: u32);

    /// Gives back what only a run needs: nothing will run for a while.
    fn rest(&mut self);

    /// Bytes of memory that it holds beside its session.
    fn bytes(&self) -> u64;
}

/// The runner of `decoder`, over `session`, with its attention state at `placement`.
///
/// # Errors
/// A text for the log: the graph is not as `decoder` says, or there is no memory for its attention state.
pub(super) fn runner(
    session: Session,
    decoder: &DecoderInfo,
    placement: Placement,
    library: &Library,
    limits: RunnerLimits,
) -> Result<Box<dyn Runner>, String> {
    let failed = |error: ort::Error| error.to_string();
    Ok(match decoder.layout {
        DecoderLayout::GroupQuery => Box::new(GroupQuery::new(session, decoder, placement, library, limits)?),
        DecoderLayout::Concatenated => {
            Box::new(Concatenated::new(session, decoder, placement, library, limits).map_err(failed)?)
        }
    })
}

/// The library's name of the type of a decoder's state or logits.
fn float_type(element_type: ElementType) -> Result<TensorElementType, String> {
    match element_type {
        ElementType::F32 => Ok(TensorElementType::Float32),
        ElementType::F16 => Ok(TensorElementType::Float16),
        other => Err(format!("attention state of type {other:?} is not supported")),
    }
}

/// The element type of the graph's output `name`.
fn output_type(session: &Session, name: &str) -> Result<ElementType, String> {
    let outlet = session.outputs().iter().find(|outlet| outlet.name() == name);
    let element_type = outlet.and_then(|outlet| outlet.dtype().tensor_type()).and_then(ElementType::from_runtime);
    element_type.ok_or_else(|| format!("the graph has no output tensor `{name}`"))
}

fn run_options() -> ort::Result<RunOptions> {
    RunOptions::new()
}
