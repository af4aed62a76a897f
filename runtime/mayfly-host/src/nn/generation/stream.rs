//! The guest's end of a generation.

use std::sync::Arc;
use std::time::Instant;

use mayfly_inference::{
    Chunk as HostChunk, ChunkToken, Finish, Generation, GenerationError, GenerationUsage, TopToken as HostTopToken,
};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_io::poll::Pollable;

use super::bindings::{Chunk, Error, FinishReason, Token, TopToken, Usage};
use super::filtered::{Filtered, Passed};
use crate::nn::NnState;
use crate::run::{Finished, Timings};

/// The resource `stream`. Dropping it ends the work within a step.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct HostStream {
    generation: Generation,
    /// What its chunks pass, if the deployment has a filter.
    filtered: Option<Filtered>,
    cancel: CancellationToken,
    deadline: Instant,
    /// Counted as open until it goes.
    _place: Arc<()>,
}

impl HostStream {
    pub(super) fn new(
        generation: Generation,
        filtered: Option<Filtered>,
        cancel: CancellationToken,
        deadline: Instant,
        place: Arc<()>,
    ) -> Self {
        Self { generation, filtered, cancel, deadline, _place: place }
    }

    /// The engine's chunk as the guest may see it. A choice that the filter ends is ended at the engine, too.
    fn shown(&mut self, chunk: HostChunk) -> Chunk {
        let Some(filtered) = &mut self.filtered else { return shown(chunk, false) };
        let Passed { chunk, is_cut } = filtered.pass(chunk);
        if is_cut && chunk.finish.is_none() {
            self.generation.end_choice(chunk.choice);
        }
        shown(chunk, is_cut)
    }

    pub(super) fn cancel(&self) {
        self.generation.cancel();
    }

    pub(super) fn usage(&self) -> Usage {
        usage(self.generation.usage())
    }
}

#[async_trait::async_trait]
impl Pollable for HostStream {
    /// Also once the call is over: `next` then answers at once that it is.
    async fn ready(&mut self) {
        tokio::select! {
            biased;
            () = self.generation.ready() => {}
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep_until(self.deadline.into()) => {}
        }
    }
}

impl NnState {
    /// The next chunk of `stream`, as far as the deployment's filter lets it pass. The engine has counted it before.
    pub(super) async fn next_chunk(&self, stream: &mut HostStream) -> Result<Option<Chunk>, Error> {
        self.open()?;
        let began = Instant::now();
        let next = self.within_call(stream.generation.next()).await;
        // The time a guest waits for its model, whatever the engine does for others meanwhile.
        self.clock.add(|timings| timings.inference += began.elapsed());
        let chunk = self.told(next?)?.map(|chunk| stream.shown(chunk));
        if let Some(chunk) = chunk.as_ref().filter(|chunk| !chunk.tokens.is_empty() || chunk.finish.is_some()) {
            self.clock.add(|timings| told(timings, chunk));
        }
        Ok(chunk)
    }

    /// Remembers that a generation ended because its time was up, or its process did: what its handler answers then is
    /// their doing.
    pub(super) fn told<T>(&self, outcome: Result<T, GenerationError>) -> Result<T, GenerationError> {
        match &outcome {
            Err(GenerationError::Stopped) if !self.cancel.is_cancelled() => {
                self.clock.add(|timings| timings.generation_out_of_time = true);
            }
            Err(GenerationError::Worker(lost)) => self.worker_lost(lost),
            _ => {}
        }
        outcome
    }
}

/// Remembers what the guest was handed.
fn told(timings: &mut Timings, chunk: &Chunk) {
    if !chunk.tokens.is_empty() {
        timings.first_token.get_or_insert_with(Instant::now);
    }
    if let Some(finish) = chunk.finish {
        timings.finishes.add(match finish {
            FinishReason::Stop => Finished::Stop,
            FinishReason::Length => Finished::Length,
            FinishReason::ContentFilter => Finished::ContentFilter,
            FinishReason::Cancelled => Finished::Cancelled,
        });
    }
}

fn usage(usage: GenerationUsage) -> Usage {
    let GenerationUsage { prompt_tokens, cached_tokens, completion_tokens } = usage;
    Usage { prompt_tokens, cached_tokens, completion_tokens }
}

fn shown(chunk: HostChunk, is_cut: bool) -> Chunk {
    let top = |HostTopToken { id, bytes, logprob }| TopToken { id, bytes, logprob };
    let token = |ChunkToken { id, bytes, logprob, top: likeliest, .. }| Token {
        id,
        bytes,
        logprob,
        top: likeliest.into_iter().map(top).collect(),
    };
    Chunk {
        choice: chunk.choice,
        text: chunk.text,
        tokens: chunk.tokens.into_iter().map(token).collect(),
        finish: chunk.finish.map(|finish| match finish {
            _ if is_cut => FinishReason::ContentFilter,
            Finish::Stop => FinishReason::Stop,
            Finish::Length => FinishReason::Length,
            Finish::Cancelled => FinishReason::Cancelled,
        }),
        usage: usage(chunk.usage),
    }
}
