//! Generations in a process: handed over, told what their readers do, and heard.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::time::sleep_until;

use super::submit::Work;
use super::{Process, State};
use crate::generation::{Maker, Shared};
use crate::session::Request;
use crate::worker::course::Course;
use crate::worker::faults::generation_error;
use crate::worker::flight::Violation;
use crate::worker::message::{Fault, Task};
use crate::worker::piece::Piece;
use crate::{DecoderInfo, Generation, GenerationError, GenerationRequest, Package, RunError};

impl Process {
    /// Starts a generation; `given` are its inputs. None if the process was closed before it took it.
    pub(in crate::worker) async fn generate(
        self: &Arc<Self>,
        package: &Arc<Package>,
        decoder: &DecoderInfo,
        request: &GenerationRequest,
        given: &Request,
    ) -> Option<Result<Generation, GenerationError>> {
        let (course, admission) = Course::new(request, decoder.vocab, self.stop);
        let shared = Arc::clone(&course.shared);
        let task = Task::Generate { choices: request.choices, reuse: request.reuse };
        let handed_over = async {
            if let Err(error) = self.bring(package).await {
                return Some(Err(error));
            }
            let mut work = Some(Work::Course(course));
            let run = match self.send(package, given, task, request.deadline, &mut work).await? {
                Ok(run) => run,
                Err(error) => return Some(Err(error)),
            };
            // From here on whoever drops it ends the work.
            let line = Line { process: Arc::downgrade(self), run };
            let generation = Generation::new(Arc::clone(&shared), Arc::new(line));
            let admitted = admission.await.unwrap_or(Err(GenerationError::Stopped));
            Some(Ok(admitted.map(|()| generation)))
        };
        let stopped = async {
            tokio::select! {
                biased;
                () = request.cancel.cancelled() => {}
                () = sleep_until(request.deadline.into()) => {}
            }
        };
        let admitted = tokio::select! {
            biased;
            () = stopped => return Some(Err(GenerationError::Stopped)),
            handed_over = handed_over => match handed_over? {
                Ok(admitted) => admitted,
                Err(error) => Err(not_handed_over(error)),
            },
        };
        if admitted.is_ok() {
            self.lock().loaded.insert(package.digest());
        }
        Some(admitted)
    }

    /// The engine of the process has this generation.
    pub(super) fn admitted(&self, run: u64) -> Result<(), Violation> {
        self.lock().course(run)?.admit()
    }

    /// Its prompt begins to run.
    pub(super) fn prefill(&self, run: u64, cached: u32) -> Result<(), Violation> {
        let mut state = self.lock();
        let State { courses, shares, .. } = &mut *state;
        running(courses.get_mut(&run))?.prefill(cached, shares)
    }

    /// Tokens of one of its choices.
    pub(super) fn piece(&self, run: u64, piece: &Piece, data: &[u8]) -> Result<(), Violation> {
        let mut state = self.lock();
        let State { courses, shares, .. } = &mut *state;
        let course = running(courses.get_mut(&run))?;
        course.piece(piece, data, shares)?;
        let ended = course.has_ended();
        let unread: u64 = courses.values().map(Course::unread).sum();
        if unread > self.unread_bytes_max {
            return Err(Violation("more tokens than may wait for their readers"));
        }
        if ended {
            self.end_course(&mut state, run, None);
        }
        Ok(())
    }

    /// It had to end.
    pub(super) fn course_failed(&self, state: &mut State, run: u64, fault: Fault) -> Result<(), Violation> {
        let course = state.course(run)?;
        if fault == Fault::Stopped && !course.may_stop(Instant::now()) {
            return Err(Violation("a generation that nobody stopped"));
        }
        let kind = course.constraint();
        let error = generation_error(fault, self.device.as_str(), kind)?;
        self.end_course(state, run, Some(error));
        Ok(())
    }

    /// The process has let go of a generation.
    fn end_course(&self, state: &mut State, run: u64, error: Option<GenerationError>) {
        let Some(course) = state.courses.get_mut(&run) else { return };
        course.end(error, &mut state.shares);
        let place = course.inputs.take();
        if course.abandoned {
            state.courses.remove(&run);
        }
        state.used = Instant::now();
        if let Some(place) = place {
            self.free(state, &place);
        }
    }

    /// Tells the process what it was not told yet of what readers did.
    pub(super) fn speak(&self, state: &mut State) {
        state.unsaid = false;
        for (&run, course) in &mut state.courses {
            state.unsaid |= !course.say(run, |message| self.tell(message));
        }
    }

    /// The reader of a generation did something.
    fn touched(&self, run: u64) {
        let mut state = self.lock();
        let State { courses, shares, .. } = &mut *state;
        let Some(course) = courses.get_mut(&run) else { return };
        course.hear_reader(shares);
        if !course.say(run, |message| self.tell(message)) {
            state.unsaid = true;
        }
    }

    /// Nobody reads a generation any more.
    fn abandoned(&self, run: u64) {
        let mut state = self.lock();
        if let Some(course) = state.courses.get_mut(&run) {
            course.abandoned = true;
            if course.is_over() {
                state.courses.remove(&run);
            }
        }
    }
}

/// One that the process has not let go of.
pub(super) fn running(course: Option<&mut Course>) -> Result<&mut Course, Violation> {
    course.filter(|course| !course.is_over()).ok_or(Violation("a generation that is not there"))
}

fn not_handed_over(error: RunError) -> GenerationError {
    match error {
        RunError::Load(error) => error.into(),
        RunError::QueueFull { limit } => GenerationError::Busy { waiting: limit, limit },
        RunError::Stopped { .. } => GenerationError::Stopped,
        RunError::Worker(error) => error.into(),
        RunError::Failed(text) | RunError::TooLarge(text) => GenerationError::Failed(text),
    }
}

/// The way from a reader to its generation in a process.
struct Line {
    process: Weak<Process>,
    run: u64,
}

impl Maker for Line {
    fn touch(&self, _: &Arc<Shared>) {
        if let Some(process) = self.process.upgrade() {
            process.touched(self.run);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(process) = self.process.upgrade() {
            process.abandoned(self.run);
        }
    }
}
