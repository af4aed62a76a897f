//! Shapes of the inputs against the description, and what they make of its named dimensions.

use std::collections::HashMap;

use super::{Slot, invalid, shown};
use crate::InputError;
use crate::package::{DimensionInfo, Role};

/// Sizes of named dimensions in one run.
#[derive(Debug, Default)]
pub(super) struct Symbols(HashMap<String, u64>);

impl Symbols {
    /// The size of a dimension, if the inputs tell it. Exporters write sums (`past_sequence_length + 1`) as names.
    pub(super) fn resolve(&self, dimension: &DimensionInfo) -> Option<u64> {
        match dimension {
            DimensionInfo::Fixed(size) => Some(u64::from(*size)),
            DimensionInfo::Any => None,
            DimensionInfo::Named(name) => self.0.get(name).copied().or_else(|| {
                let is_sum = name.contains('+');
                is_sum.then(|| self.sum(name)).flatten()
            }),
        }
    }

    fn sum(&self, text: &str) -> Option<u64> {
        text.split('+').map(str::trim).try_fold(0_u64, |sum, part| {
            let size = self.0.get(part).copied().or_else(|| part.parse().ok())?;
            sum.checked_add(size)
        })
    }
}

/// Checks ranks, fixed sizes, and that dimensions of one name have one size.
pub(super) fn bind(slots: &[Slot<'_>]) -> Result<Symbols, InputError> {
    let mut symbols = Symbols::default();
    for (info, tensor) in slots {
        let given = tensor.dimensions();
        let wrong = |why: &str| {
            Err(invalid(format!(
                "the input `{}` has the shape {given:?}; the model takes {}{why}",
                shown(&info.name),
                wanted(&info.dimensions)
            )))
        };
        if given.len() != info.dimensions.len() {
            return wrong("");
        }
        for (size, dimension) in given.iter().zip(&info.dimensions) {
            match dimension {
                // Only a past may be empty: it is how a sequence begins.
                _ if *size == 0 && info.role != Role::Past => return wrong(", and no dimension may be 0"),
                DimensionInfo::Fixed(fixed) if fixed != size => return wrong(""),
                DimensionInfo::Named(name) if !name.contains('+') => {
                    let bound = *symbols.0.entry(name.clone()).or_insert_with(|| u64::from(*size));
                    if bound != u64::from(*size) {
                        return wrong(&format!(", and `{}` is {bound} in another input", shown(name)));
                    }
                }
                _ => {}
            }
        }
    }
    // Sums come last, when their parts are known.
    for (info, tensor) in slots {
        for (size, dimension) in tensor.dimensions().iter().zip(&info.dimensions) {
            let DimensionInfo::Named(name) = dimension else { continue };
            if name.contains('+') && symbols.sum(name).is_some_and(|sum| sum != u64::from(*size)) {
                return Err(invalid(format!(
                    "the input `{}` has the shape {:?}; `{}` does not add up",
                    shown(&info.name),
                    tensor.dimensions(),
                    shown(name)
                )));
            }
        }
    }
    Ok(symbols)
}

fn wanted(dimensions: &[DimensionInfo]) -> String {
    let all: Vec<_> = dimensions
        .iter()
        .map(|dimension| match dimension {
            DimensionInfo::Fixed(size) => size.to_string(),
            DimensionInfo::Named(name) => shown(name),
            DimensionInfo::Any => "any".to_owned(),
        })
        .collect();
    format!("[{}]", all.join(", "))
}

/// Which dimension of a past or present tensor is its length; none for a state of one size (a convolution's).
pub(super) fn past_axis(dimensions: &[DimensionInfo]) -> Option<usize> {
    let open = |axis: &usize| !matches!(dimensions[*axis], DimensionInfo::Fixed(_));
    let named = (0..dimensions.len()).find(|axis| {
        matches!(&dimensions[*axis], DimensionInfo::Named(name)
            if !name.contains("batch") && (name.contains("past") || name.contains("total")))
    });
    named.or_else(|| match dimensions.len() {
        // Keys and values apart: [rows, heads, length, width]; together: [2, rows, heads, length, width].
        4 => Some(2).filter(open),
        5 => Some(3).filter(open),
        rank => (1..rank).find(open),
    })
}

/// Attention to an encoder's output: its length is not a number of tokens of this sequence.
pub(super) fn is_cross(name: &str) -> bool {
    name.contains(".encoder.") || name.contains("cross")
}
