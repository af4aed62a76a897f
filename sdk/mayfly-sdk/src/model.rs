//! A granted model: what it is, and running it.

use std::cell::OnceCell;
use std::fmt;

use crate::bindings::mayfly::inference::models as wit;
use crate::bindings::wasi::nn::graph;
use crate::bindings::wasi::nn::inference::GraphExecutionContext;
use crate::bindings::wasi::nn::tensor as wit_tensor;
use crate::{ElementType, Error, Tensor, Tokenizer};

/// A model that this deployment was granted. Opening one is cheap; it is loaded when it first runs.
pub struct Model {
    alias: String,
    info: OnceCell<ModelInfo>,
    context: OnceCell<GraphExecutionContext>,
}

impl Model {
    /// The model that the deployment knows by `alias`.
    ///
    /// # Errors
    /// A 500 that names the granted aliases if there is no such one.
    pub fn named(alias: &str) -> Result<Self, Error> {
        let granted = crate::models::granted();
        if granted.iter().any(|name| name == alias) {
            return Ok(Self::of(alias.to_owned()));
        }
        Err(Error::new(
            500,
            "model_not_granted",
            format!(
                "this deployment has no model `{alias}`; it has: {}. Grant one in the [models] table of mayfly.toml",
                if granted.is_empty() { "none".to_owned() } else { granted.join(", ") }
            ),
        ))
    }

    /// The one model of this deployment.
    ///
    /// # Errors
    /// A 500 if none or more than one was granted.
    pub fn only() -> Result<Self, Error> {
        let mut granted = crate::models::granted();
        match (granted.pop(), granted.len()) {
            (Some(alias), 0) => Ok(Self::of(alias)),
            (None, _) => Err(Error::new(
                500,
                "model_not_granted",
                "this deployment has no model; grant one in the [models] table of mayfly.toml, or deploy with --model",
            )),
            (Some(last), more) => Err(Error::internal(format!(
                "this deployment has {} models ({}, {last}) and its handler takes exactly one",
                more + 1,
                granted.join(", ")
            ))),
        }
    }

    fn of(alias: String) -> Self {
        Self { alias, info: OnceCell::new(), context: OnceCell::new() }
    }

    /// The alias this deployment uses.
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// What the model is, takes and gives. Asked of the host once.
    ///
    /// # Errors
    /// A 500 if the host cannot describe it.
    pub fn info(&self) -> Result<&ModelInfo, Error> {
        if let Some(info) = self.info.get() {
            return Ok(info);
        }
        let info = wit::describe(&self.alias).map_err(|error| Error::of_model(&self.alias, &error))?;
        Ok(self.info.get_or_init(|| ModelInfo::from_wit(info)))
    }

    /// The model's tokenizer, run by the host.
    pub fn tokenizer(&self) -> Tokenizer<'_> {
        Tokenizer::new(&self.alias)
    }

    /// Runs the model once. Inputs are given by name; they are used up.
    ///
    /// # Errors
    /// 400 for inputs the model cannot take, 413 for more than a run may hold, 504 past the deadline, 503 if the
    /// host is busy, 500 for the rest. Work that a limit or a budget refuses fails here too; the host then answers the
    /// caller with that limit's own status.
    pub fn run<N: Into<String>>(&self, inputs: impl IntoIterator<Item = (N, Tensor)>) -> Result<Outputs, Error> {
        let context = self.context()?;
        let outputs = context.compute(named(inputs)).map_err(|error| Error::of_model(&self.alias, &error))?;
        Ok(Outputs::from_wit(outputs))
    }

    /// Runs the model once for each element of `runs`; the answers stand in the same order. The host may compute them
    /// together, so this is the quicker way where there is a list.
    ///
    /// # Errors
    /// As [`Model::run`]; one bad run fails all.
    pub fn run_many<N: Into<String>>(
        &self,
        runs: impl IntoIterator<Item = impl IntoIterator<Item = (N, Tensor)>>,
    ) -> Result<Vec<Outputs>, Error> {
        let runs = runs.into_iter().map(named).collect();
        let outputs = wit::run_many(&self.alias, runs).map_err(|error| Error::of_model(&self.alias, &error))?;
        Ok(outputs.into_iter().map(Outputs::from_wit).collect())
    }

    fn context(&self) -> Result<&GraphExecutionContext, Error> {
        if let Some(context) = self.context.get() {
            return Ok(context);
        }
        let context = graph::load_by_name(&self.alias)
            .and_then(|graph| graph.init_execution_context())
            .map_err(|error| Error::of_model(&self.alias, &error))?;
        Ok(self.context.get_or_init(|| context))
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("alias", &self.alias).finish_non_exhaustive()
    }
}

fn named<N: Into<String>>(inputs: impl IntoIterator<Item = (N, Tensor)>) -> Vec<(String, wit_tensor::Tensor)> {
    inputs.into_iter().map(|(name, tensor)| (name.into(), tensor.0)).collect()
}

/// The outputs of one run, by name, in the model's order.
#[derive(Debug)]
pub struct Outputs(Vec<(String, Tensor)>);

impl Outputs {
    fn from_wit(outputs: Vec<(String, wit_tensor::Tensor)>) -> Self {
        Self(outputs.into_iter().map(|(name, tensor)| (name, Tensor(tensor))).collect())
    }

    /// The output `name`.
    ///
    /// # Errors
    /// A 500 that names the outputs there are.
    pub fn get(&self, name: &str) -> Result<&Tensor, Error> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, tensor)| tensor).ok_or_else(|| self.missing(name))
    }

    /// Takes the output `name` out, to hand it back as an input for example.
    ///
    /// # Errors
    /// As [`Outputs::get`].
    pub fn take(&mut self, name: &str) -> Result<Tensor, Error> {
        match self.0.iter().position(|(key, _)| key == name) {
            Some(at) => Ok(self.0.remove(at).1),
            None => Err(self.missing(name)),
        }
    }

    /// Names and tensors in the model's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    fn missing(&self, name: &str) -> Error {
        let names: Vec<&str> = self.iter().map(|(name, _)| name).collect();
        Error::internal(format!("the model has no output `{name}`; it has: {}", names.join(", ")))
    }
}

/// What a model is, takes and gives.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The alias this deployment uses.
    pub alias: String,
    /// The name the model is registered under.
    pub name: String,
    /// The digest of its package.
    pub digest: String,
    /// Its inputs.
    pub inputs: Vec<TensorInfo>,
    /// Its outputs.
    pub outputs: Vec<TensorInfo>,
    /// Whether it has a tokenizer.
    pub has_tokenizer: bool,
    properties: Vec<(String, String)>,
}

impl ModelInfo {
    fn from_wit(info: wit::ModelInfo) -> Self {
        Self {
            alias: info.alias,
            name: info.name,
            digest: info.digest,
            inputs: info.inputs.into_iter().map(TensorInfo::from_wit).collect(),
            outputs: info.outputs.into_iter().map(TensorInfo::from_wit).collect(),
            has_tokenizer: info.has_tokenizer,
            properties: info.properties,
        }
    }

    /// A fact from the package's own configuration, such as `pooling` or `max_tokens`.
    pub fn property(&self, key: &str) -> Option<&str> {
        self.properties.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A property that is a number, none if it is not set.
    ///
    /// # Errors
    /// A 500 if it is set and is no number of this type.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.property(key) else { return Ok(None) };
        let parsed = text.trim().parse();
        parsed
            .map(Some)
            .map_err(|_| Error::internal(format!("the model's property `{key}` is `{text}`, not a fitting number")))
    }

    /// All properties, sorted by key.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The first input that plays `role`.
    pub fn input(&self, role: Role) -> Option<&TensorInfo> {
        self.inputs.iter().find(|input| input.role == role)
    }
}

/// One input or output of a model.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub element_type: ElementType,
    /// One entry per dimension.
    pub dimensions: Vec<Dimension>,
    /// What the host takes it for.
    pub role: Role,
}

impl TensorInfo {
    fn from_wit(info: wit::TensorInfo) -> Self {
        Self {
            name: info.name,
            element_type: ElementType::from_wit(info.ty),
            dimensions: info
                .dimensions
                .into_iter()
                .map(|dimension| match dimension {
                    wit::Dimension::Fixed(size) => Dimension::Fixed(size as usize),
                    wit::Dimension::Named(name) => Dimension::Named(name),
                    wit::Dimension::Any => Dimension::Any,
                })
                .collect(),
            role: match info.role {
                wit::TensorRole::Ids => Role::Ids,
                wit::TensorRole::Mask => Role::Mask,
                wit::TensorRole::TokenTypes => Role::TokenTypes,
                wit::TensorRole::Positions => Role::Positions,
                wit::TensorRole::Past => Role::Past,
                wit::TensorRole::Present => Role::Present,
                wit::TensorRole::Logits => Role::Logits,
                wit::TensorRole::State => Role::State,
                wit::TensorRole::Data => Role::Data,
            },
        }
    }
}

/// The size of one dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dimension {
    /// Always this.
    Fixed(usize),
    /// Chosen by the caller; dimensions that share a name share a size.
    Named(String),
    /// Chosen by the caller.
    Any,
}

/// What the host takes a tensor for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token ids.
    Ids,
    /// 1 where a position counts, 0 where it is padding.
    Mask,
    /// Segment ids.
    TokenTypes,
    /// Positions of the tokens.
    Positions,
    /// Attention state going in.
    Past,
    /// Attention state coming out; can be handed back, not read.
    Present,
    /// Scores of the next token.
    Logits,
    /// A state that goes in and comes out and may be read.
    State,
    /// Anything else.
    Data,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(properties: &[(&str, &str)]) -> ModelInfo {
        ModelInfo {
            alias: "m".into(),
            name: "m".into(),
            digest: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            has_tokenizer: false,
            properties: properties.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }

    #[test]
    fn numbers_are_read_or_refused() {
        let info = info(&[("max_tokens", "256"), ("pad_id", "none")]);
        assert_eq!(info.number::<u32>("max_tokens"), Ok(Some(256)));
        assert_eq!(info.number::<u32>("dimensions"), Ok(None));
        let error = info.number::<u32>("pad_id").expect_err("`none` is no number");
        assert_eq!(error.status(), 500);
        assert!(error.message().contains("pad_id"));
    }
}
