//! Places in the memory that is shared with a process: who has one, who waits for one.

use std::io;
use std::sync::Arc;

use super::{Process, State};
use crate::session::Request;
use crate::worker::arena::Place;
use crate::worker::message::ToWorker;
use crate::{LoadError, RunError};

/// More than this is copied off the async threads.
const COPY_INLINE_BYTES_MAX: u64 = 1 << 20;

impl Process {
    pub(super) fn free(&self, state: &mut State, place: &Place) {
        self.arena.give_back(place);
        state.places.free(place);
        self.give_space(state);
        self.freed.notify_waiters();
    }

    /// Outputs come before new inputs: they make room.
    pub(super) fn give_space(&self, state: &mut State) {
        while let Some(&run) = state.waiting.front() {
            let Some(bytes) = state.flights.get(&run).and_then(|flight| flight.outputs.as_ref()).map(|o| o.bytes)
            else {
                state.waiting.pop_front();
                continue;
            };
            let Some(place) = state.places.take(bytes) else { return };
            state.waiting.pop_front();
            let at = place.at;
            if let Some(outputs) = state.flights.get_mut(&run).and_then(|flight| flight.outputs.as_mut()) {
                outputs.place = Some(place);
            }
            self.tell(&ToWorker::Space { run, at });
        }
    }

    /// A place for `bytes`, once there is one. None if the process is closed.
    pub(super) async fn place(self: &Arc<Self>, bytes: u64) -> Option<Result<Held, RunError>> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.try_place(bytes)? {
                Ok(None) => freed.await,
                Ok(Some(place)) => {
                    return Some(Ok(Held { process: Arc::clone(self), at: place.at, place: Some(place) }));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn try_place(&self, bytes: u64) -> Option<Result<Option<Place>, RunError>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        if !state.places.could_fit(bytes) {
            return Some(Err(does_not_fit(bytes, "inputs")));
        }
        // Not before those whose outputs wait: they were here first, and make room.
        Some(Ok(if state.waiting.is_empty() { state.places.take(bytes) } else { None }))
    }

    pub(super) async fn copy_in(
        &self,
        held: Held,
        request: &Request,
        keep: Vec<u8>,
        bytes: u64,
    ) -> Result<Held, RunError> {
        let inputs: Vec<_> = request.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
        let copy = move || {
            let mut at = held.at;
            for part in inputs.iter().map(crate::Tensor::as_slice).chain([&keep[..]]) {
                held.process.arena.write(at, part)?;
                at = at.saturating_add(part.len() as u64);
            }
            Ok::<_, io::Error>(held)
        };
        let failed = |error: String| RunError::Load(LoadError::Failed { detail: format!("shared memory: {error}") });
        let copied = if bytes <= COPY_INLINE_BYTES_MAX {
            copy()
        } else {
            tokio::task::spawn_blocking(copy).await.map_err(|error| failed(error.to_string()))?
        };
        copied.map_err(|error| failed(error.to_string()))
    }
}

pub(super) fn does_not_fit(bytes: u64, what: &str) -> RunError {
    RunError::TooLarge(format!(
        "the {what} of this run take {bytes} bytes, more than there can be between the host and the process for this \
         tenant's own models (workers.shared_bytes_max); give it fewer or shorter rows"
    ))
}

/// A place that goes back, should nobody take it over.
pub(super) struct Held {
    process: Arc<Process>,
    pub(super) at: u64,
    place: Option<Place>,
}

impl Held {
    /// It belongs to a run now.
    pub(super) fn keep(mut self) -> Place {
        self.place.take().expect("it is kept once")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let mut state = self.process.lock();
            self.process.free(&mut state, &place);
        }
    }
}
