//! `mayfly:inference/generation`: text from decoder models, token by token, for as long as the guest wants it.
//!
//! This side turns a prompt into tokens (`prompt.rs`), the guest's options into what the engine takes (`options.rs`),
//! holds what a generation may cost before it starts and charges what it does (`account.rs`), gives the guest a handle that
//! ends the work when it goes (`stream.rs`), and keeps from it what the deployment's filter does not let pass
//! (`filtered.rs`). Scheduling, sampling and counting belong to `mayfly-inference`.

mod account;
mod asker;
mod bindings;
mod errors;
mod filtered;
mod options;
mod prompt;
mod start;
mod stream;

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_io::poll::DynPollable;

pub(crate) use self::asker::Asker;
use self::bindings::{Chunk, Error, Host, HostStreamMethods, Options, Prompt, Usage};
use self::stream::HostStream;
use super::{Interfaces, NnView, View};
use crate::leftovers::discard;

/// Links the interface.
pub(super) fn link<T: Send + 'static>(linker: &mut Linker<T>, view: View<T>) -> wasmtime::Result<()> {
    bindings::add_to_linker::<T, Interfaces>(linker, view)
}

impl Host for NnView<'_> {
    async fn start(
        &mut self,
        alias: String,
        prompt: Prompt,
        options: Options,
    ) -> wasmtime::Result<Result<Resource<HostStream>, Error>> {
        match self.nn.start(&alias, prompt, options).await {
            Ok(stream) => self.push(stream).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn count(&mut self, alias: String, prompt: Prompt) -> wasmtime::Result<Result<u32, Error>> {
        Ok(self.nn.count_prompt(&alias, prompt).await)
    }
}

impl HostStreamMethods for NnView<'_> {
    async fn next(&mut self, stream: Resource<HostStream>) -> wasmtime::Result<Result<Option<Chunk>, Error>> {
        let NnView { table, nn } = self;
        Ok(nn.next_chunk(table.get_mut(&stream)?).await)
    }

    fn subscribe(&mut self, stream: Resource<HostStream>) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, stream)
    }

    fn cancel(&mut self, stream: Resource<HostStream>) -> wasmtime::Result<()> {
        self.table.get(&stream)?.cancel();
        Ok(())
    }

    fn usage(&mut self, stream: Resource<HostStream>) -> wasmtime::Result<Usage> {
        Ok(self.table.get(&stream)?.usage())
    }

    fn drop(&mut self, stream: Resource<HostStream>) -> wasmtime::Result<()> {
        // Dropping it ends the work.
        discard(self.table, stream)
    }
}
