//! Which tensor is what: by the names that exporters use, by type and rank, and by `model.toml`, which wins.

use std::collections::BTreeMap;

use super::info::{Role, TensorInfo};
use super::operators::shown;
use crate::ElementType;

/// Gives every tensor its role: `hints` (from other hosts' configuration) count where they fit and nothing else has the
/// role, `named` (from `model.toml`) must fit. Returns the input that stands in for ids, if there is one.
///
/// # Errors
/// A text, if `named` does not fit the graph.
pub(super) fn resolve(
    inputs: &mut [TensorInfo],
    outputs: &mut [TensorInfo],
    hints: &BTreeMap<String, Role>,
    named: &BTreeMap<String, Role>,
) -> Result<Option<String>, String> {
    for input in inputs.iter_mut() {
        input.role = usual_input(input);
    }
    hint(inputs, hints, true);
    let has_present = outputs.iter().any(is_present);
    for output in outputs.iter_mut() {
        output.role = match output.name.as_str() {
            "logits" if is_float(output) => Role::Logits,
            _ if is_present(output) => Role::Present,
            _ => Role::Data,
        };
    }
    hint(outputs, hints, false);
    if !has_present {
        // Without a way out, a "past" is an ordinary series of values.
        inputs.iter_mut().filter(|input| input.role == Role::Past).for_each(|input| input.role = Role::Data);
    }
    pair_states(inputs, outputs);
    for (name, role) in named {
        let tensor = inputs
            .iter_mut()
            .find(|input| input.name == *name)
            .map(|input| (input, true))
            .or_else(|| outputs.iter_mut().find(|output| output.name == *name).map(|output| (output, false)));
        let Some((tensor, is_input)) = tensor else {
            return Err(format!("model.toml: the model has no tensor `{}`", shown(name)));
        };
        fits(tensor, *role, is_input)
            .map_err(|why| format!("model.toml: `{}` cannot have that role: {why}", shown(name)))?;
        tensor.role = *role;
    }
    for role in [Role::Ids, Role::Mask, Role::TokenTypes, Role::Positions] {
        if inputs.iter().filter(|input| input.role == role).count() > 1 {
            return Err(format!("more than one input has the role `{}`; say in model.toml which", text(role)));
        }
    }
    let has_ids = inputs.iter().any(|input| input.role == Role::Ids);
    let embeddings = inputs
        .iter()
        .find(|input| {
            !has_ids
                && matches!(input.name.as_str(), "inputs_embeds" | "input_embeds" | "inputs_embeddings")
                && is_float(input)
                && input.dimensions.len() == 3
        })
        .map(|input| input.name.clone());
    if !has_ids && embeddings.is_none() {
        // Nothing counts the positions of such a graph: its state is an ordinary one.
        for tensor in inputs.iter_mut().chain(outputs.iter_mut()) {
            if matches!(tensor.role, Role::Past | Role::Present) {
                tensor.role = Role::State;
            }
        }
    }
    Ok(embeddings)
}

fn hint(tensors: &mut [TensorInfo], hints: &BTreeMap<String, Role>, is_input: bool) {
    for (name, role) in hints {
        if tensors.iter().any(|tensor| tensor.role == *role) {
            continue;
        }
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == *name && tensor.role == Role::Data);
        if let Some(tensor) = tensor.filter(|tensor| fits(tensor, *role, is_input).is_ok()) {
            tensor.role = *role;
        }
    }
}

fn usual_input(input: &TensorInfo) -> Role {
    let role = match input.name.as_str() {
        "input_ids" | "decoder_input_ids" => Role::Ids,
        "attention_mask" | "input_mask" => Role::Mask,
        "token_type_ids" | "segment_ids" => Role::TokenTypes,
        "position_ids" => Role::Positions,
        name if name.starts_with("past") => Role::Past,
        _ => Role::Data,
    };
    if fits(input, role, true).is_ok() { role } else { Role::Data }
}

fn is_present(output: &TensorInfo) -> bool {
    output.name.starts_with("present") && is_float(output)
}

fn is_float(tensor: &TensorInfo) -> bool {
    matches!(tensor.element_type, ElementType::F32 | ElementType::F16 | ElementType::Bf16 | ElementType::F64)
}

/// Whether a tensor can have a role.
fn fits(tensor: &TensorInfo, role: Role, is_input: bool) -> Result<(), &'static str> {
    let integer = matches!(tensor.element_type, ElementType::I32 | ElementType::I64);
    let flat = tensor.dimensions.len() == 2;
    match role {
        Role::Ids | Role::TokenTypes | Role::Positions if is_input && integer && flat => Ok(()),
        Role::Ids | Role::TokenTypes | Role::Positions => Err("it must be an input of i32 or i64 with two dimensions"),
        Role::Mask if is_input && flat && !matches!(tensor.element_type, ElementType::F64) => Ok(()),
        Role::Mask => Err("it must be an input with two dimensions"),
        Role::Past if is_input && is_float(tensor) => Ok(()),
        Role::Past => Err("it must be an input of a floating-point type"),
        Role::Present | Role::Logits if !is_input && is_float(tensor) => Ok(()),
        Role::Present | Role::Logits => Err("it must be an output of a floating-point type"),
        Role::State | Role::Data => Ok(()),
    }
}

/// `state` with `stateN`, `h` with `hn`, and the like: same type, same rank.
fn pair_states(inputs: &mut [TensorInfo], outputs: &mut [TensorInfo]) {
    for input in inputs.iter_mut().filter(|input| input.role == Role::Data) {
        let name = &input.name;
        let mut follows = vec![
            format!("{name}N"),
            format!("{name}n"),
            format!("{name}_n"),
            format!("{name}_out"),
            format!("{name}_new"),
        ];
        follows.extend([
            format!("new_{name}"),
            format!("next_{name}"),
            format!("out_{name}"),
            format!("output_{name}"),
        ]);
        if let Some(stem) = name.strip_suffix("_in") {
            follows.push(format!("{stem}_out"));
        }
        if let Some(stem) = name.strip_prefix("input_") {
            follows.push(format!("output_{stem}"));
        }
        let partner = outputs.iter_mut().find(|output| {
            output.role == Role::Data
                && follows.contains(&output.name)
                && output.element_type == input.element_type
                && output.dimensions.len() == input.dimensions.len()
        });
        if let Some(output) = partner {
            input.role = Role::State;
            output.role = Role::State;
        }
    }
}

fn text(role: Role) -> &'static str {
    match role {
        Role::Ids => "ids",
        Role::Mask => "mask",
        Role::TokenTypes => "token-types",
        Role::Positions => "positions",
        Role::Past => "past",
        Role::Present => "present",
        Role::Logits => "logits",
        Role::State => "state",
        Role::Data => "data",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::package::info::DimensionInfo;

    fn tensor(name: &str, element_type: ElementType, rank: usize) -> TensorInfo {
        TensorInfo { name: name.into(), element_type, dimensions: vec![DimensionInfo::Any; rank], role: Role::Data }
    }

    fn roles(tensors: &[TensorInfo]) -> Vec<Role> {
        tensors.iter().map(|tensor| tensor.role).collect()
    }

    use ElementType::{F32, I64};

    #[test]
    fn a_decoder() {
        let mut inputs = [
            tensor("input_ids", I64, 2),
            tensor("attention_mask", I64, 2),
            tensor("position_ids", I64, 2),
            tensor("past_key_values.0.key", F32, 4),
            tensor("past_sequence_length", I64, 1),
        ];
        let mut outputs = [tensor("logits", F32, 3), tensor("present.0.key", F32, 4)];
        assert_eq!(resolve(&mut inputs, &mut outputs, &BTreeMap::new(), &BTreeMap::new()), Ok(None));
        assert_eq!(roles(&inputs), [Role::Ids, Role::Mask, Role::Positions, Role::Past, Role::Data]);
        assert_eq!(roles(&outputs), [Role::Logits, Role::Present]);
    }

    #[test]
    fn a_stateful_graph_and_a_time_series() {
        let mut inputs = [tensor("input", F32, 2), tensor("state", F32, 3), tensor("past_values", F32, 3)];
        let mut outputs = [tensor("output", F32, 2), tensor("stateN", F32, 3)];
        resolve(&mut inputs, &mut outputs, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        assert_eq!(roles(&inputs), [Role::Data, Role::State, Role::Data]);
        assert_eq!(roles(&outputs), [Role::Data, Role::State]);
    }

    #[test]
    fn embeddings_stand_in_for_ids() {
        let mut inputs = [tensor("inputs_embeds", F32, 3), tensor("past_key_values.0.key", F32, 4)];
        let mut outputs = [tensor("logits", F32, 3), tensor("present.0.key", F32, 4)];
        assert_eq!(
            resolve(&mut inputs, &mut outputs, &BTreeMap::new(), &BTreeMap::new()),
            Ok(Some("inputs_embeds".into()))
        );
        assert_eq!(roles(&inputs), [Role::Data, Role::Past]);
    }

    #[test]
    fn hints_count_where_they_fit() {
        let resolve_with = |names: [&str; 2], role| {
            let mut inputs = names.map(|name| tensor(name, I64, 2));
            let mut outputs = [tensor("y", F32, 2)];
            let hints = BTreeMap::from([("tokens".to_owned(), role), ("nowhere".to_owned(), Role::Mask)]);
            resolve(&mut inputs, &mut outputs, &hints, &BTreeMap::new()).unwrap();
            roles(&inputs)
        };
        assert_eq!(resolve_with(["tokens", "x"], Role::Ids), [Role::Ids, Role::Data]);
        assert_eq!(resolve_with(["tokens", "input_ids"], Role::Ids), [Role::Data, Role::Ids]);
        assert_eq!(resolve_with(["tokens", "x"], Role::Past), [Role::Data, Role::Data]);
    }

    #[test]
    fn the_owner_has_the_last_word_but_not_every_word() {
        let resolve_with = |name: &str, role| {
            let mut inputs = [tensor("tokens", I64, 2), tensor("x", F32, 2)];
            let mut outputs = [tensor("y", F32, 2)];
            let named = BTreeMap::from([(name.to_owned(), role)]);
            resolve(&mut inputs, &mut outputs, &BTreeMap::new(), &named).map(|_| roles(&inputs))
        };
        assert_eq!(resolve_with("tokens", Role::Ids).unwrap(), [Role::Ids, Role::Data]);
        assert!(resolve_with("x", Role::Ids).unwrap_err().contains("i32 or i64"));
        assert!(resolve_with("y", Role::Past).is_err());
        assert!(resolve_with("z", Role::Data).unwrap_err().contains("no tensor `z`"));
    }
}
