//! One loaded model: its session, its queue, and the thread that owns them from load to drop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ort::session::Session;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::load::{self, Loaded, Model, Options, Source};
use super::queue::{Job, Queue, Refused};
use super::run::{self, Done, Request};
use super::ticket::Ticket;
use crate::{Device, LoadError, Resident, RunError};

/// A run that moved more than this leaves an arena worth shrinking.
const LARGE_RUN_BYTES: u64 = 8 << 20;
/// So long after the last large run, the next run shrinks the arena. A steady load of large runs never pays for it.
const SHRINK_AFTER: Duration = Duration::from_secs(5);

/// One loaded model. Shared by everybody who runs it.
#[derive(Debug)]
pub(crate) struct Executor {
    model: Model,
    queue: Queue,
    runs_max: u32,
    /// Taken by whoever has the queue's right to work, so nobody ever waits for it. None once it was dropped.
    session: Mutex<Option<Session>>,
    /// The run that is being worked on, for the watchdog.
    current: Mutex<Option<Arc<Ticket>>>,
    loaded: Instant,
    load: Duration,
    bytes: u64,
    from_copy: bool,
    /// Who took over what waited here.
    successor: OnceLock<Arc<Self>>,
    runs: AtomicU64,
    /// When the arena last grew large, if it was not shrunk since.
    large: Mutex<Option<Instant>>,
}

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
                let executor = Arc::new(Executor::new(model, loaded, options.queue_runs_max));
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
    fn new(model: Model, loaded: Loaded, runs_max: u32) -> Self {
        tracing::info!(model = %model.digest, device = %model.device, load = ?loaded.load, bytes = loaded.bytes, copy = loaded.from_copy, "loaded");
        Self {
            model,
            queue: Queue::new(runs_max),
            runs_max,
            session: Mutex::new(Some(loaded.session)),
            current: Mutex::new(None),
            loaded: Instant::now(),
            load: loaded.load,
            bytes: loaded.bytes,
            from_copy: loaded.from_copy,
            successor: OnceLock::new(),
            runs: AtomicU64::new(0),
            large: Mutex::new(None),
        }
    }

    /// A ticket for a run on this executor.
    pub(crate) fn ticket(&self, deadline: Instant, cancel: &CancellationToken) -> Result<Ticket, RunError> {
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let shrink = large.take_if(|at| at.elapsed() >= SHRINK_AFTER).is_some();
        drop(large);
        Ticket::new(deadline, cancel.clone(), shrink).map_err(|error| RunError::Failed(run::readable(error.message())))
    }

    /// Queues a run. Given back if it was not taken.
    pub(crate) fn submit(
        &self,
        request: Request,
        ticket: &Arc<Ticket>,
        started: Box<dyn FnOnce() + Send>,
    ) -> Result<Submitted, Returned> {
        let (reply, answer) = oneshot::channel();
        let job = Job { request, ticket: Arc::clone(ticket), started, reply, queued: Instant::now() };
        match self.queue.push(job) {
            Ok(()) => Ok(answer),
            Err((job, why)) => Err((job.request, job.started, why)),
        }
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

    /// Stops the current run if its time is over and nobody did so: the caller's own timer comes first as a rule.
    pub(crate) fn stop_overdue(&self) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(ticket) = current.filter(|ticket| ticket.is_overdue()) {
            ticket.stop();
        }
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

    /// Since its load ended.
    pub(crate) fn age(&self) -> Duration {
        self.loaded.elapsed()
    }

    /// Since its last run ended; none while it works.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.queue.idle()
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
        self.runs_max
    }

    /// What operators see of it.
    pub(crate) fn resident(&self) -> Resident {
        Resident {
            digest: self.model.digest,
            device: self.device(),
            idle: self.idle(),
            load: self.load,
            runs: self.runs.load(Ordering::Relaxed),
            bytes: self.bytes,
        }
    }

    fn device(&self) -> Device {
        self.model.device
    }

    /// The thread's life after the load.
    fn work(&self) {
        while let Some(job) = self.queue.next() {
            self.serve(job);
        }
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(session);
        give_memory_back();
        tracing::info!(model = %self.model.digest, device = %self.model.device, "unloaded");
    }

    /// Does one job. Its caller has the right to work; it ends here.
    fn serve(&self, job: Job) {
        let Job { request, ticket, started, reply, queued } = job;
        let queue = queued.elapsed();
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&ticket));
        let result = catch_unwind(AssertUnwindSafe(|| self.run(&request, &ticket, started)));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let result = result.unwrap_or_else(|_| {
            // What the panic left of the session is unknown: it is not used again.
            tracing::error!(model = %self.model.digest, "a run panicked; its session is dropped");
            self.queue.close();
            Err(RunError::Failed("the host failed while it ran this model".to_owned()))
        });
        // Inputs go before anybody is told, so that a caller who counts live memory sees them gone.
        drop(request);
        self.queue.done();
        // Nobody there to hear it is nothing to do about.
        let _ = reply.send(result.map(|done| Done { queue, ..done }));
    }

    fn run(&self, request: &Request, ticket: &Ticket, started: Box<dyn FnOnce() + Send>) -> Result<Done, RunError> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(session) = session.as_mut() else {
            return Err(RunError::Load(LoadError::Failed { detail: "its session is gone".to_owned() }));
        };
        if !ticket.start(started) {
            return Err(RunError::Stopped { started: false });
        }
        let result = run::run(session, request, ticket.options());
        self.runs.fetch_add(1, Ordering::Relaxed);
        if request.input_bytes() + result.as_ref().map_or(0, |done| done.bytes) > LARGE_RUN_BYTES {
            *self.large.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        // A graph of one node runs to its end whatever it was asked, and an error then says only that it was stopped.
        if ticket.is_overdue() { Err(RunError::Stopped { started: true }) } else { result }
    }
}

/// Asks the C allocator to give free memory back to the system: ONNX Runtime allocates through it.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes the allocator's own locks and touches only memory that is free.
        #[expect(unsafe_code, reason = "glibc has no other way")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
