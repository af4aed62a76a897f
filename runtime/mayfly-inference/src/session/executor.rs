//! One loaded model: its queue, its session and those beside it, and for each of them the thread that owns it from load to
//! drop.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mayfly_scheduler::batching::Owner;
use ort::session::Session;
use tokio::sync::oneshot;

use super::inline::Pace;
use super::load::{self, Loaded, Model, Options, Source};
use super::queue::{FIRST, Job, Queue, Refused, SeatId, Why};
use super::run::{self, Done, Request};
use super::ticket::{Running, Ticket};
use crate::tensor::shelf;
use crate::{Device, LoadError, Resident, RunError};

/// A run that moved more than this leaves an arena worth shrinking.
const LARGE_RUN_BYTES: u64 = 8 << 20;
/// A run that took longer may have needed memory on its way that neither inputs nor outputs show.
const LONG_RUN: Duration = Duration::from_millis(50);
/// So long after the last large run, the next run shrinks the arena. A steady load of large runs never pays for it.
const SHRINK_AFTER: Duration = Duration::from_secs(5);

/// A run that takes longer is worth all cores; shorter ones gain more from running beside each other, each on one.
const BRISK_RUN: Duration = Duration::from_millis(20);

/// One loaded model. Shared by everybody who runs it.
#[derive(Debug)]
pub(crate) struct Executor {
    model: Model,
    queue: Queue,
    /// Which runs are short enough for the caller's own thread.
    pace: Pace,
    /// The session that is there from the first to the last.
    first: Arc<Seat>,
    /// Those beside it.
    beside: Mutex<BTreeMap<SeatId, Arc<Seat>>>,
    /// Called when one more session would be worth its load.
    crowded: OnceLock<Crowded>,
    /// How long a run of the graph takes, about: nanoseconds.
    pace_ns: AtomicU64,
    loaded: Instant,
    load: Duration,
    from_copy: bool,
    unpacked: bool,
    /// Who took over what waited here.
    successor: OnceLock<Arc<Self>>,
    /// Runs of callers.
    runs: AtomicU64,
    /// Runs of the graph: several callers' runs may have been one.
    batches: AtomicU64,
}

/// Asks for one more session.
struct Crowded(Box<dyn Fn(Why) + Send + Sync>);

impl std::fmt::Debug for Crowded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crowded")
    }
}

/// A session and what is going on there.
#[derive(Debug)]
struct Seat {
    id: SeatId,
    /// Taken by whoever has the seat's right to work, so nobody ever waits for it. None once it was dropped.
    session: Mutex<Option<Session>>,
    /// The run that is being worked on, for the watchdog.
    current: Mutex<Option<Arc<Running>>>,
    /// When the arena last grew large, if it was not shrunk since.
    large: Mutex<Option<Instant>>,
    /// Bytes of its own that its load took.
    bytes: u64,
}

impl Seat {
    fn new(id: SeatId, loaded: Session, bytes: u64) -> Arc<Self> {
        let (session, current, large) = (Mutex::new(Some(loaded)), Mutex::default(), Mutex::default());
        Arc::new(Self { id, session, current, large, bytes })
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Running>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run for the watchdog to see.
    fn running(&self, callers: usize, deadline: Instant) -> Result<Arc<Running>, RunError> {
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let shrink = large.take_if(|at| at.elapsed() >= SHRINK_AFTER).is_some();
        drop(large);
        let running = Running::new(callers, deadline, shrink)
            .map_err(|error| RunError::Failed(run::readable(error.message())))?;
        let running = Arc::new(running);
        *self.current() = Some(Arc::clone(&running));
        Ok(running)
    }

    fn ran(&self, small: bool) {
        if !small {
            *self.large.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

/// A run to be done, whose it is, and what to call when it starts.
type Run<'a> = (&'a Request, &'a Ticket, Box<dyn FnOnce() + Send>);

/// A run that was taken: where its answer will come.
pub(crate) type Submitted = oneshot::Receiver<Result<Done, RunError>>;

/// A run that was not taken, as it was given, and why.
pub(crate) type Returned = (Request, Box<dyn FnOnce() + Send>, Refused);

/// Starts the thread that loads `model`, tells `ready`, and then works until its queue is closed; at last it calls `gone`.
pub(crate) fn start(
    model: Model,
    options: Options,
    source: Source,
    ready: impl FnOnce(Result<Arc<Executor>, LoadError>) + Send + 'static,
    gone: impl FnOnce(&Arc<Executor>) + Send + 'static,
) -> Result<(), LoadError> {
    let name = format!("mayfly-{}", &model.digest.hex()[..8]);
    let work = move || {
        // The binding, too, can panic on a model that it did not foresee.
        let loaded = catch_unwind(AssertUnwindSafe(|| load::load(&model, &options, source)))
            .unwrap_or_else(|_| Err(LoadError::Failed { detail: "the load panicked".to_owned() }));
        match loaded {
            Ok(loaded) => {
                let executor = Arc::new(Executor::new(model, loaded, &options));
                ready(Ok(Arc::clone(&executor)));
                executor.work(&executor.first);
                tracing::info!(model = %executor.model.digest, device = %executor.model.device, "unloaded");
                gone(&executor);
            }
            Err(error) => {
                tracing::warn!(model = %model.digest, ?error, "a model could not be loaded");
                give_memory_back();
                ready(Err(error));
            }
        }
    };
    let started = thread::Builder::new().name(name).spawn(work);
    started.map(drop).map_err(|error| LoadError::Failed { detail: format!("no thread for it: {error}") })
}

/// Starts the thread that loads one more session of what `executor` runs, on a narrow one's threads, tells `ready` its seat and the
/// bytes of its own, and works there until the seat or the executor has gone; at last it calls `gone`.
pub(crate) fn start_beside(
    executor: Arc<Executor>,
    options: Options,
    ready: impl FnOnce(Result<(SeatId, u64), LoadError>) + Send + 'static,
    gone: impl FnOnce() + Send + 'static,
) -> Result<(), LoadError> {
    let name = format!("mayfly-{}", &executor.model.digest.hex()[..8]);
    let options = Options { threads: options.team.narrow_threads().get(), ..options };
    let work = move || {
        let load = || load::load(&executor.model, &options, Source::Best);
        let loaded = catch_unwind(AssertUnwindSafe(load))
            .unwrap_or_else(|_| Err(LoadError::Failed { detail: "the load panicked".to_owned() }));
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::warn!(model = %executor.model.digest, ?error, "one more session could not be loaded");
                give_memory_back();
                return ready(Err(error));
            }
        };
        let bytes = loaded.bytes;
        let Some(seat) = executor.sit(loaded.session, bytes) else {
            return ready(Err(LoadError::Failed { detail: "its model was unloaded meanwhile".to_owned() }));
        };
        tracing::info!(model = %executor.model.digest, load = ?loaded.load, bytes, "one more session loaded");
        ready(Ok((seat.id, bytes)));
        executor.work(&seat);
        executor.beside().remove(&seat.id);
        tracing::info!(model = %executor.model.digest, "one more session unloaded");
        gone();
    };
    let started = thread::Builder::new().name(name).spawn(work);
    started.map(drop).map_err(|error| LoadError::Failed { detail: format!("no thread for it: {error}") })
}

impl Executor {
    /// A seat for one more session, which may be used from here on; none if this is closed.
    fn sit(&self, session: Session, bytes: u64) -> Option<Arc<Seat>> {
        // Whoever takes the seat finds the session: nobody looks while this lock is held.
        let mut beside = self.beside();
        let seat = Seat::new(self.queue.add_seat()?, session, bytes);
        beside.insert(seat.id, Arc::clone(&seat));
        Some(seat)
    }

    fn new(model: Model, loaded: Loaded, options: &Options) -> Self {
        tracing::info!(model = %model.digest, device = %model.device, load = ?loaded.load, bytes = loaded.bytes, copy = loaded.from_copy, unpacked = loaded.unpacked, "loaded");
        Self {
            queue: Queue::new(options.batching, options.team),
            pace: Pace::new(options.inline.filter(|_| model.steady && model.device == Device::Cpu)),
            model,
            first: Seat::new(FIRST, loaded.session, loaded.bytes),
            beside: Mutex::default(),
            crowded: OnceLock::new(),
            pace_ns: AtomicU64::new(0),
            loaded: Instant::now(),
            load: loaded.load,
            from_copy: loaded.from_copy,
            unpacked: loaded.unpacked,
            successor: OnceLock::new(),
            runs: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        }
    }

    /// Queues a run of `owner`. Given back if it was not taken.
    pub(crate) fn submit(
        &self,
        owner: Owner,
        request: Request,
        ticket: &Arc<Ticket>,
        started: Box<dyn FnOnce() + Send>,
    ) -> Result<Submitted, Returned> {
        let (reply, answer) = oneshot::channel();
        let job = Job { request, ticket: Arc::clone(ticket), started, reply, queued: Instant::now() };
        match self.queue.push(owner, job) {
            Ok(displaced) => {
                if let Some(job) = displaced {
                    let _ = job.reply.send(Err(RunError::QueueFull { limit: self.queue_runs_max() }));
                }
                Ok(answer)
            }
            Err(refused) => {
                let (job, why) = *refused;
                Err((job.request, job.started, why))
            }
        }
    }

    /// Runs on the calling thread, if the session is free and a run of this size is known to be short. Given back, and
    /// nothing happened, if not.
    #[expect(clippy::type_complexity, reason = "what was given comes back as it was given")]
    pub(crate) fn run_here(
        &self,
        request: Request,
        ticket: &Ticket,
        started: Box<dyn FnOnce() + Send>,
    ) -> Result<Result<Done, RunError>, (Request, Box<dyn FnOnce() + Send>)> {
        if !self.pace.is_short(request.input_bytes()) {
            return Err((request, started));
        }
        let Some(seat) = self.queue.take_right().and_then(|id| self.seat(id)) else { return Err((request, started)) };
        let mut answers = self.work_on(&seat, vec![(&request, ticket, started)]);
        drop(request);
        self.queue.done(seat.id);
        Ok(answers.pop().unwrap_or(Err(RunError::Stopped { started: false })))
    }

    /// The caller of `ticket` left: a waiting run is dropped, a running one asked to stop. Gives whether it had started.
    pub(crate) fn leave(&self, ticket: &Arc<Ticket>) -> bool {
        let started = ticket.leave();
        if !started
            && !self.queue.forget(ticket)
            && let Some(successor) = self.successor.get()
        {
            successor.queue.forget(ticket);
        }
        started
    }

    /// Stops the current run if the time of all who wait for it is over and nobody did so: their own timers come first
    /// as a rule.
    pub(crate) fn stop_overdue(&self) {
        for seat in self.seats() {
            if let Some(running) = seat.current().clone().filter(|running| running.is_over()) {
                running.stop();
            }
        }
    }

    fn beside(&self) -> MutexGuard<'_, BTreeMap<SeatId, Arc<Seat>>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seats(&self) -> Vec<Arc<Seat>> {
        let mut seats = vec![Arc::clone(&self.first)];
        seats.extend(self.beside().values().cloned());
        seats
    }

    /// The seat with this number; a session is there before its seat can be taken.
    fn seat(&self, id: SeatId) -> Option<Arc<Seat>> {
        if id == FIRST { Some(Arc::clone(&self.first)) } else { self.beside().get(&id).cloned() }
    }

    /// Calls `crowded` whenever one more session would have paid for its load.
    pub(crate) fn on_crowd(&self, crowded: impl Fn(Why) + Send + Sync + 'static) {
        let _ = self.crowded.set(Crowded(Box::new(crowded)));
    }

    /// Whether runs are so short that a second one at the same time takes nothing from the first.
    pub(crate) fn is_brisk(&self) -> bool {
        Duration::from_nanos(self.pace_ns.load(Ordering::Relaxed)) <= BRISK_RUN
    }

    /// Since nobody has worked on the session beside the first one; none while somebody does.
    pub(crate) fn seat_idle(&self, seat: SeatId) -> Option<Duration> {
        self.queue.seat_idle(seat)
    }

    /// Lets a session beside the first one go, if nobody works on it, and tells whether it did.
    pub(crate) fn remove_seat(&self, seat: SeatId) -> bool {
        seat != FIRST && self.queue.remove_seat(seat)
    }

    /// Takes no more work; the session is dropped after the current run.
    pub(crate) fn close(&self) {
        self.queue.close();
    }

    /// Takes no more work and gives what waits to `successor`, which nobody else knows yet; the session is dropped after
    /// the current run. False if it was closed before.
    pub(crate) fn hand_over(&self, successor: &Arc<Self>) -> bool {
        // Before the jobs go: who leaves meanwhile finds them.
        self.successor.set(Arc::clone(successor)).is_ok() && self.queue.hand_over(&successor.queue)
    }

    /// Closes it if it was loaded at least `stay` ago and has been without work for `idle`.
    pub(crate) fn close_if_idle(&self, stay: Duration, idle: Duration) -> bool {
        self.loaded.elapsed() >= stay && self.queue.close_if_idle(idle)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Since its last run ended; none while it works.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.queue.idle()
    }

    /// Whether it runs on the package's files with no weight packed.
    pub(crate) fn unpacked(&self) -> bool {
        self.unpacked
    }

    /// Whether it runs on the package though a prepacked copy could be had.
    pub(crate) fn wants_copy(&self) -> bool {
        self.model.copy.is_some() && !self.from_copy
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Resident bytes that the load of its first session added.
    pub(crate) fn bytes(&self) -> u64 {
        self.first.bytes
    }

    pub(crate) fn load(&self) -> Duration {
        self.load
    }

    /// Runs that may wait at once.
    pub(crate) fn queue_runs_max(&self) -> u32 {
        u32::try_from(self.queue.runs_max()).unwrap_or(u32::MAX)
    }

    /// What operators see of it.
    pub(crate) fn resident(&self) -> Resident {
        let seats = self.seats();
        Resident {
            digest: self.model.digest,
            device: self.device(),
            idle: self.idle(),
            load: self.load,
            runs: self.runs.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            bytes: seats.iter().map(|seat| seat.bytes).sum(),
            sessions: u32::try_from(seats.len()).unwrap_or(u32::MAX),
        }
    }

    fn device(&self) -> Device {
        self.model.device
    }

    /// A session's thread's life after the load.
    fn work(&self, seat: &Seat) {
        while let Some(taken) = self.queue.next(seat.id, self.load) {
            if let Some(why) = taken.crowded
                && let Some(Crowded(call)) = self.crowded.get()
            {
                call(why);
            }
            self.serve(seat, taken.jobs);
        }
        let session = seat.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(session);
        give_memory_back();
    }

    /// Does `jobs`, as one run of the graph if they are several. Whoever calls this has the right to work; it ends here.
    fn serve(&self, seat: &Seat, jobs: Vec<Job>) {
        let began = Instant::now();
        let mut parts = Vec::with_capacity(jobs.len());
        let mut replies = Vec::with_capacity(jobs.len());
        for Job { request, ticket, started, reply, queued } in jobs {
            parts.push((request, ticket, started));
            replies.push((reply, began.saturating_duration_since(queued)));
        }
        let mut inputs = Vec::with_capacity(parts.len());
        let runs = parts.into_iter().map(|(request, ticket, started)| {
            inputs.push((request, ticket));
            started
        });
        let started: Vec<_> = runs.collect();
        let runs = inputs.iter().zip(started).map(|((request, ticket), started)| (request, &**ticket, started));
        let answers = self.work_on(seat, runs.collect());
        // Inputs go before anybody is told, so that a caller who counts live memory sees them gone.
        drop(inputs);
        self.queue.done(seat.id);
        for (answer, (reply, queue)) in answers.into_iter().zip(replies) {
            // Nobody there to hear it is nothing to do about.
            let _ = reply.send(answer.map(|done| Done { queue, ..done }));
        }
    }

    /// Runs these as one run of the graph; gives an answer for each, in their order. Whoever calls this has the right to
    /// work.
    fn work_on(&self, seat: &Seat, runs: Vec<Run<'_>>) -> Vec<Result<Done, RunError>> {
        let count = runs.len();
        let tickets: Vec<&Ticket> = runs.iter().map(|(_, ticket, _)| *ticket).collect();
        let answers = catch_unwind(AssertUnwindSafe(|| self.run(seat, runs))).unwrap_or_else(|_| {
            // What the panic left of the session is unknown: it is not used again.
            tracing::error!(model = %self.model.digest, "a run panicked; its session is dropped");
            self.queue.close();
            (0..count).map(|_| Err(RunError::Failed("the host failed while it ran this model".to_owned()))).collect()
        });
        *seat.current() = None;
        // A graph of one node runs to its end whatever it was asked, and an error then says only that it was stopped.
        let overdue = |ticket: &Ticket, answer| match answer {
            Ok(_) | Err(RunError::Failed(_)) if ticket.is_overdue() => Err(RunError::Stopped { started: true }),
            answer => answer,
        };
        tickets.into_iter().zip(answers).map(|(ticket, answer)| overdue(ticket, answer)).collect()
    }

    fn run(&self, seat: &Seat, runs: Vec<Run<'_>>) -> Vec<Result<Done, RunError>> {
        let mut session = seat.session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(session) = session.as_mut() else {
            let gone = || RunError::Load(LoadError::Failed { detail: "its session is gone".to_owned() });
            return runs.iter().map(|_| Err(gone())).collect();
        };
        let latest = runs.iter().map(|(_, ticket, _)| ticket.deadline()).max().unwrap_or_else(Instant::now);
        let running = match seat.running(runs.len(), latest) {
            Ok(running) => running,
            Err(error) => return runs.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut answers: Vec<Result<Done, RunError>> =
            runs.iter().map(|_| Err(RunError::Stopped { started: false })).collect();
        let mut begun = Vec::with_capacity(runs.len());
        for (at, (request, ticket, started)) in runs.into_iter().enumerate() {
            if ticket.start(&running, started) {
                begun.push((at, request, ticket));
            }
        }
        match begun.as_slice() {
            [] => {}
            [(at, request, _)] => answers[*at] = self.run_one(seat, session, request, &running),
            several => {
                let requests: Vec<&Request> = several.iter().map(|(_, request, _)| *request).collect();
                match self.run_several(seat, session, &requests, &running) {
                    Ok(done) => several.iter().zip(done).for_each(|((at, ..), done)| answers[*at] = done),
                    Err(error) => {
                        // One of them may have spoiled it, and must not for the others.
                        tracing::debug!(model = %self.model.digest, ?error, "a joined run failed; each runs alone");
                        for (at, request, ticket) in several {
                            answers[*at] = match seat.running(1, ticket.deadline()) {
                                Ok(running) if ticket.start_again(&running) => {
                                    self.run_one(seat, session, request, &running)
                                }
                                Ok(_) => Err(RunError::Stopped { started: true }),
                                Err(error) => Err(error),
                            };
                        }
                    }
                }
            }
        }
        self.runs.fetch_add(begun.len() as u64, Ordering::Relaxed);
        answers
    }

    fn run_one(
        &self,
        seat: &Seat,
        session: &mut Session,
        request: &Request,
        running: &Running,
    ) -> Result<Done, RunError> {
        let done = run::run(session, request, running.options());
        // One that failed may have failed because of what it made.
        let small = done.as_ref().is_ok_and(|done| is_small(request.input_bytes(), done.bytes, done.run));
        self.ran(seat, small);
        if let Ok(done) = &done {
            self.noted(done.run);
            self.pace.took(request.input_bytes(), done.run);
        }
        done
    }

    fn run_several(
        &self,
        seat: &Seat,
        session: &mut Session,
        requests: &[&Request],
        running: &Running,
    ) -> Result<Vec<Result<Done, RunError>>, RunError> {
        let done = run::run_joined(session, requests, running.options());
        let inputs = requests.iter().map(|request| request.input_bytes()).sum();
        let outputs = done.iter().flatten().flatten().map(|done| done.bytes).sum();
        let failed = !done.as_ref().is_ok_and(|all| all.iter().all(Result::is_ok));
        let run = done.iter().flatten().flatten().map(|done| done.run).max().unwrap_or_default();
        self.ran(seat, !failed && is_small(inputs, outputs, run));
        done
    }

    fn ran(&self, seat: &Seat, small: bool) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        seat.ran(small);
    }

    /// A run took this long: an eighth of the measure. Two sessions at once may lose one of two, which is as good.
    fn noted(&self, run: Duration) {
        let run = u64::try_from(run.as_nanos()).unwrap_or(u64::MAX);
        let before = self.pace_ns.load(Ordering::Relaxed);
        let now = if before == 0 { run } else { before - before / 8 + run / 8 };
        self.pace_ns.store(now, Ordering::Relaxed);
    }
}

/// Whether a run leaves no arena worth shrinking.
fn is_small(input_bytes: u64, output_bytes: u64, run: Duration) -> bool {
    input_bytes.saturating_add(output_bytes) <= LARGE_RUN_BYTES && run < LONG_RUN
}

/// Asks the C allocator to give free memory back to the system: ONNX Runtime allocates through it.
pub(crate) fn give_memory_back() {
    shelf::clear();
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes the allocator's own locks and touches only memory that is free.
        #[expect(unsafe_code, reason = "glibc has no other way")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
