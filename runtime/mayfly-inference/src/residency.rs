//! What is loaded, and for how long: single-flight loads, the idle clock, room for one more.
//!
//! One lock over a small map, held for moments and never while anything loads, runs or is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mayfly_types::Digest;
use tokio::sync::watch;

use crate::copies::Order;
use crate::session::{self, Executor, Model, Options, Source};
use crate::{Config, Device, LoadError};

/// One loaded model.
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
    /// Runs since its load.
    pub runs: u64,
    /// Resident bytes of the process that the load added, as measured around it; loads at the same time blur it.
    pub bytes: u64,
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

/// How a load ended, once it has.
pub(crate) type Outcome = Option<Result<Arc<Executor>, LoadError>>;

/// The way to a session.
pub(crate) enum Claim {
    /// It is loaded.
    Ready(Arc<Executor>),
    /// It is being loaded; everybody who asks waits for the same load.
    Loading(watch::Receiver<Outcome>),
}

/// All executors of one [`crate::Inference`].
#[derive(Debug)]
pub(crate) struct Residents {
    slots: Mutex<HashMap<(Digest, Device), Slot>>,
    /// Replaced ones that still work on their last run. Locked after `slots`, never before.
    leaving: Mutex<Vec<Arc<Executor>>>,
    options: Options,
    sessions_max: usize,
    idle: Duration,
    stay_min: Duration,
    loads: AtomicU64,
    unloads: AtomicU64,
    /// Wakes the idle clock when there is something new to watch.
    woken: Box<dyn Wake>,
}

/// Somebody who wants to know of a new session.
pub(crate) trait Wake: Send + Sync + std::fmt::Debug {
    /// A session was loaded.
    fn wake(&self);
}

#[derive(Debug)]
enum Slot {
    Loading(watch::Receiver<Outcome>),
    Ready(Arc<Executor>),
}

impl Residents {
    pub(crate) fn new(config: &Config, options: Options, woken: Box<dyn Wake>) -> Self {
        Self {
            slots: Mutex::default(),
            leaving: Mutex::default(),
            options,
            sessions_max: config.sessions_max as usize,
            idle: Duration::from_millis(config.session_idle_ms),
            stay_min: Duration::from_millis(config.session_stay_ms_min),
            loads: AtomicU64::new(0),
            unloads: AtomicU64::new(0),
            woken,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Digest, Device), Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of `model`, or the load that will make it, begun here if nobody has. Does not block.
    pub(crate) fn claim(self: &Arc<Self>, model: Model) -> Result<Claim, LoadError> {
        session::check_device(&self.options.library, model.device)?;
        let key = (model.digest, model.device);
        let mut slots = self.lock();
        match slots.get(&key) {
            Some(Slot::Ready(executor)) if !executor.is_closed() => return Ok(Claim::Ready(Arc::clone(executor))),
            Some(Slot::Loading(outcome)) => return Ok(Claim::Loading(outcome.clone())),
            _ => slots.remove(&key),
        };
        if slots.len() >= self.sessions_max {
            self.make_room(&mut slots)?;
        }
        let (sender, outcome) = watch::channel(None);
        let (residents, also) = (Arc::downgrade(self), Arc::downgrade(self));
        let ready = move |result| Self::loaded(&residents, key, result, &sender);
        let gone = move |executor: &Arc<Executor>| Self::gone(&also, key, executor);
        session::start(model, self.options.clone(), Source::Best, ready, gone)?;
        slots.insert(key, Slot::Loading(outcome.clone()));
        Ok(Claim::Loading(outcome))
    }

    /// Closes the session that has been idle longest, if one may go.
    fn make_room(&self, slots: &mut HashMap<(Digest, Device), Slot>) -> Result<(), LoadError> {
        let mut idle: Vec<_> = slots
            .iter()
            .filter_map(|(key, slot)| match slot {
                Slot::Ready(executor) => Some((executor.idle()?, *key)),
                Slot::Loading(_) => None,
            })
            .collect();
        idle.sort_unstable_by(|left, right| right.cmp(left));
        let closed = idle.into_iter().map(|(_, key)| key).find(|key| match slots.get(key) {
            Some(Slot::Ready(executor)) => executor.close_if_idle(self.stay_min, Duration::ZERO),
            _ => false,
        });
        closed.and_then(|key| slots.remove(&key)).map(drop).ok_or(LoadError::NoRoom)
    }

    /// The thread of a load tells how it ended.
    fn loaded(
        residents: &Weak<Self>,
        key: (Digest, Device),
        result: Result<Arc<Executor>, LoadError>,
        sender: &watch::Sender<Outcome>,
    ) {
        match residents.upgrade() {
            Some(residents) => {
                let mut slots = residents.lock();
                match &result {
                    Ok(executor) => {
                        residents.loads.fetch_add(1, Ordering::Relaxed);
                        slots.insert(key, Slot::Ready(Arc::clone(executor)));
                    }
                    // The next who asks tries again.
                    Err(_) => drop(slots.remove(&key)),
                }
                drop(slots);
                residents.woken.wake();
                if let Ok(executor) = &result {
                    residents.order_copy(executor);
                }
            }
            // Nobody is left to use it.
            None => {
                if let Ok(executor) = &result {
                    executor.close();
                }
            }
        }
        sender.send_replace(Some(result));
    }

    /// Has a prepacked copy made of a model that was loaded without one, and goes over to it then.
    fn order_copy(self: &Arc<Self>, plain: &Arc<Executor>) {
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
                    residents.replace(&plain);
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
    fn replaced(
        residents: &Weak<Self>,
        key: (Digest, Device),
        plain: &Arc<Executor>,
        result: Result<Arc<Executor>, LoadError>,
    ) {
        let Ok(copy) = result else { return };
        let Some(residents) = residents.upgrade() else { return copy.close() };
        residents.loads.fetch_add(1, Ordering::Relaxed);
        let mut slots = residents.lock();
        let current = matches!(slots.get(&key), Some(Slot::Ready(other)) if Arc::ptr_eq(other, plain));
        if current && plain.hand_over(&copy) {
            residents.leaving().push(Arc::clone(plain));
            slots.insert(key, Slot::Ready(copy));
            drop(slots);
            residents.woken.wake();
        } else {
            // It was unloaded meanwhile: the next load finds the copy.
            drop(slots);
            copy.close();
        }
    }

    fn has(&self, executor: &Arc<Executor>) -> bool {
        let is_it = |slot: &Slot| matches!(slot, Slot::Ready(other) if Arc::ptr_eq(other, executor));
        self.lock().values().any(is_it) && !executor.is_closed()
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<Executor>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread of an executor has dropped its session.
    fn gone(residents: &Weak<Self>, key: (Digest, Device), executor: &Arc<Executor>) {
        let Some(residents) = residents.upgrade() else { return };
        let mut slots = residents.lock();
        // As a rule it was taken out when it was closed; after a panic it is still there. Or another one is.
        if matches!(slots.get(&key), Some(Slot::Ready(other)) if Arc::ptr_eq(other, executor)) {
            slots.remove(&key);
        }
        residents.leaving().retain(|other| !Arc::ptr_eq(other, executor));
        drop(slots);
        residents.unloads.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes every session that is idle and past its stay, or, with `force`, every one without work.
    ///
    /// Their threads drop them at once; nobody waits for that here.
    pub(crate) fn evict_idle(&self, force: bool) -> usize {
        let (stay, idle) = if force { (Duration::ZERO, Duration::ZERO) } else { (self.stay_min, self.idle) };
        let mut slots = self.lock();
        let before = slots.len();
        slots.retain(|_, slot| !matches!(slot, Slot::Ready(executor) if executor.close_if_idle(stay, idle)));
        before - slots.len()
    }

    /// Stops runs that are past their deadline, in case their callers' own timers did not.
    pub(crate) fn stop_overdue(&self) {
        let leaving = self.leaving().clone();
        for executor in self.ready().into_iter().chain(leaving) {
            executor.stop_overdue();
        }
    }

    /// Until something may have to be done here; none while nothing is loaded. What leaves needs no more than to be
    /// looked at now and then.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let until = |executor: &Arc<Executor>| {
            let idle = executor.idle().map_or(self.idle, |idle| self.idle.saturating_sub(idle));
            idle.max(self.stay_min.saturating_sub(executor.age()))
        };
        let leaving = (!self.leaving().is_empty()).then_some(Duration::MAX);
        self.ready().iter().map(until).chain(leaving).min()
    }

    /// Whether there is a session of this package on this device right now.
    pub(crate) fn is_loaded(&self, digest: Digest, device: Device) -> bool {
        matches!(self.lock().get(&(digest, device)), Some(Slot::Ready(executor)) if !executor.is_closed())
    }

    /// What is loaded right now.
    pub(crate) fn residency(&self) -> Residency {
        let leaving = self.leaving().clone();
        let mut models: Vec<Resident> = self.ready().iter().map(|executor| executor.resident()).collect();
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

    fn ready(&self) -> Vec<Arc<Executor>> {
        let ready = |slot: &Slot| match slot {
            Slot::Ready(executor) => Some(Arc::clone(executor)),
            Slot::Loading(_) => None,
        };
        self.lock().values().filter_map(ready).collect()
    }
}

impl Drop for Residents {
    fn drop(&mut self) {
        for executor in self.ready() {
            executor.close();
        }
    }
}
