//! What is loaded, and for how long: the shell around the decisions of `mayfly_scheduler::residency`.
//!
//! One lock over a small map, held for moments and never while anything loads, runs or is dropped. Whatever happens is
//! told to the decisions of its device, and then [`Residents::settle`] does what they say.

mod beside;
mod kept;
mod memory;
mod need;
mod report;
mod settle;
mod slots;
mod swap;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
mod wait;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use mayfly_scheduler::residency::{Fit, Need, Refused, SessionId, Settings, WaiterId};
use mayfly_types::Digest;
use tokio::sync::oneshot;

pub use self::kept::{Keep, Reservation, Uses};
pub use self::memory::ModelMemory;
pub(crate) use self::memory::models_bytes;
pub(crate) use self::need::Weights;
use self::need::{File, predict};
pub use self::report::{DeviceResidency, Needs, Residency, Resident};
use self::slots::{Held, Key, Place, Slot, Slots, Start};
pub(crate) use self::wait::Claim;
use self::wait::{Coming, Outcome, Seat};
use crate::generation::{self, Engine, EngineLimits};
use crate::session::{self, Executor, Model, Options, Source};
use crate::{Config, DecoderInfo, Device, EngineLoad, LoadError};

/// How often a load that finds no room may be passed by others before the room that becomes free is its own.
const PASSES_MAX: u32 = 8;
/// While a load waits for room, what is loaded is looked at this often: nobody tells when work ends.
const LOOK_BLOCKED: Duration = Duration::from_millis(10);

/// All executors and engines of one [`crate::Inference`].
#[derive(Debug)]
pub(crate) struct Residents {
    slots: Mutex<Slots>,
    /// Replaced ones that still work on their last run. Locked after `slots`, never before.
    leaving: Mutex<Vec<Arc<Executor>>>,
    options: Options,
    engine_limits: EngineLimits,
    /// Bytes that may be kept loaded on each device, and sessions that there may be.
    pinned_max: u64,
    sessions_max: u32,
    /// The next sequence's number: engines of one package that follow each other have no two alike.
    sequences: AtomicU64,
    /// Of the decisions' clock.
    start: Instant,
    load_wait: Duration,
    loads: AtomicU64,
    unloads: AtomicU64,
    /// Wakes the idle clock when there is something new to watch.
    woken: Box<dyn Wake>,
}

type Ready<T> = Box<dyn FnOnce(Result<Arc<T>, LoadError>) + Send>;
type Gone<T> = Box<dyn FnOnce(&Arc<T>) + Send>;

/// Somebody who wants to know of a new session.
pub(crate) trait Wake: Send + Sync + std::fmt::Debug {
    /// A session was loaded, or waits for room.
    fn wake(&self);
}

impl Residents {
    pub(crate) fn new(config: &Config, options: Options, woken: Box<dyn Wake>) -> Self {
        let nanos = |ms: u64| ms.saturating_mul(1_000_000);
        let settings = |bytes_max| Settings {
            bytes_max,
            sessions_max: config.sessions_max,
            waiting_max: config.loads_waiting_max,
            stay_ns: nanos(config.session_stay_ms_min),
            idle_ns: nanos(config.session_idle_ms),
            passes_max: PASSES_MAX,
        };
        let cuda = if config.cuda_bytes_max == 0 { u64::MAX } else { config.cuda_bytes_max };
        let devices = [(Device::Cpu, settings(config.resident_bytes())), (Device::Cuda, settings(cuda))];
        Self {
            slots: Mutex::new(Slots::new(devices)),
            leaving: Mutex::default(),
            options,
            engine_limits: EngineLimits::new(config),
            pinned_max: config.pinned_bytes_max,
            sessions_max: config.sessions_max,
            sequences: AtomicU64::new(0),
            start: Instant::now(),
            load_wait: Duration::from_millis(config.load_wait_ms_max),
            loads: AtomicU64::new(0),
            unloads: AtomicU64::new(0),
            woken,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nanoseconds of the decisions' clock.
    fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The executor of `model`, or the load that will make it, asked for here if nobody has. Does not block.
    ///
    /// # Errors
    /// [`LoadError`]: it never fits, there will be no room by `deadline`, or too many wait.
    pub(crate) fn claim(self: &Arc<Self>, model: Model, deadline: Instant) -> Result<Claim<Executor>, LoadError> {
        let key = (model.digest, model.device);
        if let Some(held) = self.ready::<Executor>(key)? {
            return Ok(Claim::Ready(held));
        }
        let (wanted, start) = self.to_run(model);
        self.claim_or(key, &wanted, deadline, start)
    }

    /// A session of `model` for runs: what it takes and how it begins.
    fn to_run(&self, model: Model) -> (Wanted, impl FnOnce(Ready<Executor>, Gone<Executor>) -> Start + use<>) {
        let (file, weights) = match self.options.wakes_plain(&model) {
            true => (File::Unpacked, model.weights),
            false => self.file(&model),
        };
        let options = self.options.clone();
        let start =
            |ready, gone| -> Start { Box::new(|| session::start(model, options, Source::Soonest, ready, gone)) };
        (Wanted { file, weights, kv_bytes: 0 }, start)
    }

    /// As [`Self::claim`], for the engine of a decoder.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub(crate) fn claim_engine(
        self: &Arc<Self>,
        model: Model,
        decoder: &DecoderInfo,
        deadline: Instant,
    ) -> Result<Claim<Engine>, LoadError> {
        let key = (model.digest, model.device);
        if let Some(held) = self.ready::<Engine>(key)? {
            return Ok(Claim::Ready(held));
        }
        generation::check_device(model.device, decoder)?;
        let (wanted, start) = self.to_generate(model, decoder);
        self.claim_or(key, &wanted, deadline, start)
    }

    /// As [`Self::to_run`], for an engine.
    fn to_generate(
        &self,
        model: Model,
        decoder: &DecoderInfo,
    ) -> (Wanted, impl FnOnce(Ready<Engine>, Gone<Engine>) -> Start + use<>) {
        let wanted = self.wanted_to_generate(&model, decoder);
        let (options, limits, decoder) = (self.options.clone(), self.engine_limits, decoder.clone());
        let start = move |ready, gone| -> Start {
            Box::new(move || generation::start(model, decoder, options, limits, ready, gone))
        };
        (wanted, start)
    }

    fn wanted_to_generate(&self, model: &Model, decoder: &DecoderInfo) -> Wanted {
        let (file, weights) = self.file(model);
        Wanted { file, weights, kv_bytes: self.engine_limits.kv_bytes(decoder, model.device) }
    }

    /// What is loaded and takes work: the way of every run, so it does nothing else.
    fn ready<T: Held>(&self, key: Key) -> Result<Option<Arc<T>>, LoadError> {
        session::check_device(&self.options.library, key.1)?;
        let mut slots = self.lock();
        let held = T::among(&mut slots).get(&key).and_then(Slot::ready);
        Ok(held.filter(|held| !held.is_closed()).cloned())
    }

    /// The file that a session of `model` would run on now, and the sizes of that and what lies beside it.
    fn file(&self, model: &Model) -> (File, Weights) {
        let copy = model.copy.as_ref().and(self.options.copies.as_ref());
        match copy.and_then(|copies| copies.sizes(model.digest)) {
            Some((graph, beside)) => (File::Copy, Weights { graph, beside }),
            None => (File::Package, model.weights),
        }
    }

    /// What a session takes, as far as is known before its load.
    fn need(&self, slots: &mut Slots, key: Key, wanted: &Wanted) -> Need {
        let budget = slots.device(key.1).load().bytes_max;
        let predicted = predict(wanted.weights, key.1, wanted.file);
        let need = slots.measures.correct((key.0, key.1, wanted.file), predicted, budget);
        Need { own: need.own.saturating_add(wanted.kv_bytes), ..need }
    }

    /// What a session of `model` takes, an engine if it is a decoder, and whether it could be had now. Nothing is loaded for
    /// the answer.
    ///
    /// # Errors
    /// [`LoadError::NoDevice`].
    pub(crate) fn needs(&self, model: &Model, decoder: Option<&DecoderInfo>) -> Result<Needs, LoadError> {
        session::check_device(&self.options.library, model.device)?;
        let (file, weights) = self.file(model);
        let decoder = decoder.filter(|decoder| generation::check_device(model.device, decoder).is_ok());
        let kv_bytes = decoder.map_or(0, |decoder| self.engine_limits.kv_bytes(decoder, model.device));
        let (key, wanted) = ((model.digest, model.device), Wanted { file, weights, kv_bytes });
        let mut slots = self.lock();
        let need = self.need(&mut slots, key, &wanted);
        let (fit, budget) = (slots.device(key.1).fit(need), slots.device(key.1).load().bytes_max);
        drop(slots);
        let budget = (budget < u64::MAX).then_some(budget);
        Ok(Needs { device: key.1, bytes: need.own, mapped_bytes: need.mapped, fit: fit.ok(), budget })
    }

    /// Whether a session of `model` could be had now, and an engine if it is a decoder. Nothing is loaded for the answer.
    ///
    /// # Errors
    /// [`LoadError::NeverFits`], or [`LoadError::NoDevice`].
    pub(crate) fn fit(&self, model: &Model, decoder: Option<&DecoderInfo>) -> Result<Fit, LoadError> {
        let needs = self.needs(model, decoder)?;
        needs.fit.ok_or_else(|| LoadError::NeverFits {
            needs: needs.bytes.saturating_add(needs.mapped_bytes),
            budget: needs.budget.unwrap_or(u64::MAX),
            setting: budget_setting(model.device),
        })
    }

    fn claim_or<T: Held>(
        self: &Arc<Self>,
        key: Key,
        wanted: &Wanted,
        deadline: Instant,
        start: impl FnOnce(Ready<T>, Gone<T>) -> Start,
    ) -> Result<Claim<T>, LoadError> {
        let now = Instant::now();
        if deadline <= now {
            return Err(LoadError::Deadline);
        }
        let until = self.at(now.checked_add(self.load_wait).map_or(deadline, |until| until.min(deadline)));
        let now = self.at(now);
        let device = key.1;
        let (sender, answer) = oneshot::channel();
        let mut slots = self.lock();
        let waiter = WaiterId(slots.number());
        let fit = match T::among(&mut slots).get(&key) {
            Some(Slot::Ready { held, .. }) if !held.is_closed() => return Ok(Claim::Ready(Arc::clone(held))),
            Some(Slot::Coming { id, .. }) => {
                let id = *id;
                slots.device(device).join(id, waiter, until).map_err(|why| refused(device, why))?;
                Fit::Fits
            }
            other => {
                // It closed by itself: a run panicked.
                if let Some(id) = other.map(Slot::id) {
                    T::among(&mut slots).remove(&key);
                    slots.leaves(id);
                }
                let id = SessionId(slots.number());
                let need = self.need(&mut slots, key, wanted);
                slots.observe(device, now);
                let fit = slots.device(device).ask(now, id, need, waiter, until).map_err(|why| refused(device, why))?;
                self.add(&mut slots, id, key, wanted, need, start);
                fit
            }
        };
        if let Some(Slot::Coming { waiters, .. }) = T::among(&mut slots).get_mut(&key) {
            waiters.push((waiter, sender));
        }
        self.settle(&mut slots, device);
        let blocked = slots.device(device).is_blocked();
        drop(slots);
        if blocked {
            self.woken.wake();
        }
        let seat = Seat { residents: Arc::downgrade(self), device, waiter };
        Ok(Claim::Coming(Coming { answer, fit, _seat: seat }))
    }

    /// Notes a session that the decisions have been asked for.
    fn add<T: Held>(
        self: &Arc<Self>,
        slots: &mut Slots,
        id: SessionId,
        key: Key,
        wanted: &Wanted,
        need: Need,
        start: impl FnOnce(Ready<T>, Gone<T>) -> Start,
    ) {
        let (residents, also, file) = (Arc::downgrade(self), Arc::downgrade(self), wanted.file);
        let ready = move |result| Self::loaded(&residents, id, file, result);
        let gone = move |held: &Arc<T>| Self::gone(&also, id, held);
        let start = Some(start(Box::new(ready), Box::new(gone)));
        let place = Place { key, kind: T::KIND, start, kv_bytes: wanted.kv_bytes, mapped: need.mapped };
        slots.places.insert(id, place);
        T::among(slots).insert(key, Slot::coming(id));
    }

    /// Who waited does so no more.
    fn left(&self, device: Device, waiter: WaiterId) {
        let mut slots = self.lock();
        if let Some(id) = slots.device(device).leave(waiter) {
            slots.forget(id);
        } else {
            slots.refuse(waiter, &LoadError::Deadline);
        }
    }

    /// Names for the sequences of a request: this one and those that follow it.
    pub(crate) fn sequence_numbers(&self, count: u32) -> u64 {
        self.sequences.fetch_add(count.into(), Ordering::Relaxed)
    }

    /// The thread of a load tells how it ended. `expected` is the file it was asked for.
    fn loaded<T: Held>(residents: &Weak<Self>, id: SessionId, expected: File, result: Outcome<T>) {
        let Some(residents) = residents.upgrade() else {
            // Nobody is left to use it.
            if let Ok(held) = &result {
                held.close();
            }
            return;
        };
        let now = residents.now();
        let mut slots = residents.lock();
        let key = slots.places.get(&id).map(|place| place.key);
        let Some(key) = key else { return };
        slots.note_load(key, T::KIND, result.is_ok());
        let answered = match &result {
            Ok(held) => {
                residents.loads.fetch_add(1, Ordering::Relaxed);
                let measured = slots.measured(id, held.as_ref(), expected);
                slots.device(key.1).loaded(now, id, measured)
            }
            Err(_) => {
                slots.places.remove(&id);
                slots.device(key.1).failed(id)
            }
        };
        let slot = T::among(&mut slots).remove(&key);
        if let Ok(held) = &result {
            T::among(&mut slots).insert(key, Slot::Ready { id, held: Arc::clone(held) });
        }
        // All who wait are answered: the state machine and the slot have the same list.
        if let Some(Slot::Coming { waiters, .. }) = slot {
            debug_assert_eq!(waiters.len(), answered.len(), "each who waits is known to both");
            for (_, sender) in waiters {
                let _ = sender.send(result.clone());
            }
        }
        residents.settle(&mut slots, key.1);
        drop(slots);
        residents.woken.wake();
        if let Ok(held) = &result {
            held.watch(&residents);
            residents.order_copy(held);
        }
    }

    /// The thread of an executor or an engine has dropped its session, and its memory is back with the system.
    fn gone<T: Held>(residents: &Weak<Self>, id: SessionId, held: &Arc<T>) {
        let Some(residents) = residents.upgrade() else { return };
        let mut slots = residents.lock();
        // As a rule it was taken out when it was closed; after a panic it is still there. Or another one is.
        if let Some(Place { key, .. }) = slots.places.remove(&id) {
            if T::among(&mut slots).get(&key).is_some_and(|slot| slot.id() == id) {
                T::among(&mut slots).remove(&key);
            }
            slots.device(key.1).unloaded(id);
            residents.settle(&mut slots, key.1);
        }
        residents.leaving().retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(held)));
        let is_kept = !slots.kept.is_empty();
        drop(slots);
        residents.unloads.fetch_add(1, Ordering::Relaxed);
        // The clock sees to what is freed after this.
        residents.woken.wake();
        if is_kept {
            // A run may have panicked in one that is kept.
            residents.load_kept();
        }
    }

    /// Sessions that have gone since the start.
    pub(crate) fn unloads(&self) -> u64 {
        self.unloads.load(Ordering::Relaxed)
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<Executor>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops runs that are past their deadline, in case their callers' own timers did not.
    pub(crate) fn stop_overdue(&self) {
        let leaving = self.leaving().clone();
        for executor in self.lock().ready::<Executor>().into_iter().chain(leaving) {
            executor.stop_overdue();
        }
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
        let devices = slots.devices.iter().map(|(device, decisions)| DeviceResidency::new(*device, decisions.load()));
        let devices = devices.filter(|device| device.bytes_max < u64::MAX).collect();
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
            devices,
            loads_total: self.loads.load(Ordering::Relaxed),
            unloads_total: self.unloads.load(Ordering::Relaxed),
        }
    }
}

/// A session to be asked for.
struct Wanted {
    file: File,
    weights: Weights,
    kv_bytes: u64,
}

/// The setting with a device's budget for models.
fn budget_setting(device: Device) -> &'static str {
    match device {
        Device::Cpu => "inference.resident_bytes_max",
        Device::Cuda => "inference.cuda_bytes_max",
    }
}

/// The decisions' refusal, for people.
fn refused(device: Device, why: Refused) -> LoadError {
    match why {
        Refused::NeverFits { needs, budget } => LoadError::NeverFits { needs, budget, setting: budget_setting(device) },
        Refused::NoRoom => LoadError::NoRoom,
        Refused::Full { limit } => LoadError::TooManyWait { limit },
    }
}

impl Drop for Residents {
    fn drop(&mut self) {
        let mut slots = self.lock();
        slots.ready::<Executor>().iter().for_each(|executor| executor.close());
        slots.ready::<Engine>().iter().for_each(|engine| engine.close());
    }
}
