//! What a run's outputs may take, which part of them is handed out, and what reading them costs.

use mayfly_types::{Line, Meter, ModelId};

use super::count::Run;
use super::shapes::{Symbols, past_axis};
use super::{RunLimits, Slot};
use crate::package::{DimensionInfo, Role, TensorInfo};
use crate::session::OutputPlan;
use crate::{InputError, Package};

/// Plans every output.
///
/// # Errors
/// [`InputError::TooLarge`] if together they would take more than the limit.
pub(super) fn plan(
    package: &Package,
    model: ModelId,
    slots: &[Slot<'_>],
    symbols: &Symbols,
    run: &Run,
    limits: RunLimits,
) -> Result<Vec<OutputPlan>, InputError> {
    let description = package.description();
    let is_unshaped = |info: &TensorInfo| description.unshaped.contains(&info.name);
    let bytes =
        description.info.outputs.iter().map(|info| predicted_bytes(info, is_unshaped(info), slots, symbols, run));
    let bytes = bytes.fold(0, u64::saturating_add);
    if bytes > limits.output_bytes_max {
        return Err(InputError::TooLarge(format!(
            "the outputs of this run would take about {bytes} bytes; the limit is {} (output_bytes_max); give it fewer or shorter rows",
            limits.output_bytes_max
        )));
    }
    // Only where a cut is wanted: it reads the whole mask.
    let mut last = None;
    let mut plans = Vec::with_capacity(description.info.outputs.len());
    for info in &description.info.outputs {
        let name = info.name.clone();
        let Run::Decoder { rows, positions, .. } = *run else {
            plans.push(OutputPlan { name, opaque: None, keep: None, on_read: Vec::new() });
            continue;
        };
        if matches!(info.role, Role::Present | Role::State) {
            let opaque = (info.role == Role::Present).then(|| package.digest());
            plans.push(OutputPlan { name, opaque, keep: None, on_read: Vec::new() });
            continue;
        }
        let (has_positions, width) = exposed(info, is_unshaped(info), symbols, positions);
        let cut = has_positions && !limits.all_positions;
        let keep = cut.then(|| last.get_or_insert_with(|| Run::last_positions(slots, rows, positions)).clone());
        let quantity = u64::from(rows) * u64::from(if cut { 1 } else { width });
        let on_read = vec![Line { meter: Meter::OutputTokens, model: Some(model), quantity }];
        plans.push(OutputPlan { name, opaque: None, keep, on_read });
    }
    Ok(plans)
}

/// Whether a decoder's output has the positions as its second dimension, and how many it shows per row uncut.
fn exposed(info: &TensorInfo, unshaped: bool, symbols: &Symbols, positions: u32) -> (bool, u32) {
    if unshaped {
        // It may well show them all, and nothing says how to cut it.
        return (false, positions);
    }
    match info.dimensions.get(1) {
        None => (false, 1),
        Some(DimensionInfo::Fixed(size)) => (false, if info.dimensions.len() > 2 { *size } else { 1 }),
        Some(open) => match symbols.resolve(open) {
            Some(size) if size == u64::from(positions) => (true, positions),
            None if info.dimensions.len() > 2 => (true, positions),
            _ => (false, 1),
        },
    }
}

/// A bound from what is known; the run itself checks what really came.
fn predicted_bytes(info: &TensorInfo, unshaped: bool, slots: &[Slot<'_>], symbols: &Symbols, run: &Run) -> u64 {
    let (rows, positions, total) = match *run {
        Run::Encoder { rows, positions } => (u64::from(rows), u64::from(positions), u64::from(positions)),
        Run::Decoder { rows, positions, past, .. } => {
            (u64::from(rows), u64::from(positions), u64::from(past) + u64::from(positions))
        }
        Run::Rows { .. } | Run::Elements { .. } => {
            let sizes = |from: usize| {
                let open = slots
                    .iter()
                    .flat_map(move |(info, tensor)| info.dimensions.iter().zip(tensor.dimensions()).skip(from));
                open.filter(|(dimension, _)| !matches!(dimension, DimensionInfo::Fixed(_)))
                    .map(|(_, size)| u64::from(*size))
            };
            let longest = sizes(1).max().unwrap_or(1);
            (sizes(0).max().unwrap_or(1), longest, longest)
        }
    };
    let size = info.element_type.size() as u64;
    if unshaped {
        return size.saturating_mul(rows).saturating_mul(positions);
    }
    let length = (info.role == Role::Present).then(|| past_axis(&info.dimensions)).flatten();
    info.dimensions.iter().enumerate().fold(size, |bytes, (axis, dimension)| {
        let known = symbols.resolve(dimension);
        let guess = match dimension {
            _ if length == Some(axis) => total,
            DimensionInfo::Named(name) if name.contains("total") || name.contains("past") => total,
            _ if axis == 0 => rows,
            _ => positions,
        };
        bytes.saturating_mul(known.unwrap_or(guess))
    })
}
