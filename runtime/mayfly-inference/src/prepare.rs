//! Checking and counting a run before it exists.
//!
//! Names, types and shapes first (`shapes.rs`), then values (`values.rs`), then the count (`count.rs`, on the rules of
//! `metering.rs`) and what its outputs may take and cost (`outputs.rs`).

mod count;
mod outputs;
mod seen;
mod shapes;
mod values;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use mayfly_types::{Line, ModelId};

pub use self::seen::Seen;

use crate::package::{Role, TensorInfo};
use crate::session::Request;
use crate::{ElementType, InputError, Package, Tensor};

/// What one run may use, from the revision and the node.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// The most bytes its outputs may take, as predicted from its inputs.
    pub output_bytes_max: u64,
    /// Hand out every position of a decoder's outputs, not only each row's last.
    pub all_positions: bool,
}

/// Inputs that were checked and counted. Running one consumes it.
#[derive(Debug)]
pub struct Prepared {
    request: Request,
    start: Vec<Line>,
    hold: Vec<Line>,
}

impl Prepared {
    /// What the run will be charged once it has started: hold this first.
    /// Includes what reading every output could add.
    pub fn hold_lines(&self) -> &[Line] {
        &self.hold
    }

    /// What is owed the moment the run has started.
    pub fn start_lines(&self) -> &[Line] {
        &self.start
    }

    /// The run itself.
    pub(crate) fn into_request(self) -> Request {
        self.request
    }
}

/// One output of a run.
#[derive(Debug)]
pub struct Output {
    /// The graph's name of it.
    pub name: String,
    /// The value.
    pub tensor: Tensor,
    /// Charged when the guest first reads it or hands it to another graph; empty for most.
    pub on_read: Vec<Line>,
    /// To be marked when they are charged.
    pub seen: Seen,
}

/// An input beside its description.
type Slot<'a> = (&'a TensorInfo, &'a Tensor);

impl Package {
    /// Checks `inputs` against the description, values included, and counts them. `model` goes into the lines.
    ///
    /// Never allocates more than a few words per input and row; all arithmetic is checked.
    ///
    /// # Errors
    /// [`InputError`] that names the input, what it is and what it should be.
    pub fn prepare(
        &self,
        model: ModelId,
        inputs: Vec<(String, Tensor)>,
        limits: RunLimits,
    ) -> Result<Prepared, InputError> {
        let description = self.description();
        let inputs = typed(&description.info.inputs, inputs)?;
        let slots: Vec<Slot<'_>> =
            description.info.inputs.iter().zip(&inputs).map(|(info, (_, tensor))| (info, tensor)).collect();
        let symbols = shapes::bind(&slots)?;
        let run = count::Run::of(description, &slots)?;
        run.check_lengths(description, &slots)?;
        values::check(description, self.digest(), &slots)?;
        let start: Vec<Line> = run
            .charge(description, &slots)?
            .into_iter()
            .map(|(meter, quantity)| Line { meter, model: Some(model), quantity })
            .collect();
        let plans = outputs::plan(self, model, &slots, &symbols, &run, limits)?;
        let mut hold = start.clone();
        for line in plans.iter().flat_map(|plan| &plan.on_read) {
            match hold.iter_mut().find(|held| held.meter == line.meter) {
                Some(held) => held.quantity = held.quantity.saturating_add(line.quantity),
                None => hold.push(*line),
            }
        }
        let joint = self.joint(&inputs);
        let request = Request { inputs, outputs: plans, output_bytes_max: limits.output_bytes_max, joint };
        Ok(Prepared { request, start, hold })
    }
}

/// Puts the inputs into the description's order: every one there, once, of its type.
fn typed(infos: &[TensorInfo], given: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, InputError> {
    let mut seen = HashSet::new();
    for (name, _) in &given {
        if !infos.iter().any(|info| info.name == *name) {
            return Err(invalid(format!("the model has no input `{}` (it has: {})", shown(name), names(infos.iter()))));
        }
        if !seen.insert(name.as_str()) {
            return Err(invalid(format!("the input `{}` is given twice", shown(name))));
        }
    }
    let missing: Vec<_> = infos.iter().filter(|info| !seen.contains(info.name.as_str())).collect();
    if !missing.is_empty() {
        return Err(invalid(format!("missing inputs: {}", names(missing.into_iter()))));
    }
    let mut ordered = Vec::with_capacity(infos.len());
    for info in infos {
        let tensor = given.iter().find(|(name, _)| *name == info.name).map(|(_, tensor)| tensor);
        let tensor = tensor.ok_or_else(|| invalid(format!("missing inputs: {}", shown(&info.name))))?;
        if tensor.is_opaque() && info.role != Role::Past {
            return Err(invalid(format!("the input `{}` cannot be attention state", shown(&info.name))));
        }
        let tensor = match (info.element_type, tensor.element_type()) {
            (wanted, given) if wanted == given => tensor.clone(),
            // `wasi:nn` has no booleans: they travel as bytes.
            (ElementType::Bool, ElementType::U8) => {
                tensor.as_boolean().map_err(|error| invalid(format!("the input `{}`: {error}", shown(&info.name))))?
            }
            (wanted, given) => {
                return Err(invalid(format!(
                    "the input `{}` is {}; the model takes {}",
                    shown(&info.name),
                    type_text(given),
                    type_text(wanted)
                )));
            }
        };
        ordered.push((info.name.clone(), tensor));
    }
    Ok(ordered)
}

fn invalid(text: String) -> InputError {
    InputError::Invalid(text)
}

fn names<'a>(infos: impl Iterator<Item = &'a TensorInfo>) -> String {
    let all: Vec<_> = infos.map(|info| shown(&info.name)).collect();
    match all.len() {
        0..=8 => all.join(", "),
        more => format!("{}, and {} more", all[..8].join(", "), more - 8),
    }
}

/// A name from a guest or a model file, fit to be shown.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

const fn type_text(element_type: ElementType) -> &'static str {
    match element_type {
        ElementType::F16 => "f16",
        ElementType::F32 => "f32",
        ElementType::F64 => "f64",
        ElementType::Bf16 => "bf16",
        ElementType::U8 => "u8",
        ElementType::I32 => "i32",
        ElementType::I64 => "i64",
        ElementType::Bool => "bool (as u8)",
    }
}
