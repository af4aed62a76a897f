//! `mayfly:inference/models`: what was granted, what it takes and gives, and many runs in one call.

use mayfly_inference::{DimensionInfo, Role, TensorInfo as HostInfo};
use wasmtime::component::Resource;

use super::NnView;
use super::bindings::models::{Dimension, Host, ModelInfo, TensorInfo, TensorRole};
use super::errors::NnError;
use super::inference::Named;
use super::tensor::to_wit;
use crate::Grant;

fn describe(alias: String, grant: &Grant) -> ModelInfo {
    let info = grant.package.info();
    ModelInfo {
        alias,
        name: grant.name.to_string(),
        digest: grant.package.digest().to_string(),
        inputs: info.inputs.iter().map(tensor_info).collect(),
        outputs: info.outputs.iter().map(tensor_info).collect(),
        has_tokenizer: info.has_tokenizer,
        properties: info.properties.clone(),
    }
}

fn tensor_info(info: &HostInfo) -> TensorInfo {
    TensorInfo {
        name: info.name.clone(),
        ty: to_wit(info.element_type),
        dimensions: info.dimensions.iter().map(dimension).collect(),
        role: role(info.role),
    }
}

fn dimension(info: &DimensionInfo) -> Dimension {
    match info {
        DimensionInfo::Fixed(size) => Dimension::Fixed(*size),
        DimensionInfo::Named(name) => Dimension::Named(name.clone()),
        DimensionInfo::Any => Dimension::Any,
    }
}

fn role(role: Role) -> TensorRole {
    match role {
        Role::Ids => TensorRole::Ids,
        Role::Mask => TensorRole::Mask,
        Role::TokenTypes => TensorRole::TokenTypes,
        Role::Positions => TensorRole::Positions,
        Role::Past => TensorRole::Past,
        Role::Present => TensorRole::Present,
        Role::Logits => TensorRole::Logits,
        Role::State => TensorRole::State,
        Role::Data => TensorRole::Data,
    }
}

impl Host for NnView<'_> {
    fn granted(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.nn.grants.models.keys().map(ToString::to_string).collect())
    }

    fn describe(&mut self, alias: String) -> wasmtime::Result<Result<ModelInfo, Resource<NnError>>> {
        let described = self.nn.grant(&alias).map(|grant| describe(alias.clone(), grant));
        self.answer(described)
    }

    async fn run_many(
        &mut self,
        alias: String,
        runs: Vec<Vec<Named>>,
    ) -> wasmtime::Result<Result<Vec<Vec<Named>>, Resource<NnError>>> {
        let runs = runs.into_iter().map(|run| self.take_inputs(run)).collect::<Result<_, _>>()?;
        let result = match self.nn.grant(&alias) {
            Ok(grant) => self.nn.run(grant, runs).await,
            Err(error) => Err(error),
        };
        let result = result.and_then(|runs| self.push_outputs(runs));
        self.answer(result)
    }
}
