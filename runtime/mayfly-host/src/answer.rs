//! What a guest writes of its answer, told to the account of its call: only at this moment is known which usage stands
//! behind which bytes. Afterwards they wait in buffers while the guest works on.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mayfly_types::Budget;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamResult};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;

use crate::state::{GuestState, IN_A_REQUEST};

/// Replaces the one function that gives a guest its body's stream, by one that wraps it.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]outgoing-body.write",
        |mut store: StoreContextMut<'_, GuestState>, (body,): (Resource<HostOutgoingBody>,)| {
            let state = store.data_mut();
            let hooks = &mut state.request.as_mut().expect(IN_A_REQUEST).hooks;
            let (budget, number) = (Arc::clone(&hooks.budget), hooks.bodies);
            hooks.bodies = number.saturating_add(1);
            let table = &mut state.table;
            let Some(stream) = table.get_mut(&body)?.take_output_stream() else { return Ok((Err(()),)) };
            let stream: DynOutputStream = Box::new(AnswerStream { stream, budget, number });
            Ok((Ok(table.push_child(stream, &body)?),))
        },
    )
}

/// The stream of a body.
struct AnswerStream {
    stream: DynOutputStream,
    budget: Arc<dyn Budget>,
    /// Which of the guest's bodies it is.
    number: u32,
}

#[async_trait::async_trait]
impl OutputStream for AnswerStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        // Before anybody can see them.
        self.budget.answers(self.number, bytes.len());
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.stream.check_write()
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

#[async_trait::async_trait]
impl Pollable for AnswerStream {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

impl fmt::Debug for AnswerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerStream").finish_non_exhaustive()
    }
}
