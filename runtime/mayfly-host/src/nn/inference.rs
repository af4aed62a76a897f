//! `wasi:nn/inference`: one run. How it is held, charged and stopped stands in `compute`.

use wasmtime::component::Resource;

use super::NnView;
use super::bindings::inference::{Host, HostGraphExecutionContext};
use super::errors::NnError;
use super::tensor::HostTensor;
use crate::Grant;
use crate::leftovers::discard;

/// The resource `graph-execution-context`. It keeps nothing between two runs.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct HostContext {
    pub(super) grant: Grant,
}

/// A `named-tensor`.
pub(super) type Named = (String, Resource<HostTensor>);

impl Host for NnView<'_> {}

impl HostGraphExecutionContext for NnView<'_> {
    async fn compute(
        &mut self,
        context: Resource<HostContext>,
        inputs: Vec<Named>,
    ) -> wasmtime::Result<Result<Vec<Named>, Resource<NnError>>> {
        let grant = self.table.get(&context)?.grant.clone();
        let inputs = self.take_inputs(inputs)?;
        let result = match self.nn.run(&grant, vec![inputs]).await {
            Ok(runs) => self.push_outputs(runs).map(|mut runs| runs.pop().unwrap_or_default()),
            Err(error) => Err(error),
        };
        self.answer(result)
    }

    fn drop(&mut self, context: Resource<HostContext>) -> wasmtime::Result<()> {
        discard(self.table, context)
    }
}
