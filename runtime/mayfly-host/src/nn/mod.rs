//! What a guest may do with models: `wasi:nn`, `mayfly:inference` and `wasi:config`, one file per interface.
//!
//! This side checks handles, live bytes and grants, takes the holds and keeps them until nothing more can be charged;
//! the values of tensors, counting and running belong to `mayfly-inference`. The world's other imports come from
//! `wasmtime-wasi` and `wasmtime-wasi-http`.

mod bindings;
mod compute;
mod config;
mod errors;
mod generation;
mod graph;
mod inference;
mod live;
mod models;
mod tensor;
mod tokenizer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use mayfly_inference::Inference;
use mayfly_types::{Budget, GuestLimits};
use tokio_util::sync::CancellationToken;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

use self::errors::NnError;
pub(crate) use self::generation::Asker;
use self::live::LiveBytes;
use crate::cpu::CpuMeter;
use crate::state::{GuestState, IN_A_REQUEST};
use crate::{Clock, Grant, Grants, Place};

/// The part of a guest's state that belongs to models. Lives as long as one request.
#[derive(Debug)]
pub(crate) struct NnState {
    inference: Inference,
    grants: Arc<Grants>,
    budget: Arc<dyn Budget>,
    limits: Arc<GuestLimits>,
    deadline: Instant,
    /// Also cancelled when the response's body has ended: calls then fail.
    cancel: CancellationToken,
    clock: Clock,
    meter: Arc<CpuMeter>,
    live: LiveBytes,
    asker: Asker,
    /// One count for each open stream of a generation, and one.
    streams: Arc<()>,
}

impl NnState {
    /// The state of one request.
    pub(crate) fn new(
        inference: Inference,
        grants: Arc<Grants>,
        budget: Arc<dyn Budget>,
        limits: Arc<GuestLimits>,
        deadline: Instant,
        cancel: CancellationToken,
        clock: Clock,
    ) -> Self {
        let live = LiveBytes::new(limits.tensor_bytes_max);
        let asker = Asker { owner: 0, reuse: None };
        let (meter, streams) = (Arc::default(), Arc::default());
        Self { inference, grants, budget, limits, deadline, cancel, clock, meter, live, asker, streams }
    }

    /// Generates in the name of `asker`.
    pub(crate) fn with_asker(self, asker: Asker) -> Self {
        Self { asker, ..self }
    }

    /// Counts CPU time of the guest, and of what is done for it on other threads, on `meter`.
    pub(crate) fn with_meter(self, meter: Arc<CpuMeter>) -> Self {
        Self { meter, ..self }
    }

    /// The grant behind an alias. A text that is no name is an alias that nobody was granted.
    fn grant(&self, alias: &str) -> Result<&Grant, NnError> {
        let grant = self.grants.models.get(alias).ok_or_else(NnError::not_granted)?;
        if grant.place == Place::Nowhere { Err(NnError::not_approved(&grant.name)) } else { Ok(grant) }
    }

    /// An error once the call is over.
    fn open(&self) -> Result<(), NnError> {
        if self.cancel.is_cancelled() {
            Err(NnError::closed())
        } else if Instant::now() >= self.deadline {
            Err(NnError::deadline())
        } else {
            Ok(())
        }
    }

    /// Waits for `work` as long as the call goes on.
    async fn within_call<T>(&self, work: impl Future<Output = T>) -> Result<T, NnError> {
        tokio::select! {
            biased;
            // First: most holds are there at once, and need no timer.
            done = work => Ok(done),
            () = self.cancel.cancelled() => Err(NnError::closed()),
            () = tokio::time::sleep_until(self.deadline.into()) => Err(NnError::deadline()),
        }
    }
}

/// What the interfaces work on: one instance's handles and its state.
#[derive(Debug)]
pub(crate) struct NnView<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) nn: &'a mut NnState,
}

impl NnView<'_> {
    /// A new handle. A guest that holds too many traps: most places that make one cannot answer with an error.
    fn push<R: Send + 'static>(&mut self, resource: R) -> wasmtime::Result<Resource<R>> {
        self.table.push(resource).map_err(|error| match error {
            // The type stays: whoever tells the fault looks for it.
            ResourceTableError::Full => {
                wasmtime::Error::from(ResourceTableError::Full).context(self.nn.too_many_handles())
            }
            error => error.into(),
        })
    }

    /// A result as the guest sees it: the error becomes a resource.
    fn answer<T>(&mut self, result: Result<T, NnError>) -> wasmtime::Result<Result<T, Resource<NnError>>> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(error) => self.push(error).map(Err),
        }
    }
}

impl NnState {
    fn too_many_handles(&self) -> String {
        format!(
            "the handler holds more than handles_max = {} resources at once; drop those it no longer needs",
            self.limits.handles_max
        )
    }
}

type View<T> = fn(&mut T) -> NnView<'_>;

struct Interfaces;

impl HasData for Interfaces {
    type Data<'a> = NnView<'a>;
}

/// Links every interface of this module.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    link(linker, |state| NnView { table: &mut state.table, nn: &mut state.request.as_mut().expect(IN_A_REQUEST).nn })
}

fn link<T: Send + 'static>(linker: &mut Linker<T>, view: View<T>) -> wasmtime::Result<()> {
    bindings::Models::add_to_linker::<T, Interfaces>(linker, view)?;
    generation::link(linker, view)?;
    tensor::link_without_copies(linker, view)
}
