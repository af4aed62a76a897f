//! What callers do with a process: hand it work, wait for the answer, leave.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mayfly_types::Digest;
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};

use super::Process;
use super::space::{Held, does_not_fit};
use crate::session::Request;
use crate::worker::course::Course;
use crate::worker::flight::{Answer, Flight, Started, order};
use crate::worker::message::{INLINE_BYTES_MAX, Task, ToWorker, bytes_of, encode};
use crate::{Caller, LoadError, Package, RunError};

/// Pause before a packet is offered again to a worker that has not taken those before.
const OFFER_AGAIN: Duration = Duration::from_millis(1);

/// What became of a run that was offered.
enum Offer {
    Taken,
    /// Offer it again.
    Later,
    Full,
    Closed,
}

/// What is kept of an order until it is answered.
pub(super) enum Work {
    Flight(Flight),
    Course(Course),
}

impl Process {
    /// Does `task`, a run or a prompt, with `request` on `package`. None if the process was closed before it took it, and
    /// `started` is still there then.
    pub(in crate::worker) async fn run(
        self: &Arc<Self>,
        package: &Arc<Package>,
        request: &Request,
        task: Task,
        caller: Caller<'_>,
        started: &mut Option<Started>,
    ) -> Option<Answer> {
        let Caller { deadline, cancel, .. } = caller;
        let stopped = async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = sleep_until(deadline.into()) => {}
            }
        };
        let runs = matches!(task, Task::Run { .. });
        let (reply, mut answer) = oneshot::channel();
        let flight = Flight {
            started: started.take(),
            begun: None,
            sent: Instant::now(),
            deadline,
            until: deadline + self.stop,
            wanted: request.outputs.clone(),
            output_bytes_max: request.output_bytes_max,
            reply: Some(reply),
            inputs: None,
            outputs: None,
            share: Duration::ZERO,
        };
        let mut work = Some(Work::Flight(flight));
        let sent = async {
            if let Err(error) = self.bring(package).await {
                return Some(Err(error));
            }
            self.send(package, request, task, deadline, &mut work).await
        };
        let sent = tokio::select! {
            biased;
            () = stopped => return Some(Err(RunError::Stopped { started: false }.into())),
            sent = sent => sent,
        };
        let run = match sent {
            Some(Ok(run)) => run,
            Some(Err(error)) => return Some(Err(error.into())),
            None => {
                if let Some(Work::Flight(flight)) = work {
                    *started = flight.started;
                }
                return None;
            }
        };
        let mut stay = Stay { process: self, run, over: false };
        let in_time = tokio::select! {
            biased;
            answer = &mut answer => Some(answer),
            () = cancel.cancelled() => None,
            () = sleep_until(deadline.into()) => None,
        };
        let answer = match in_time {
            Some(answer) => answer,
            None => match stay.leave() {
                Some(started) => return Some(Err(RunError::Stopped { started }.into())),
                // It is over in this moment: its answer, which is on its way, says what is owed.
                None => answer.await,
            },
        };
        stay.over = true;
        if runs && matches!(answer, Ok(Ok(_))) {
            self.lock().loaded.insert(package.digest());
        }
        Some(answer.unwrap_or_else(|_| Err(RunError::Failed("its process was lost".to_owned()).into())))
    }

    /// Lets the worker see the package.
    pub(super) async fn bring(self: &Arc<Self>, package: &Arc<Package>) -> Result<(), RunError> {
        let known = |all: &HashSet<Digest>| all.contains(&package.digest());
        // Held by another that is being brought: then this one waits off the async threads.
        if self.brought.try_lock().is_ok_and(|all| known(&all)) {
            return Ok(());
        }
        let (process, wanted) = (Arc::clone(self), Arc::clone(package));
        let failed = |detail: String| RunError::Load(LoadError::Failed { detail });
        let bring = move || {
            let mut all = process.brought.lock().unwrap_or_else(PoisonError::into_inner);
            if !all.contains(&wanted.digest()) {
                process.room.bring(&wanted)?;
                all.insert(wanted.digest());
            }
            Ok::<_, io::Error>(())
        };
        let done = tokio::task::spawn_blocking(bring).await.map_err(|error| failed(error.to_string()))?;
        done.map_err(|error| failed(format!("its files could not be shown to its process: {error}")))
    }

    /// Hands an order over; gives its number. None if the process is closed, and `work` is still there then.
    pub(super) async fn send(
        self: &Arc<Self>,
        package: &Package,
        request: &Request,
        task: Task,
        deadline: Instant,
        work: &mut Option<Work>,
    ) -> Option<Result<u64, RunError>> {
        let run = {
            let mut state = self.lock();
            state.next += 1;
            state.next
        };
        let timeout = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let (mut order, keep) = order(request, task, run, package.digest(), timeout_ms);
        let Some(bytes) = bytes_of(&order.inputs).and_then(|bytes| bytes.checked_add(keep.len() as u64)) else {
            return Some(Err(does_not_fit(u64::MAX, "inputs")));
        };
        let mut held = None;
        if bytes > INLINE_BYTES_MAX {
            let place = match self.place(bytes).await? {
                Ok(place) => place,
                Err(error) => return Some(Err(error)),
            };
            order.at = Some(place.at);
            match self.copy_in(place, request, keep.clone(), bytes).await {
                Ok(place) => held = Some(place),
                Err(error) => return Some(Err(error)),
            }
        }
        let inline: Vec<&[u8]> = match held {
            Some(_) => Vec::new(),
            None => request.inputs.iter().map(|(_, tensor)| tensor.as_slice()).chain([&keep[..]]).collect(),
        };
        let packet = match encode(&ToWorker::Do(order), &inline) {
            Ok(packet) => packet,
            Err(_) => {
                let text = "the inputs and outputs of this run are too many to be described to its process";
                return Some(Err(RunError::TooLarge(text.to_owned())));
            }
        };
        loop {
            match self.offer(run, &packet, work, &mut held) {
                Offer::Taken => return Some(Ok(run)),
                Offer::Closed => return None,
                Offer::Full => {
                    let limit = u32::try_from(self.runs_max).unwrap_or(u32::MAX);
                    return Some(Err(RunError::QueueFull { limit }));
                }
                Offer::Later => sleep(OFFER_AGAIN).await,
            }
        }
    }

    /// Sends an order, if the worker takes it now. What it takes over is gone from `work` and `held` then.
    fn offer(&self, run: u64, packet: &[u8], work: &mut Option<Work>, held: &mut Option<Held>) -> Offer {
        let mut state = self.lock();
        if state.closed {
            return Offer::Closed;
        }
        if state.open() >= self.runs_max {
            return Offer::Full;
        }
        if self.socket.send(packet, None).is_err() {
            // It takes nothing now; or it has died, and its thread is about to find out.
            return Offer::Later;
        }
        let inputs = held.take().map(Held::keep);
        // Still under the lock: no word of it is heard before.
        match work.take() {
            Some(Work::Flight(flight)) => {
                state.flights.insert(run, Flight { inputs, sent: Instant::now(), ..flight });
            }
            Some(Work::Course(mut course)) => {
                course.inputs = inputs;
                state.courses.insert(run, course);
            }
            None => {}
        }
        Offer::Taken
    }

    /// The caller of `run` leaves; gives whether it owes it, or none if the run is over.
    fn leave(&self, run: u64) -> Option<bool> {
        let owed = self.lock().flights.get_mut(&run)?.leave();
        self.tell(&ToWorker::Stop { run });
        Some(owed)
    }
}

/// A caller that waits for its run. Dropped before `over`, it has left.
struct Stay<'a> {
    process: &'a Process,
    run: u64,
    over: bool,
}

impl Stay<'_> {
    fn leave(&mut self) -> Option<bool> {
        self.over = true;
        self.process.leave(self.run)
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.leave();
        }
    }
}
