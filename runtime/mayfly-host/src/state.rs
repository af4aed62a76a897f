//! What one instance's store holds: its resources, its limits and what the host keeps beside it.

use std::fmt;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::http::Hooks;
use crate::keyvalue::KeyValueState;
use crate::limiter::Limiter;
use crate::nn::NnState;

/// The data of one store. Lives as long as one request.
pub(crate) struct GuestState {
    /// Every resource the guest holds a handle of; at most `handles_max`.
    pub(crate) table: ResourceTable,
    /// Clocks, randomness, output; no environment, no files, no sockets.
    pub(crate) wasi: WasiCtx,
    /// The HTTP types.
    pub(crate) http: WasiHttpCtx,
    /// What the host decides about HTTP: no outbound requests.
    pub(crate) hooks: Hooks,
    /// Memory, tables, instances.
    pub(crate) limiter: Limiter,
    /// Models, tensors, configuration.
    pub(crate) nn: NnState,
    /// The deployment's key-value store.
    pub(crate) keyvalue: KeyValueState,
}

impl fmt::Debug for GuestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestState").field("limiter", &self.limiter).finish_non_exhaustive()
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}
