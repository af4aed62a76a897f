//! `wasi:nn/graph`: a graph is a grant by name. It costs nothing until the first compute.

use wasmtime::component::Resource;

use super::NnView;
use super::bindings::errors::ErrorCode;
use super::bindings::graph::{ExecutionTarget, Graph, GraphEncoding, Host, HostGraph as HostGraphMethods};
use super::errors::NnError;
use super::inference::HostContext;
use crate::Grant;
use crate::leftovers::discard;

/// The resource `graph`.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct HostGraph {
    grant: Grant,
}

impl Host for NnView<'_> {
    fn load(
        &mut self,
        _builder: Vec<Vec<u8>>,
        _encoding: GraphEncoding,
        _target: ExecutionTarget,
    ) -> wasmtime::Result<Result<Resource<Graph>, Resource<NnError>>> {
        let refused = NnError::new(
            ErrorCode::Security,
            "a handler cannot bring a model; register it with `mayfly models add`, grant it and use load-by-name",
        );
        self.answer(Err(refused))
    }

    fn load_by_name(&mut self, name: String) -> wasmtime::Result<Result<Resource<Graph>, Resource<NnError>>> {
        match self.nn.grant(&name).cloned() {
            Ok(grant) => self.push(HostGraph { grant }).map(Ok),
            Err(error) => self.answer(Err(error)),
        }
    }
}

impl HostGraphMethods for NnView<'_> {
    fn init_execution_context(
        &mut self,
        graph: Resource<HostGraph>,
    ) -> wasmtime::Result<Result<Resource<HostContext>, Resource<NnError>>> {
        let grant = self.table.get(&graph)?.grant.clone();
        self.push(HostContext { grant }).map(Ok)
    }

    fn drop(&mut self, graph: Resource<HostGraph>) -> wasmtime::Result<()> {
        discard(self.table, graph)
    }
}
