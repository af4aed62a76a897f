//! Which kind of run this is, how large, and what it is charged when it starts.

use mayfly_types::Meter;

use super::shapes::{is_cross, past_axis};
use super::values::Ints;
use super::{Slot, invalid, shown};
use crate::metering::{EmptyRow, decoder_input_tokens, element_units, encoder_tokens};
use crate::package::{Description, DimensionInfo, Role, TensorInfo};
use crate::{InputError, Tensor};

/// Rows times positions of one run.
const POSITIONS_MAX: u64 = 1 << 20;

/// The size of a run in the words of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// Tokens go in and nothing is remembered.
    Encoder { rows: u32, positions: u32 },
    /// New tokens go in behind a past; `seen`: outputs of the runs that left it were charged for.
    Decoder { rows: u32, positions: u32, past: u32, seen: bool },
    /// Everything but the number of rows is fixed.
    Rows { rows: u32 },
    /// Neither.
    Elements { elements: u64 },
}

impl Run {
    /// Tells the kind from the description and the size from the inputs.
    pub(super) fn of(description: &Description, slots: &[Slot<'_>]) -> Result<Self, InputError> {
        let is_sequence = |info: &TensorInfo| {
            info.role == Role::Ids || description.embeddings.as_ref().is_some_and(|name| *name == info.name)
        };
        if let Some((_, tensor)) = slots.iter().find(|(info, _)| is_sequence(info))
            && let [rows, positions, ..] = *tensor.dimensions()
        {
            if u64::from(rows) * u64::from(positions) > POSITIONS_MAX {
                return Err(InputError::TooLarge(format!(
                    "{rows} rows of {positions} positions are too many for one run (at most {POSITIONS_MAX} together); split them"
                )));
            }
            let remembers = |info: &TensorInfo| matches!(info.role, Role::Past | Role::Present);
            let is_decoder = description.info.inputs.iter().chain(&description.info.outputs).any(remembers);
            if !is_decoder {
                return Ok(Self::Encoder { rows, positions });
            }
            return Ok(Self::Decoder { rows, positions, past: past_length(slots)?, seen: past_seen(slots) });
        }
        Ok(match fixed_rows(slots) {
            Some(rows) => Self::Rows { rows },
            None => Self::Elements {
                elements: slots.iter().map(|(_, tensor)| elements(tensor)).fold(0, u64::saturating_add),
            },
        })
    }

    /// Checks the run against the model's context, and the mask against the run.
    pub(super) fn check_lengths(&self, description: &Description, slots: &[Slot<'_>]) -> Result<(), InputError> {
        let (rows, positions, past) = match *self {
            Self::Encoder { rows, positions } => (rows, positions, 0),
            Self::Decoder { rows, positions, past, .. } => (rows, positions, past),
            Self::Rows { .. } | Self::Elements { .. } => return Ok(()),
        };
        let total = u64::from(past) + u64::from(positions);
        if let Some(most) = description.info.max_tokens
            && total > u64::from(most)
        {
            let behind = if past > 0 { format!(" behind {past} earlier ones") } else { String::new() };
            return Err(InputError::TooLarge(format!(
                "{positions} positions{behind} are more than the model's {most}"
            )));
        }
        for (info, tensor) in slots {
            let fits = match (info.role, tensor.dimensions()) {
                (Role::Mask, [mask_rows, width]) => *mask_rows == rows && u64::from(*width) == total,
                // One row of positions may stand for all.
                (Role::Positions | Role::TokenTypes, [r, width]) => (*r == rows || *r == 1) && *width == positions,
                _ => true,
            };
            if !fits {
                return Err(invalid(format!(
                    "the input `{}` has the shape {:?} and does not fit {rows} rows of {positions} positions{}",
                    shown(&info.name),
                    tensor.dimensions(),
                    if past > 0 { format!(" behind {past}") } else { String::new() }
                )));
            }
        }
        Ok(())
    }

    /// What is owed once the run has started.
    pub(super) fn charge(
        &self,
        description: &Description,
        slots: &[Slot<'_>],
    ) -> Result<Option<(Meter, u64)>, InputError> {
        let charge = match *self {
            Self::Encoder { rows, positions } => (Meter::InputTokens, encoder(description, slots, rows, positions)?),
            Self::Decoder { rows, positions, past, seen } => {
                (Meter::InputTokens, decoder_input_tokens(u64::from(rows), u64::from(positions), u64::from(past), seen))
            }
            Self::Rows { rows } => (Meter::Rows, u64::from(rows)),
            Self::Elements { elements } => (Meter::Elements, element_units(elements)),
        };
        Ok(Some(charge).filter(|(_, quantity)| *quantity > 0))
    }

    /// For each row the last new position that its mask shows; the very last one where it shows none.
    pub(super) fn last_positions(slots: &[Slot<'_>], rows: u32, positions: u32) -> Vec<u32> {
        let mask = slots.iter().find(|(info, _)| info.role == Role::Mask).map(|(_, tensor)| *tensor);
        let (Some(mask), end) = (mask, positions.saturating_sub(1)) else {
            return vec![positions.saturating_sub(1); rows as usize];
        };
        let width = mask.dimensions().last().map_or(0, |width| *width as usize);
        let ints = Ints::of(mask);
        (0..rows as usize)
            .map(|row| {
                // The new positions are the last columns of the mask.
                let first = (row + 1) * width - positions as usize;
                (0..positions).rev().find(|at| ints.get(first + *at as usize) == 1).unwrap_or(end)
            })
            .collect()
    }
}

fn encoder(description: &Description, slots: &[Slot<'_>], rows: u32, positions: u32) -> Result<u64, InputError> {
    let ints = |role| slots.iter().find(|(info, _)| info.role == role).map(|(_, tensor)| Ints::of(tensor));
    let pad = description.info.pad_id.map(i64::from);
    let tokens = match (ints(Role::Ids), ints(Role::Mask), pad) {
        (Some(ids), Some(mask), Some(pad)) => {
            encoder_tokens(rows as usize, positions as usize, |at| mask.get(at) == 0 && ids.get(at) == pad)
        }
        // Without ids, mask or a known padding token nothing can be told from work.
        _ => encoder_tokens(rows as usize, positions as usize, |_| false),
    };
    tokens.map_err(|EmptyRow(row)| invalid(format!("row {row} has no tokens: every position is padding; leave it out")))
}

/// The pasts that grow with the sequence, and their lengths.
fn pasts<'a>(slots: &'a [Slot<'_>]) -> impl Iterator<Item = (&'a TensorInfo, &'a Tensor, u32)> {
    slots.iter().filter(|(info, _)| info.role == Role::Past && !is_cross(&info.name)).filter_map(|(info, tensor)| {
        let length = past_axis(&info.dimensions).and_then(|axis| tensor.dimensions().get(axis))?;
        Some((*info, *tensor, *length))
    })
}

/// Whether outputs of each run that left a part of this past were charged for.
fn past_seen(slots: &[Slot<'_>]) -> bool {
    pasts(slots).all(|(_, tensor, _)| tensor.is_seen())
}

/// The length all pasts of one run share.
fn past_length(slots: &[Slot<'_>]) -> Result<u32, InputError> {
    let mut known: Option<u32> = None;
    for (info, _, length) in pasts(slots) {
        if known.is_some_and(|known| known != length) {
            return Err(invalid(format!(
                "the input `{}` has a past of {length} positions; another has {}",
                shown(&info.name),
                known.unwrap_or_default()
            )));
        }
        known = Some(length);
    }
    Ok(known.unwrap_or(0))
}

/// The number of rows, if the first dimension is the only one that a caller chooses, and is the same thing everywhere.
fn fixed_rows(slots: &[Slot<'_>]) -> Option<u32> {
    let is_open = |dimension: &DimensionInfo| !matches!(dimension, DimensionInfo::Fixed(_));
    let mut rows: Option<(u32, &DimensionInfo)> = None;
    for (info, tensor) in slots.iter().filter(|(info, _)| info.role != Role::State && !info.dimensions.is_empty()) {
        if info.dimensions[1..].iter().any(is_open) {
            return None;
        }
        let here = (tensor.dimensions()[0], &info.dimensions[0]);
        match rows {
            None => rows = Some(here),
            // A fixed input beside a batch (thresholds, a sampling rate) is no row of its own.
            Some((_, before)) if is_open(before) && !is_open(here.1) => {}
            Some((_, before)) if !is_open(before) && is_open(here.1) => rows = Some(here),
            Some((_, before)) if !is_open(before) && !is_open(here.1) => {}
            Some((count, _)) if count == here.0 => {}
            Some(_) => return None,
        }
    }
    let (count, symbol) = rows?;
    // A state's open dimension must be the rows, or it is a size of its own.
    let states_fit = slots.iter().filter(|(info, _)| info.role == Role::State).all(|(info, tensor)| {
        let mut open = info.dimensions.iter().zip(tensor.dimensions()).filter(|(dimension, _)| is_open(dimension));
        open.all(|(dimension, size)| dimension == symbol || *size == count)
    });
    states_fit.then_some(count)
}

fn elements(tensor: &Tensor) -> u64 {
    tensor.dimensions().iter().fold(1_u64, |product, size| product.saturating_mul(u64::from(*size)))
}
