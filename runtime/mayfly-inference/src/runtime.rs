//! The handle to ONNX Runtime and to everything loaded through it.

mod clock;
#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]
pub(crate) mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_scheduler::residency::Fit;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use self::clock::Bell;
use crate::generation::{self, Engine, NotTaken, Rejected, Turns};
use crate::residency::Residents;
use crate::session::{Done, Executor, Model, Options, Pool, Refused, Request, Ticket};
use crate::worker::Workers;
use crate::{
    Config, Copies, CopySettings, DecoderInfo, Device, EngineLoad, Generation, GenerationError, GenerationRequest,
    Keep, KeepError, LoadError, Needs, Output, Package, Prepared, Prompt, PromptError, Reservation, Residency,
    RunError, StartError, Uses, WorkerError, WorkerSettings, WorkersState, library,
};

/// What `mayfly doctor` and `/api/v1/node` show of the library.
#[derive(Debug, Clone)]
pub struct RuntimeInfo {
    /// For example `1.31.1`.
    pub version: String,
    /// Where the library was found (for the operator only).
    pub dylib: std::path::PathBuf,
    /// Providers compiled into it.
    pub providers: Vec<String>,
}

impl RuntimeInfo {
    /// Whether it knows GPUs.
    pub fn has_cuda(&self) -> bool {
        self.providers.iter().any(|provider| provider.contains("CUDA"))
    }
}

/// Where the time of a run went.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunStats {
    /// Waiting for the executor.
    pub queue: Duration,
    /// Waiting for the model to be loaded; none if it was.
    pub load: Option<Duration>,
    /// Inside ONNX Runtime.
    pub run: Duration,
    /// The part of `run` that is this caller's, where several callers shared the run.
    pub share: Duration,
}

/// Who asks for a run, and until when.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The tenant: runs of one model are shared out fairly among tenants.
    pub owner: u128,
    /// When the answer must be there.
    pub deadline: Instant,
    /// Cancelled when nobody waits for it any more.
    pub cancel: &'a CancellationToken,
}

/// ONNX Runtime, opened once, and the executors of all loaded models. Clones share it.
#[derive(Debug, Clone)]
pub struct Inference(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    info: RuntimeInfo,
    output_bytes_max: u64,
    residents: Arc<Residents>,
    copies: Option<Copies>,
    /// To compile constraints.
    turns: Turns,
    /// Processes for tenants' own models.
    workers: Option<Workers>,
    bell: Bell,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.bell.stop();
    }
}

impl Inference {
    /// Opens the shared library (telemetry off) and starts the thread that drops idle sessions.
    ///
    /// A process has one ONNX Runtime: several `Inference` in it share the library, and nothing else.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, None, None)
    }

    /// As [`Inference::start`], with prepacked copies of models where `config.prepack` is on, and with processes for
    /// tenants' own models.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_with(
        config: Config,
        copies: Option<CopySettings>,
        workers: Option<WorkerSettings>,
    ) -> Result<Self, StartError> {
        let open = |config: &Config, library: &RuntimeInfo| {
            let copies = copies.map(|settings| Copies::open(settings, config, library)).transpose();
            copies.map_err(|error| StartError::Unusable(format!("the folder of prepacked copies: {error}")))
        };
        Self::start_on(config, open, workers)
    }

    /// A worker's, with the copies that the server brings into its room.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) fn start_in_room(config: Config, room: &Path) -> Result<Self, StartError> {
        Self::start_on(config, |_, _| Ok(Some(Copies::in_room(room))), None)
    }

    fn start_on(
        config: Config,
        copies: impl FnOnce(&Config, &RuntimeInfo) -> Result<Option<Copies>, StartError>,
        workers: Option<WorkerSettings>,
    ) -> Result<Self, StartError> {
        config.validate().map_err(|problems| StartError::Unusable(problems.join("; ")))?;
        let threads = config.threads();
        let library = library::open(&config, threads)?;
        let info = library.info.clone();
        let copies = copies(&config, &info)?;
        let options = Options {
            library,
            threads,
            batching: config.batching(),
            team: config.team(),
            inline: config.inline(),
            copies: copies.clone(),
            pool: Pool::Shared,
            logits: None,
        };
        let bell = Bell::default();
        let residents = Arc::new(Residents::new(&config, options, Box::new(bell.clone())));
        clock::start(Arc::downgrade(&residents), bell.clone())
            .map_err(|error| StartError::Unusable(format!("no thread for the idle clock: {error}")))?;
        let turns = Turns::new(config.constraint_compiles(), config.generation_waiting_max);
        let bounds = config.generation_bounds();
        let workers =
            workers.map(|settings| Workers::new(settings, bounds, info.dylib.clone(), copies.clone())).transpose()?;
        let output_bytes_max = config.output_bytes_max;
        Ok(Self(Arc::new(Inner { info, output_bytes_max, residents, copies, turns, workers, bell })))
    }

    /// Version, place and providers.
    pub fn info(&self) -> &RuntimeInfo {
        &self.0.info
    }

    /// This node's prepacked copies, for imports and for whoever removes packages; none without a folder for them.
    pub fn copies(&self) -> Option<&Copies> {
        self.0.copies.as_ref()
    }

    /// The most bytes the outputs of one run may take on this node: whoever prepares a run stays within it.
    pub fn output_bytes_max(&self) -> u64 {
        self.0.output_bytes_max
    }

    /// Runs what was prepared: loads the model if it is not loaded (once, however many ask), queues, runs. Runs that wait
    /// together are joined where the graph allows it; each gets its own rows. A run known to be very short is done on the
    /// calling thread when the session is free.
    ///
    /// `started` is called exactly once, on the thread that runs, when nothing can keep the run from being owed any
    /// more: just before ONNX Runtime begins. It is not called if nothing ran. Dropping the future stops waiting and
    /// asks a running graph to stop; its buffers live until ONNX Runtime has returned.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn run(
        &self,
        package: &Arc<Package>,
        device: Device,
        prepared: Prepared,
        caller: Caller<'_>,
        started: impl FnOnce() + Send + 'static,
    ) -> Result<(Vec<Output>, RunStats), RunError> {
        self.run_model(package.model(device), prepared.into_request(), caller, Box::new(started)).await
    }

    /// As [`Inference::run`], in the process of the caller's owner, which is started if it is not there: for packages that
    /// nobody has vouched for.
    ///
    /// # Errors
    /// [`RunError`]; [`RunError::Worker`] if the process gave nothing.
    pub async fn run_apart(
        &self,
        package: &Arc<Package>,
        device: Device,
        prepared: Prepared,
        caller: Caller<'_>,
        started: impl FnOnce() + Send + 'static,
    ) -> Result<(Vec<Output>, RunStats), RunError> {
        let workers = self.0.workers.as_ref().ok_or(WorkerError::None)?;
        workers.run(package, device, prepared.into_request(), caller, Box::new(started)).await
    }

    /// As [`Package::prompt`], in the process of the caller's owner: a template is a program of whoever brought the model.
    ///
    /// # Errors
    /// [`PromptError`].
    pub async fn prompt_apart(
        &self,
        package: &Arc<Package>,
        device: Device,
        prompt: &Prompt,
        caller: Caller<'_>,
    ) -> Result<(Vec<u32>, RunStats), PromptError> {
        let workers = self.0.workers.as_ref().ok_or(RunError::Worker(WorkerError::None))?;
        workers.prompt(package, device, prompt, caller).await
    }

    /// As [`Inference::generate`], in the process of the request's owner: the engine, with all that it makes of the request,
    /// is there. Its account is told here: input when the process says that the prompt begins to run, each token before it
    /// can be read, and the time as it is measured here.
    ///
    /// # Errors
    /// [`GenerationError`]; [`GenerationError::Worker`], also later, if the process ended.
    pub async fn generate_apart(
        &self,
        package: &Arc<Package>,
        device: Device,
        request: GenerationRequest,
    ) -> Result<Generation, GenerationError> {
        let decoder = package.info().decoder.as_ref().ok_or(GenerationError::NotADecoder)?;
        generation::check(decoder, &request)?;
        let workers = self.0.workers.as_ref().ok_or(WorkerError::None)?;
        workers.generate(package, decoder, device, &request).await
    }

    pub(crate) async fn run_model(
        &self,
        model: Model,
        mut request: Request,
        caller: Caller<'_>,
        mut started: Box<dyn FnOnce() + Send>,
    ) -> Result<(Vec<Output>, RunStats), RunError> {
        let Caller { owner, deadline, cancel } = caller;
        let mut load = None;
        loop {
            let executor = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(LoadError::Deadline.into()),
                executor = self.executor(&model, deadline, &mut load) => executor?,
            };
            let ticket = Arc::new(Ticket::new(deadline, cancel.clone()));
            (request, started) = match executor.run_here(request, &ticket, started) {
                Ok(answer) => return answer.map(|done| done.with_load(load)),
                Err(given_back) => given_back,
            };
            // From here on, however this ends, a run that nobody waits for is dropped or stopped.
            let mut stay = Stay { executor: &executor, ticket: &ticket, over: false };
            let answer = match executor.submit(owner, request, &ticket, started) {
                Ok(answer) => answer,
                Err((_, _, Refused::Full)) => return Err(RunError::QueueFull { limit: executor.queue_runs_max() }),
                // Dropped between our claim and now. It is loaded again.
                Err((given_back, callback, Refused::Closed)) => {
                    (request, started) = (given_back, callback);
                    stay.over = true;
                    continue;
                }
            };
            let answer = tokio::select! {
                biased;
                answer = answer => answer,
                () = cancel.cancelled() => return Err(RunError::Stopped { started: stay.leave() }),
                () = sleep_until(deadline.into()) => return Err(RunError::Stopped { started: stay.leave() }),
            };
            stay.over = true;
            return match answer {
                Ok(result) => result.map(|done| done.with_load(load)),
                // The queue was closed over it: it never began.
                Err(_) => Err(LoadError::Failed { detail: "its executor was stopped".to_owned() }.into()),
            };
        }
    }

    /// Sets room aside for `keeper` (a deployment, say) to keep `models` loaded instead of what it keeps now.
    ///
    /// # Errors
    /// [`KeepError`], and nothing is set aside.
    pub fn reserve(&self, keeper: u128, models: Vec<Keep>) -> Result<Reservation, KeepError> {
        self.0.residents.reserve(keeper, models)
    }

    /// Keeps `models` loaded for `keeper` instead of what it kept before; nothing, without any. They are loaded in the
    /// background, and again whenever one has gone. Does not block.
    ///
    /// # Errors
    /// [`KeepError`], and nothing is kept for it any more.
    pub fn keep(&self, keeper: u128, models: Vec<Keep>) -> Result<(), KeepError> {
        self.0.residents.keep(keeper, models)
    }

    /// Whether the package is kept loaded on this device by anybody.
    pub fn is_kept(&self, digest: mayfly_types::Digest, device: Device) -> bool {
        self.0.residents.is_kept((digest, device))
    }

    /// Whether what `uses` needs of the package could be loaded on `device` now. Nothing is loaded for the answer.
    ///
    /// # Errors
    /// [`LoadError::NeverFits`] if it is more than this host keeps in memory, or [`LoadError::NoDevice`].
    pub fn fit(&self, package: &Package, device: Device, uses: Uses) -> Result<Fit, LoadError> {
        let decoder = package.info().decoder.as_ref().filter(|_| uses.generates);
        self.fit_model(&package.model(device), decoder)
    }

    pub(crate) fn fit_model(&self, model: &Model, decoder: Option<&DecoderInfo>) -> Result<Fit, LoadError> {
        self.0.residents.fit(model, decoder)
    }

    /// What loading the package takes on each device that there is, its engine included if it generates, and whether it could
    /// be had now. Nothing is loaded for the answer.
    pub fn needs(&self, package: &Package) -> Vec<Needs> {
        let decoder = package.info().decoder.as_ref();
        let of = |device| self.0.residents.needs(&package.model(device), decoder).ok();
        Device::ALL.into_iter().filter_map(of).collect()
    }

    /// Loads without running (for tests).
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, package: &Arc<Package>, device: Device, deadline: Instant) -> Result<Duration, LoadError> {
        self.load_model(package.model(device), deadline).await
    }

    pub(crate) async fn load_model(&self, model: Model, deadline: Instant) -> Result<Duration, LoadError> {
        Ok(self.executor(&model, deadline, &mut None).await?.load())
    }

    /// The executor of `model`, once it is loaded. What the wait for that took is added to `load`.
    async fn executor(
        &self,
        model: &Model,
        deadline: Instant,
        load: &mut Option<Duration>,
    ) -> Result<Arc<Executor>, LoadError> {
        let began = Instant::now();
        let claim = self.0.residents.claim(model.clone(), deadline)?;
        let waits = !claim.is_ready();
        let executor = claim.loaded(deadline).await;
        if waits {
            *load = Some(load.unwrap_or_default() + began.elapsed());
        }
        executor
    }

    /// The engine of `model`, once it is loaded.
    async fn engine(&self, model: Model, decoder: &DecoderInfo, deadline: Instant) -> Result<Arc<Engine>, LoadError> {
        self.0.residents.claim_engine(model, decoder, deadline)?.loaded(deadline).await
    }

    /// Loads the engine of a decoder without generating (for tests).
    ///
    /// # Errors
    /// [`GenerationError::NotADecoder`] or [`GenerationError::Load`].
    pub async fn load_generation(
        &self,
        package: &Arc<Package>,
        device: Device,
        deadline: Instant,
    ) -> Result<(), GenerationError> {
        let decoder = package.info().decoder.as_ref().ok_or(GenerationError::NotADecoder)?;
        Ok(self.engine(package.model(device), decoder, deadline).await.map(drop)?)
    }

    /// Starts a generation: loads the model's engine if it is not loaded (once, however many ask), queues, and gives the
    /// reader's end at once; tokens come as they are made.
    ///
    /// # Errors
    /// [`GenerationError`]: what is wrong with the request, or why it cannot start. Nothing ran.
    pub async fn generate(
        &self,
        package: &Arc<Package>,
        device: Device,
        request: GenerationRequest,
    ) -> Result<Generation, GenerationError> {
        let decoder = package.info().decoder.as_ref().ok_or(GenerationError::NotADecoder)?;
        generation::check(decoder, &request)?;
        let (deadline, cancel) = (request.deadline, request.cancel.clone());
        let first = self.0.residents.sequence_numbers(request.choices);
        // Without a constraint nothing can be wrong with it any more: the load begins beside the preparation.
        let _begun = match request.options.constraint {
            Some(_) => None,
            None => match self.0.residents.claim_engine(package.model(device), decoder, deadline) {
                Err(LoadError::Deadline) => return Err(GenerationError::Stopped),
                claim => Some(claim?),
            },
        };
        // Off the async threads: the tokenizer may have to be loaded, and a constraint compiled.
        let made = async {
            let turn = match request.options.constraint {
                Some(_) => Some(self.0.turns.take(request.owner).await?),
                None => None,
            };
            let package = Arc::clone(package);
            let made = tokio::task::spawn_blocking(move || {
                let _until_it_is_made = turn;
                generation::job(&package, request, first)
            });
            made.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a generation could not be prepared");
                Err(GenerationError::Failed("the host failed while it prepared the request".to_owned()))
            })
        };
        let stopped = async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = sleep_until(deadline.into()) => {}
            }
        };
        let started = async {
            let (mut job, mut answer) = made.await?;
            loop {
                let engine = self.engine(package.model(device), decoder, deadline).await?;
                let generation = engine.generation(&job);
                match engine.submit(job) {
                    Ok(()) => {}
                    // Dropped between our claim and now. It is loaded again.
                    Err((given_back, NotTaken::Closed)) => {
                        generation.let_go();
                        job = given_back;
                        continue;
                    }
                    Err((_, NotTaken::Full { limit })) => return Err(GenerationError::Busy { waiting: limit, limit }),
                }
                match answer.await {
                    Ok(Ok(())) => return Ok(generation),
                    Ok(Err(Rejected::For(error))) => return Err(error),
                    Ok(Err(Rejected::Closed(given_back))) => {
                        generation.let_go();
                        job = given_back;
                        answer = job.again();
                    }
                    Err(_) => {
                        return Err(GenerationError::Failed("the host failed while it ran this model".to_owned()));
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = stopped => Err(GenerationError::Stopped),
            started = started => started,
        }
    }

    /// Where whoever compiles a constraint waits for a turn.
    #[cfg(test)]
    pub(crate) fn turns(&self) -> &Turns {
        &self.0.turns
    }

    /// How busy each loaded engine is.
    pub fn generation_load(&self) -> Vec<EngineLoad> {
        self.0.residents.engine_loads()
    }

    /// Drops every session that is idle and past its stay, or, with `force`, every session without queued or running work.
    ///
    /// Gives how many. Their threads drop them now; this does not wait for it.
    pub fn evict_idle(&self, force: bool) -> usize {
        self.0.residents.evict_idle(force)
    }

    /// Whether the package is loaded on this device right now.
    pub fn is_loaded(&self, digest: mayfly_types::Digest, device: Device) -> bool {
        self.0.residents.is_loaded(digest, device)
    }

    /// Whether the package has run in the process that `owner` has right now.
    pub fn is_loaded_apart(&self, owner: u128, digest: mayfly_types::Digest, device: Device) -> bool {
        self.0.workers.as_ref().is_some_and(|workers| workers.is_loaded(owner, digest, device))
    }

    /// Memory that loading the package took in the process that `owner` has right now, as far as that tells.
    pub fn bytes_apart(&self, owner: u128, digest: mayfly_types::Digest, device: Device) -> u64 {
        self.0.workers.as_ref().map_or(0, |workers| workers.bytes_of(owner, digest, device))
    }

    /// The processes for tenants' own models.
    pub fn workers(&self) -> WorkersState {
        self.0.workers.as_ref().map(Workers::state).unwrap_or_default()
    }

    /// What is loaded right now.
    pub fn residency(&self) -> Residency {
        self.0.residents.residency()
    }
}

impl Done {
    fn with_load(self, load: Option<Duration>) -> (Vec<Output>, RunStats) {
        (self.outputs, RunStats { queue: self.queue, load, run: self.run, share: self.share })
    }
}

/// A caller that waits for its run. Dropped before `over`, it has left.
struct Stay<'a> {
    executor: &'a Executor,
    ticket: &'a Arc<Ticket>,
    over: bool,
}

impl Stay<'_> {
    /// Leaves now; gives whether the run had started.
    fn leave(&mut self) -> bool {
        self.over = true;
        self.executor.leave(self.ticket)
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.leave();
        }
    }
}
