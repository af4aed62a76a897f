//! Whether runs of different callers can share a run of the graph: what the description says of it, what the first load
//! found, and how it is kept beside the package.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use mayfly_scheduler::batching::Shape;
use serde::{Deserialize, Serialize};

use super::describe::Description;
use super::info::{DimensionInfo, ModelInfo, Role, TensorInfo};
use super::operators::shown;
use crate::Tensor;
use crate::session::{JoinRules, Joint};

/// The finding's file inside a package. It is about the library that ran the graph as well, so it is no part of the
/// package's identity, and a package without it runs its callers one by one.
pub(super) const FINDING: &str = "batching.json";
/// Its name among the properties of a model.
const PROPERTY: &str = "batching";
const FINDING_BYTES_MAX: u64 = 1 << 20;

/// Whether runs of different callers can share a run of a graph, as tried at import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "runs", deny_unknown_fields)]
pub enum RunBatching {
    /// Each runs by itself.
    Alone {
        /// Why, as a clause: `it has state`.
        why: String,
    },
    /// Rows go together where all other dimensions are equal.
    Rows,
    /// Rows go together, those of fewer positions padded.
    Padded {
        /// Outputs that have one entry for each position, in their second dimension.
        by_position: Vec<String>,
    },
}

impl RunBatching {
    pub(super) fn alone(why: impl Into<String>) -> Self {
        Self::Alone { why: why.into() }
    }

    /// What the first load of the package in `folder` found.
    pub(super) fn read(folder: &Path) -> Self {
        let read = || {
            let mut text = Vec::new();
            File::open(folder.join(FINDING))?.take(FINDING_BYTES_MAX).read_to_end(&mut text)?;
            serde_json::from_slice(&text).map_err(std::io::Error::from)
        };
        read().unwrap_or_else(|_| Self::alone("it was not tried when the model was imported"))
    }

    /// Only what can be true of `info`: the finding comes from a child that had the model in it.
    pub(super) fn checked(self, description: &Description) -> Self {
        let fits = match &self {
            Self::Alone { why } => why.len() <= 400 && !why.chars().any(char::is_control),
            Self::Rows => candidate(description).is_ok(),
            Self::Padded { by_position } => {
                let outputs = &description.info.outputs;
                let known =
                    |name: &String| outputs.iter().any(|output| output.name == *name && output.dimensions.len() > 1);
                candidate(description).is_ok_and(|pads| pads) && by_position.iter().all(known)
            }
        };
        if fits { self } else { Self::alone("what the first load found does not fit the model") }
    }

    /// Says it among the model's properties.
    pub(super) fn tell(&self, info: &mut ModelInfo) {
        let text = match self {
            Self::Alone { why } => format!("no: {why}"),
            Self::Rows => "rows".to_owned(),
            Self::Padded { .. } => "rows, padded".to_owned(),
        };
        info.properties.retain(|(key, _)| key != PROPERTY);
        let place = info.properties.partition_point(|(key, _)| key.as_str() < PROPERTY);
        info.properties.insert(place, (PROPERTY.to_owned(), text));
    }

    /// What joining needs to know, where it can be done.
    pub(super) fn rules(&self, info: &ModelInfo) -> Option<Arc<JoinRules>> {
        let by_position = match self {
            Self::Alone { .. } => return None,
            Self::Rows => None,
            Self::Padded { by_position } => Some(by_position),
        };
        let pad = i64::from(info.pad_id.unwrap_or_default());
        let fill = |input: &TensorInfo| match input.role {
            _ if by_position.is_none() => None,
            Role::Ids => Some(pad),
            // A position that is masked may have any number below the context: the first one.
            Role::Mask | Role::TokenTypes | Role::Positions => Some(0),
            _ => None,
        };
        Some(Arc::new(JoinRules {
            fills: info.inputs.iter().map(fill).collect(),
            by_position: by_position.cloned().unwrap_or_default(),
        }))
    }
}

/// Whether rows of the graph could be joined as far as its description goes, and whether shorter ones could be padded.
///
/// # Errors
/// Why not, as a clause.
pub(super) fn candidate(description: &Description) -> Result<bool, String> {
    let info = &description.info;
    let is_open = |dimension: &DimensionInfo| !matches!(dimension, DimensionInfo::Fixed(_));
    if let Some(operator) = &description.mixes {
        return Err(format!("with the operator `{}` one row's result may depend on others", shown(operator)));
    }
    for tensor in info.inputs.iter().chain(&info.outputs) {
        let name = shown(&tensor.name);
        if matches!(tensor.role, Role::Past | Role::Present | Role::State) {
            return Err(format!("it has state (`{name}`)"));
        }
        if description.unshaped.contains(&tensor.name) {
            return Err(format!("the shape of `{name}` is not known"));
        }
        if !tensor.dimensions.first().is_some_and(is_open) {
            return Err(format!("the first dimension of `{name}` is not a number of rows"));
        }
    }
    let has = |role| info.inputs.iter().any(|input| input.role == role);
    Ok(has(Role::Ids) && has(Role::Mask) && info.pad_id.is_some())
}

/// How one run can be joined with others; none where its inputs do not have a row for each row.
pub(super) fn joint(info: &ModelInfo, rules: &Arc<JoinRules>, inputs: &[(String, Tensor)]) -> Option<Joint> {
    let mut rows = None;
    let mut positions = None;
    let mut like = Vec::new();
    for ((input, fill), (_, tensor)) in info.inputs.iter().zip(&rules.fills).zip(inputs) {
        let (&first, rest) = tensor.dimensions().split_first()?;
        if *rows.get_or_insert(first) != first {
            return None;
        }
        let rest = match (fill, rest) {
            (Some(_), [own, rest @ ..]) => {
                if *positions.get_or_insert(*own) != *own {
                    return None;
                }
                rest
            }
            (Some(_), []) => return None,
            // Without padding the positions still tell how large a run is.
            (None, [own, ..]) if input.role == Role::Ids => {
                positions = Some(*own);
                rest
            }
            (None, _) => rest,
        };
        let open = input.dimensions.iter().rev().zip(rest.iter().rev());
        like.extend(open.filter(|(dimension, _)| !matches!(dimension, DimensionInfo::Fixed(_))).map(|(_, size)| *size));
    }
    let pads = rules.fills.iter().any(Option::is_some);
    let shape = Shape { rows: rows?, positions: positions.unwrap_or(1).max(1), pads, like: like.into() };
    Some(Joint { shape, rules: Arc::clone(rules) })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::ElementType;

    fn input(name: &str, role: Role, dimensions: &[DimensionInfo]) -> TensorInfo {
        TensorInfo { name: name.into(), element_type: ElementType::I64, dimensions: dimensions.into(), role }
    }

    fn named(name: &str) -> DimensionInfo {
        DimensionInfo::Named(name.into())
    }

    fn encoder() -> Description {
        let flat = [named("batch"), named("sequence")];
        let inputs = vec![input("ids", Role::Ids, &flat), input("mask", Role::Mask, &flat)];
        let hidden = [named("batch"), named("sequence"), DimensionInfo::Fixed(4)];
        Description {
            format: 1,
            graph: "model.onnx".to_owned(),
            files: Vec::new(),
            info: ModelInfo {
                inputs,
                outputs: vec![input("hidden", Role::Data, &hidden)],
                has_tokenizer: false,
                vocab_size: None,
                max_tokens: None,
                pad_id: Some(0),
                properties: Vec::new(),
                bytes: 0,
                decoder: None,
            },
            token_types: None,
            embeddings: None,
            floats: false,
            unshaped: Vec::new(),
            chat: None,
            steady: true,
            mixes: None,
        }
    }

    fn zeros(dimensions: &[u32]) -> Tensor {
        let len = dimensions.iter().product::<u32>() as usize * 8;
        Tensor::from_bytes(ElementType::I64, dimensions, &vec![0; len]).unwrap()
    }

    fn shape(batching: &RunBatching, inputs: &[&[u32]]) -> Option<Shape> {
        let info = encoder().info;
        let inputs: Vec<_> = inputs.iter().map(|dimensions| (String::new(), zeros(dimensions))).collect();
        joint(&info, &batching.rules(&info)?, &inputs).map(|joint| joint.shape)
    }

    #[test]
    fn an_encoder_can_be_joined_and_padded() {
        assert_eq!(candidate(&encoder()), Ok(true));
        let mut unknown = encoder();
        unknown.info.pad_id = None;
        assert_eq!(candidate(&unknown), Ok(false));
    }

    #[test]
    fn state_fixed_rows_and_mixing_operators_cannot() {
        let check = |change: &dyn Fn(&mut Description), word: &str| {
            let mut description = encoder();
            change(&mut description);
            let why = candidate(&description).unwrap_err();
            assert!(why.contains(word), "{why}");
            assert!(matches!(RunBatching::Rows.checked(&description), RunBatching::Alone { .. }));
        };
        check(&|d| d.info.outputs[0].role = Role::State, "state");
        check(&|d| d.info.inputs[1].dimensions[0] = DimensionInfo::Fixed(1), "`mask`");
        check(&|d| d.info.outputs[0].dimensions.clear(), "`hidden`");
        check(&|d| d.unshaped = vec!["hidden".to_owned()], "`hidden`");
        check(&|d| d.mixes = Some("If".to_owned()), "`If`");
    }

    #[test]
    fn a_finding_about_something_else_is_not_believed() {
        let padded = |name: &str| RunBatching::Padded { by_position: vec![name.to_owned()] };
        assert_eq!(padded("hidden").checked(&encoder()), padded("hidden"));
        assert!(matches!(padded("other").checked(&encoder()), RunBatching::Alone { .. }));
    }

    #[test]
    fn rows_positions_and_what_must_be_alike() {
        let padded = RunBatching::Padded { by_position: Vec::new() };
        let expected = Shape { rows: 2, positions: 7, pads: true, like: Box::default() };
        assert_eq!(shape(&padded, &[&[2, 7], &[2, 7]]), Some(expected));
        let expected = Shape { rows: 2, positions: 7, pads: false, like: [7, 7].into() };
        assert_eq!(shape(&RunBatching::Rows, &[&[2, 7], &[2, 7]]), Some(expected));
        assert_eq!(shape(&padded, &[&[2, 7], &[1, 7]]), None, "one row of a mask for two of ids");
        assert_eq!(shape(&RunBatching::alone("x"), &[&[2, 7], &[2, 7]]), None);
    }
}
