//! Values of the inputs: ids inside the vocabulary, positions inside the context, masks of 0 and 1, states of our own.

use mayfly_types::Digest;

use super::shapes::past_axis;
use super::{Slot, invalid, shown};
use crate::package::{Description, Role};
use crate::{ElementType, InputError, Tensor};

/// A tensor read as whole numbers. Floating-point masks read as 0, 1 or [`Ints::OTHER`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Ints<'a> {
    bytes: &'a [u8],
    element_type: ElementType,
}

impl<'a> Ints<'a> {
    const OTHER: i64 = i64::MIN;

    pub(super) fn of(tensor: &'a Tensor) -> Self {
        Self { bytes: tensor.as_slice(), element_type: tensor.element_type() }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.element_type.size()
    }

    /// The number at `index`, which must be below [`Self::len`].
    pub(super) fn get(&self, index: usize) -> i64 {
        let size = self.element_type.size();
        let word = &self.bytes[index * size..(index + 1) * size];
        let float = |zero: bool, one: bool| match (zero, one) {
            (true, _) => 0,
            (_, true) => 1,
            _ => Self::OTHER,
        };
        match (self.element_type, word) {
            (ElementType::I64, &[a, b, c, d, e, f, g, h]) => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            (ElementType::I32, &[a, b, c, d]) => i64::from(i32::from_le_bytes([a, b, c, d])),
            (ElementType::F32, &[a, b, c, d]) => {
                let value = f32::from_le_bytes([a, b, c, d]);
                float(value == 0.0, value == 1.0)
            }
            (ElementType::F16, &[a, b]) => {
                let value = half::f16::from_le_bytes([a, b]);
                float(value == half::f16::ZERO, value == half::f16::ONE)
            }
            (ElementType::Bf16, &[a, b]) => {
                let value = half::bf16::from_le_bytes([a, b]);
                float(value == half::bf16::ZERO, value == half::bf16::ONE)
            }
            (ElementType::U8 | ElementType::Bool, &[byte]) => i64::from(byte),
            _ => Self::OTHER,
        }
    }

    fn position(&self, mut wrong: impl FnMut(i64) -> bool) -> Option<(usize, i64)> {
        (0..self.len()).map(|at| (at, self.get(at))).find(|(_, value)| wrong(*value))
    }
}

/// Checks the values of every input whose role says something of them.
pub(super) fn check(description: &Description, package: Digest, slots: &[Slot<'_>]) -> Result<(), InputError> {
    let info = &description.info;
    for (slot, tensor) in slots {
        let below = |most: Option<u32>, what: &str| match most {
            Some(most) => range(&slot.name, tensor, i64::from(most), what),
            None => range(&slot.name, tensor, i64::MAX, what),
        };
        match slot.role {
            Role::Ids => below(info.vocab_size, "ids must be from 0 to below the size of the vocabulary")?,
            Role::TokenTypes => below(description.token_types, "token types must be from 0 to below their number")?,
            Role::Positions => below(info.max_tokens, "positions must be from 0 to below the model's context")?,
            Role::Mask => range(&slot.name, tensor, 2, "a mask holds only 0 and 1; the limit is")?,
            Role::Past => past(slot.name.as_str(), &slot.dimensions, tensor, package)?,
            Role::Present | Role::Logits | Role::State | Role::Data => {}
        }
    }
    Ok(())
}

fn range(name: &str, tensor: &Tensor, end: i64, rule: &str) -> Result<(), InputError> {
    let Some((at, value)) = Ints::of(tensor).position(|value| !(0..end).contains(&value)) else { return Ok(()) };
    let width = tensor.dimensions().last().map_or(1, |size| (*size as usize).max(1));
    let value = if value == Ints::OTHER { "neither 0 nor 1".to_owned() } else { value.to_string() };
    let limit = if end == i64::MAX { String::new() } else { format!(" ({end})") };
    Err(invalid(format!(
        "the input `{}` is {value} at row {}, position {}; {rule}{limit}",
        shown(name),
        at / width,
        at % width
    )))
}

/// Attention state is what this package gave, or the beginning of a sequence; nobody else can make one.
fn past(name: &str, dimensions: &[crate::DimensionInfo], tensor: &Tensor, package: Digest) -> Result<(), InputError> {
    match tensor.opaque_of() {
        Some(of) if of == package => return Ok(()),
        Some(_) => return Err(invalid(format!("the input `{}` is attention state of another model", shown(name)))),
        None => {}
    }
    let is_start = match past_axis(dimensions) {
        Some(_) => tensor.byte_len() == 0,
        // A state of one size begins as zeros.
        None => tensor.as_slice().iter().all(|byte| *byte == 0),
    };
    if is_start {
        return Ok(());
    }
    Err(invalid(format!(
        "the input `{}` is attention state: it must be an output of this model handed back, or {}",
        shown(name),
        if past_axis(dimensions).is_some() { "have the length 0" } else { "be all zeros" }
    )))
}
