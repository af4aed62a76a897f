//! One loaded model: its session, its queue, and the thread that owns them from load to drop.

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
use super::queue::{Job, Queue, Refused};
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

/// One loaded model. Shared by everybody who runs it.
#[derive(Debug)]
pub(crate) struct Executor {
    model: Model,
    queue: Queue,
    /// Which runs are short enough for the caller's own thread.
    pace: Pace,
    /// Taken by whoever has the queue's right to work, so nobody ever waits for it. None once it was dropped.
    session: Mutex<Option<Session>>,
    /// The run that is being worked on, for the watchdog.
    current: Mutex<Option<Arc<Running>>>,
    loaded: Instant,
    load: Duration,
    bytes: u64,
    from_copy: bool,
    unpacked: bool,
    /// Who took over what waited here.
    successor: OnceLock<Arc<Self>>,
    /// Runs of callers.
    runs: AtomicU64,
    /// Runs of the graph: several callers' runs may have been one.
    batches: AtomicU64,
    /// When the arena last grew large, if it was not shrunk since.
    large: Mutex<Option<Instant>>,
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
                executor.work();
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

impl Executor {
    fn new(model: Model, loaded: Loaded, options: &Options) -> Self {
        tracing::info!(model = %model.digest, device = %model.device, load = ?loaded.load, bytes = loaded.bytes, copy = loaded.from_copy, unpacked = loaded.unpacked, "loaded");
        Self {
            queue: Queue::new(options.batching),
            pace: Pace::new(options.inline.filter(|_| model.steady && model.device == Device::Cpu)),
            model,
            session: Mutex::new(Some(loaded.session)),
            current: Mutex::new(None),
            loaded: Instant::now(),
            load: loaded.load,
            bytes: loaded.bytes,
            from_copy: loaded.from_copy,
            unpacked: loaded.unpacked,
            successor: OnceLock::new(),
            runs: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            large: Mutex::new(None),
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
        if !self.pace.is_short(request.input_bytes()) || !self.queue.take_right() {
            return Err((request, started));
        }
        let mut answers = self.work_on(vec![(&request, ticket, started)]);
        drop(request);
        self.queue.done();
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
        if let Some(running) = self.current().clone().filter(|running| running.is_over()) {
            running.stop();
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Running>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Resident bytes that its load added.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
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
        Resident {
            digest: self.model.digest,
            device: self.device(),
            idle: self.idle(),
            load: self.load,
            runs: self.runs.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            bytes: self.bytes,
        }
    }

    fn device(&self) -> Device {
        self.model.device
    }

    /// The thread's life after the load.
    fn work(&self) {
        while let Some(jobs) = self.queue.next() {
            self.serve(jobs);
        }
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(session);
        give_memory_back();
        tracing::info!(model = %self.model.digest, device = %self.model.device, "unloaded");
    }

    /// Does `jobs`, as one run of the graph if they are several. Whoever calls this has the right to work; it ends here.
    fn serve(&self, jobs: Vec<Job>) {
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
        let answers = self.work_on(runs.collect());
        // Inputs go before anybody is told, so that a caller who counts live memory sees them gone.
        drop(inputs);
        self.queue.done();
        for (answer, (reply, queue)) in answers.into_iter().zip(replies) {
            // Nobody there to hear it is nothing to do about.
            let _ = reply.send(answer.map(|done| Done { queue, ..done }));
        }
    }

    /// Runs these as one run of the graph; gives an answer for each, in their order. Whoever calls this has the right to
    /// work.
    fn work_on(&self, runs: Vec<Run<'_>>) -> Vec<Result<Done, RunError>> {
        let count = runs.len();
        let tickets: Vec<&Ticket> = runs.iter().map(|(_, ticket, _)| *ticket).collect();
        let answers = catch_unwind(AssertUnwindSafe(|| self.run(runs))).unwrap_or_else(|_| {
            // What the panic left of the session is unknown: it is not used again.
            tracing::error!(model = %self.model.digest, "a run panicked; its session is dropped");
            self.queue.close();
            (0..count).map(|_| Err(RunError::Failed("the host failed while it ran this model".to_owned()))).collect()
        });
        *self.current() = None;
        // A graph of one node runs to its end whatever it was asked, and an error then says only that it was stopped.
        let overdue = |ticket: &Ticket, answer| match answer {
            Ok(_) | Err(RunError::Failed(_)) if ticket.is_overdue() => Err(RunError::Stopped { started: true }),
            answer => answer,
        };
        tickets.into_iter().zip(answers).map(|(ticket, answer)| overdue(ticket, answer)).collect()
    }

    fn run(&self, runs: Vec<Run<'_>>) -> Vec<Result<Done, RunError>> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(session) = session.as_mut() else {
            let gone = || RunError::Load(LoadError::Failed { detail: "its session is gone".to_owned() });
            return runs.iter().map(|_| Err(gone())).collect();
        };
        let latest = runs.iter().map(|(_, ticket, _)| ticket.deadline()).max().unwrap_or_else(Instant::now);
        let running = match self.running(runs.len(), latest) {
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
            [(at, request, _)] => answers[*at] = self.run_one(session, request, &running),
            several => {
                let requests: Vec<&Request> = several.iter().map(|(_, request, _)| *request).collect();
                match self.run_several(session, &requests, &running) {
                    Ok(done) => several.iter().zip(done).for_each(|((at, ..), done)| answers[*at] = done),
                    Err(error) => {
                        // One of them may have spoiled it, and must not for the others.
                        tracing::debug!(model = %self.model.digest, ?error, "a joined run failed; each runs alone");
                        for (at, request, ticket) in several {
                            answers[*at] = match self.running(1, ticket.deadline()) {
                                Ok(running) if ticket.start_again(&running) => self.run_one(session, request, &running),
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

    fn run_one(&self, session: &mut Session, request: &Request, running: &Running) -> Result<Done, RunError> {
        let done = run::run(session, request, running.options());
        // One that failed may have failed because of what it made.
        let small = done.as_ref().is_ok_and(|done| is_small(request.input_bytes(), done.bytes, done.run));
        self.ran(small);
        if let Ok(done) = &done {
            self.pace.took(request.input_bytes(), done.run);
        }
        done
    }

    fn run_several(
        &self,
        session: &mut Session,
        requests: &[&Request],
        running: &Running,
    ) -> Result<Vec<Result<Done, RunError>>, RunError> {
        let done = run::run_joined(session, requests, running.options());
        let inputs = requests.iter().map(|request| request.input_bytes()).sum();
        let outputs = done.iter().flatten().flatten().map(|done| done.bytes).sum();
        let failed = !done.as_ref().is_ok_and(|all| all.iter().all(Result::is_ok));
        let run = done.iter().flatten().flatten().map(|done| done.run).max().unwrap_or_default();
        self.ran(!failed && is_small(inputs, outputs, run));
        done
    }

    fn ran(&self, small: bool) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        if !small {
            *self.large.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
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
