//! What is loaded, and for how long: single-flight loads, the idle clock, room for one more.
//!
//! One lock over a small map, held for moments and never while anything loads, runs or is dropped.

mod slots;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mayfly_types::Digest;
use tokio::sync::watch;

pub(crate) use self::slots::{Held, Outcome};
use self::slots::{Key, Slot, Slots};
use crate::copies::Order;
use crate::generation::{self, Engine, EngineLimits};
use crate::session::{self, Executor, Model, Options, Source};
use crate::{Config, DecoderInfo, Device, EngineLoad, LoadError};

/// One loaded model. Its engine, if it generates, counts with it.
#[derive(Debug, Clone)]
pub struct Resident {
    /// The package.
    pub digest: Digest,
    /// Where it runs.
    pub device: Device,
    /// Since its last run ended; none while it works.
    pub idle: Option<Duration>,
    /// How long its load took.
    pub load: Duration,
    /// Runs of callers since its load.
    pub runs: u64,
    /// Runs of the graph since its load: several callers' runs may have been one.
    pub batches: u64,
    /// Resident bytes of the process that the load added, as measured around it; loads at the same time blur it.
    pub bytes: u64,
}

impl Resident {
    /// The same model's other session.
    fn add(&mut self, other: Self) {
        self.idle = self.idle.zip(other.idle).map(|(this, other)| this.min(other));
        self.load = self.load.max(other.load);
        self.runs = self.runs.saturating_add(other.runs);
        self.batches = self.batches.saturating_add(other.batches);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// Everything loaded.
#[derive(Debug, Clone, Default)]
pub struct Residency {
    /// Loaded models, by digest.
    pub models: Vec<Resident>,
    /// Loads since the start.
    pub loads_total: u64,
    /// Sessions dropped since the start.
    pub unloads_total: u64,
}

/// The way to a session.
pub(crate) enum Claim<T> {
    /// It is loaded.
    Ready(Arc<T>),
    /// It is being loaded; everybody who asks waits for the same load.
    Loading(watch::Receiver<Outcome<T>>),
}

/// All executors and engines of one [`crate::Inference`].
#[derive(Debug)]
pub(crate) struct Residents {
    slots: Mutex<Slots>,
    /// Replaced ones that still work on their last run. Locked after `slots`, never before.
    leaving: Mutex<Vec<Arc<Executor>>>,
    options: Options,
    engine_limits: EngineLimits,
    /// The next sequence's number: engines of one package that follow each other have no two alike.
    sequences: AtomicU64,
    sessions_max: usize,
    idle: Duration,
    stay_min: Duration,
    loads: AtomicU64,
    unloads: AtomicU64,
    /// Wakes the idle clock when there is something new to watch.
    woken: Box<dyn Wake>,
}

type Ready<T> = Box<dyn FnOnce(Result<Arc<T>, LoadError>) + Send>;
type Gone<T> = Box<dyn FnOnce(&Arc<T>) + Send>;

/// Somebody who wants to know of a new session.
pub(crate) trait Wake: Send + Sync + std::fmt::Debug {
    /// A session was loaded.
    fn wake(&self);
}

impl Residents {
    pub(crate) fn new(config: &Config, options: Options, woken: Box<dyn Wake>) -> Self {
        Self {
            slots: Mutex::default(),
            leaving: Mutex::default(),
            options,
            engine_limits: EngineLimits::new(config),
            sequences: AtomicU64::new(0),
            sessions_max: config.sessions_max as usize,
            idle: Duration::from_millis(config.session_idle_ms),
            stay_min: Duration::from_millis(config.session_stay_ms_min),
            loads: AtomicU64::new(0),
            unloads: AtomicU64::new(0),
            woken,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The executor of `model`, or the load that will make it, begun here if nobody has. Does not block.
    pub(crate) fn claim(self: &Arc<Self>, model: Model) -> Result<Claim<Executor>, LoadError> {
        let key = (model.digest, model.device);
        let options = self.options.clone();
        self.claim_or(key, |ready, gone| session::start(model, options, Source::Best, ready, gone))
    }

    /// As [`Self::claim`], for the engine of a decoder.
    pub(crate) fn claim_engine(
        self: &Arc<Self>,
        model: Model,
        decoder: DecoderInfo,
    ) -> Result<Claim<Engine>, LoadError> {
        let key = (model.digest, model.device);
        let (options, limits) = (self.options.clone(), self.engine_limits);
        self.claim_or(key, |ready, gone| generation::start(model, decoder, options, limits, ready, gone))
    }

    fn claim_or<T: Held>(
        self: &Arc<Self>,
        key: Key,
        start: impl FnOnce(Ready<T>, Gone<T>) -> Result<(), LoadError>,
    ) -> Result<Claim<T>, LoadError> {
        session::check_device(&self.options.library, key.1)?;
        let mut slots = self.lock();
        match T::among(&mut slots).get(&key) {
            Some(Slot::Ready(held)) if !held.is_closed() => return Ok(Claim::Ready(Arc::clone(held))),
            Some(Slot::Loading(outcome)) => return Ok(Claim::Loading(outcome.clone())),
            _ => drop(T::among(&mut slots).remove(&key)),
        }
        if slots.len() >= self.sessions_max && !slots.make_room(self.stay_min) {
            return Err(LoadError::NoRoom);
        }
        let (sender, outcome) = watch::channel(None);
        let (residents, also) = (Arc::downgrade(self), Arc::downgrade(self));
        let ready = move |result| Self::loaded(&residents, key, result, &sender);
        let gone = move |held: &Arc<T>| Self::gone(&also, key, held);
        start(Box::new(ready), Box::new(gone))?;
        T::among(&mut slots).insert(key, Slot::Loading(outcome.clone()));
        Ok(Claim::Loading(outcome))
    }

    /// Names for the sequences of a request: this one and those that follow it.
    pub(crate) fn sequence_numbers(&self, count: u32) -> u64 {
        self.sequences.fetch_add(count.into(), Ordering::Relaxed)
    }

    /// The thread of a load tells how it ended.
    fn loaded<T: Held>(
        residents: &Weak<Self>,
        key: Key,
        result: Result<Arc<T>, LoadError>,
        sender: &watch::Sender<Outcome<T>>,
    ) {
        match residents.upgrade() {
            Some(residents) => {
                let mut slots = residents.lock();
                match &result {
                    Ok(held) => {
                        residents.loads.fetch_add(1, Ordering::Relaxed);
                        T::among(&mut slots).insert(key, Slot::Ready(Arc::clone(held)));
                    }
                    // The next who asks tries again.
                    Err(_) => drop(T::among(&mut slots).remove(&key)),
                }
                drop(slots);
                residents.woken.wake();
                if let Ok(held) = &result {
                    residents.order_copy(held);
                }
            }
            // Nobody is left to use it.
            None => {
                if let Ok(held) = &result {
                    held.close();
                }
            }
        }
        sender.send_replace(Some(result));
    }

    /// Has a prepacked copy made of a model that was loaded without one.
    fn order_copy<T: Held>(self: &Arc<Self>, plain: &Arc<T>) {
        let Some(copies) = self.options.copies.as_ref().filter(|_| plain.wants_copy()) else { return };
        let model = plain.model();
        let Some(source) = model.copy.clone() else { return };
        let (alive, residents, plain) = (Arc::downgrade(self), Arc::downgrade(self), Arc::downgrade(plain));
        copies.order(Order {
            digest: model.digest,
            folder: source.folder,
            weight_bytes: source.weight_bytes,
            wanted: Box::new(move || alive.strong_count() > 0),
            done: Box::new(move || {
                if let (Some(residents), Some(plain)) = (residents.upgrade(), plain.upgrade()) {
                    T::copy_made(&residents, &plain);
                }
            }),
        });
    }

    /// Loads the copy of what `plain` runs, beside it; then the next runs go there.
    fn replace(self: &Arc<Self>, plain: &Arc<Executor>) {
        if !self.has(plain) {
            return;
        }
        let model = plain.model().clone();
        let key = (model.digest, model.device);
        let (residents, also, plain) = (Arc::downgrade(self), Arc::downgrade(self), Arc::clone(plain));
        let ready = move |result| Self::replaced(&residents, key, &plain, result);
        let gone = move |executor: &Arc<Executor>| Self::gone(&also, key, executor);
        if let Err(error) = session::start(model, self.options.clone(), Source::Copy, ready, gone) {
            tracing::warn!(?error, "a prepacked copy could not be loaded; the package's session goes on");
        }
    }

    /// The thread that loaded the copy tells how that ended. Without a copy `plain` goes on.
    fn replaced(residents: &Weak<Self>, key: Key, plain: &Arc<Executor>, result: Result<Arc<Executor>, LoadError>) {
        let Ok(copy) = result else { return };
        let Some(residents) = residents.upgrade() else { return copy.close() };
        residents.loads.fetch_add(1, Ordering::Relaxed);
        let mut slots = residents.lock();
        let current = matches!(slots.executors.get(&key), Some(Slot::Ready(other)) if Arc::ptr_eq(other, plain));
        if current && plain.hand_over(&copy) {
            residents.leaving().push(Arc::clone(plain));
            slots.executors.insert(key, Slot::Ready(copy));
            drop(slots);
            residents.woken.wake();
        } else {
            // It was unloaded meanwhile: the next load finds the copy.
            drop(slots);
            copy.close();
        }
    }

    fn has(&self, executor: &Arc<Executor>) -> bool {
        let is_it = |slot: &Slot<Executor>| matches!(slot, Slot::Ready(other) if Arc::ptr_eq(other, executor));
        self.lock().executors.values().any(is_it) && !executor.is_closed()
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<Executor>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread of an executor or an engine has dropped its session.
    fn gone<T: Held>(residents: &Weak<Self>, key: Key, held: &Arc<T>) {
        let Some(residents) = residents.upgrade() else { return };
        let mut slots = residents.lock();
        // As a rule it was taken out when it was closed; after a panic it is still there. Or another one is.
        if matches!(T::among(&mut slots).get(&key), Some(Slot::Ready(other)) if Arc::ptr_eq(other, held)) {
            T::among(&mut slots).remove(&key);
        }
        residents.leaving().retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(held)));
        drop(slots);
        residents.unloads.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes every session that is idle and past its stay, or, with `force`, every one without work.
    ///
    /// Their threads drop them at once; nobody waits for that here.
    pub(crate) fn evict_idle(&self, force: bool) -> usize {
        let (stay, idle) = if force { (Duration::ZERO, Duration::ZERO) } else { (self.stay_min, self.idle) };
        self.lock().close_idle(stay, idle)
    }

    /// Stops runs that are past their deadline, in case their callers' own timers did not.
    pub(crate) fn stop_overdue(&self) {
        let leaving = self.leaving().clone();
        for executor in self.lock().ready::<Executor>().into_iter().chain(leaving) {
            executor.stop_overdue();
        }
    }

    /// Until something may have to be done here; none while nothing is loaded. What leaves needs no more than to be
    /// looked at now and then.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let until = |idle: Option<Duration>, age: Duration| {
            let idle = idle.map_or(self.idle, |idle| self.idle.saturating_sub(idle));
            idle.max(self.stay_min.saturating_sub(age))
        };
        let leaving = (!self.leaving().is_empty()).then_some(Duration::MAX);
        let mut slots = self.lock();
        let (executors, engines) = (slots.ready::<Executor>(), slots.ready::<Engine>());
        drop(slots);
        let executors = executors.iter().map(|executor| until(executor.idle(), executor.age()));
        let engines = engines.iter().map(|engine| until(engine.idle(), engine.age()));
        executors.chain(engines).chain(leaving).min()
    }

    /// Whether there is a session of this package on this device right now, for runs or for generation.
    pub(crate) fn is_loaded(&self, digest: Digest, device: Device) -> bool {
        self.lock().has((digest, device))
    }

    /// How busy each engine is.
    pub(crate) fn engine_loads(&self) -> Vec<EngineLoad> {
        let mut loads: Vec<_> = self.lock().ready::<Engine>().iter().map(|engine| engine.engine_load()).collect();
        loads.sort_unstable_by_key(|load| (load.digest, load.device));
        loads
    }

    /// What is loaded right now.
    pub(crate) fn residency(&self) -> Residency {
        let leaving = self.leaving().clone();
        let mut slots = self.lock();
        let (executors, engines) = (slots.ready::<Executor>(), slots.ready::<Engine>());
        drop(slots);
        let mut models: Vec<Resident> = executors.iter().map(|executor| executor.resident()).collect();
        for engine in engines.iter().map(|engine| engine.resident()) {
            match models.iter_mut().find(|model| (model.digest, model.device) == (engine.digest, engine.device)) {
                Some(model) => model.add(engine),
                None => models.push(engine),
            }
        }
        for old in leaving {
            let model = old.model();
            // Its memory is still there, and it works.
            if let Some(new) = models.iter_mut().find(|new| (new.digest, new.device) == (model.digest, model.device)) {
                new.bytes = new.bytes.saturating_add(old.bytes());
                new.idle = None;
            }
        }
        models.sort_unstable_by_key(|model| (model.digest, model.device));
        Residency {
            models,
            loads_total: self.loads.load(Ordering::Relaxed),
            unloads_total: self.unloads.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Residents {
    fn drop(&mut self) {
        let mut slots = self.lock();
        slots.ready::<Executor>().iter().for_each(|executor| executor.close());
        slots.ready::<Engine>().iter().for_each(|engine| engine.close());
    }
}
