//! What one instance's store holds: its resources, its limits and what the host keeps beside it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::cpu::{CpuExceeded, CpuMeter};
use crate::http::Hooks;
use crate::keyvalue::KeyValueState;
use crate::limiter::Limiter;
use crate::nn::NnState;
use crate::output::GuestOutput;

/// The data of one store. Lives as long as its instance.
pub(crate) struct GuestState {
    /// Every resource the guest holds a handle of; at most `handles_max`.
    pub(crate) table: ResourceTable,
    /// Streams in the table that outlive a request.
    pub(crate) lasting: BTreeSet<u32>,
    /// Clocks, randomness, output; no environment, no files, no sockets. New for each request.
    pub(crate) wasi: WasiCtx,
    /// Standard output and error: where they lead to is the request's.
    pub(crate) outputs: [GuestOutput; 2],
    /// The HTTP types: limits only.
    pub(crate) http: WasiHttpCtx,
    /// Memory, tables, instances.
    pub(crate) limiter: Limiter,
    /// What belongs to the request that is answered; none between two. Guests run within a request only.
    pub(crate) request: Option<RequestState>,
}

/// The part of the data that dies with its request.
pub(crate) struct RequestState {
    /// What the host decides about HTTP: no outbound requests.
    pub(crate) hooks: Hooks,
    /// Models, tensors, configuration.
    pub(crate) nn: NnState,
    /// The deployment's key-value store.
    pub(crate) keyvalue: KeyValueState,
    /// CPU time so far, and what it may be.
    pub(crate) meter: Arc<CpuMeter>,
    pub(crate) guest_cpu_ms_max: u64,
}

/// Why there is a request wherever a guest's call arrives.
pub(crate) const IN_A_REQUEST: &str = "a guest runs within a request only";

impl GuestState {
    /// At a tick: whether the guest gives way.
    ///
    /// # Errors
    /// [`CpuExceeded`]: it has used up its time.
    pub(crate) fn tick(&self) -> Result<bool, CpuExceeded> {
        let request = self.request.as_ref().expect(IN_A_REQUEST);
        let gives_way = request.meter.tick(request.guest_cpu_ms_max)?;
        if gives_way {
            request.meter.note_yield();
        }
        Ok(gives_way)
    }
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
        let hooks = &mut self.request.as_mut().expect(IN_A_REQUEST).hooks;
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks }
    }
}
