//! What is loaded or will be: executors and engines, the state machine of each device that decides about them, and who
//! waits for what.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mayfly_scheduler::residency::{Residency as Decisions, SessionId, Settings, Use, WaiterId};
use mayfly_types::Digest;
use tokio::sync::oneshot;

use super::Residents;
use super::kept::Kept;
use super::need::Measures;
use super::wait::Outcome;
use crate::generation::Engine;
use crate::session::{Executor, Model, SeatId, Source};
use crate::{Device, LoadError};

/// A package on a device.
pub(super) type Key = (Digest, Device);

/// Something loaded that goes when nobody uses it: an executor or an engine.
pub(crate) trait Held: Send + Sync + Sized + 'static {
    /// Which of the two.
    const KIND: Kind;

    /// Where things of this kind are.
    fn among(slots: &mut Slots) -> &mut HashMap<Key, Slot<Self>>;

    /// Takes no more work.
    fn close(&self);

    /// Closes it if it was loaded at least `stay` ago and has been without work for `idle`.
    fn close_if_idle(&self, stay: Duration, idle: Duration) -> bool;

    fn is_closed(&self) -> bool;

    /// Since its last work ended; none while it works.
    fn idle(&self) -> Option<Duration>;

    fn model(&self) -> &Model;

    /// Bytes of its own that its load took.
    fn bytes(&self) -> u64;

    /// Whether it runs on the package's files with no weight packed.
    fn unpacked(&self) -> bool;

    /// Whether it runs on the package though a prepacked copy could be had.
    fn wants_copy(&self) -> bool;

    /// It is loaded, and there for `residents`.
    fn watch(self: &Arc<Self>, residents: &Arc<Residents>);

    /// There is a copy of what it runs now, or (not `made`) there will be none.
    fn copy_ended(residents: &Arc<Residents>, this: &Arc<Self>, made: bool);
}

/// Methods that both kinds have by the same names.
macro_rules! forward {
    ($kind:ty) => {
        fn close(&self) {
            <$kind>::close(self);
        }

        fn close_if_idle(&self, stay: Duration, idle: Duration) -> bool {
            <$kind>::close_if_idle(self, stay, idle)
        }

        fn is_closed(&self) -> bool {
            <$kind>::is_closed(self)
        }

        fn idle(&self) -> Option<Duration> {
            <$kind>::idle(self)
        }

        fn model(&self) -> &Model {
            <$kind>::model(self)
        }

        fn bytes(&self) -> u64 {
            <$kind>::bytes(self)
        }

        fn wants_copy(&self) -> bool {
            <$kind>::wants_copy(self)
        }
    };
}

impl Held for Executor {
    forward!(Executor);

    const KIND: Kind = Kind::Runs;

    fn among(slots: &mut Slots) -> &mut HashMap<Key, Slot<Self>> {
        &mut slots.executors
    }

    fn unpacked(&self) -> bool {
        Executor::unpacked(self)
    }

    fn watch(self: &Arc<Self>, residents: &Arc<Residents>) {
        residents.watch_crowd(self);
    }

    fn copy_ended(residents: &Arc<Residents>, this: &Arc<Self>, made: bool) {
        if made {
            residents.replace(this, Source::Copy);
        } else if this.unpacked() {
            // That was to be for a moment only.
            residents.replace(this, Source::Best);
        }
    }
}

impl Held for Engine {
    forward!(Engine);

    const KIND: Kind = Kind::Generates;

    fn among(slots: &mut Slots) -> &mut HashMap<Key, Slot<Self>> {
        &mut slots.engines
    }

    /// One session runs all its sequences.
    fn watch(self: &Arc<Self>, _: &Arc<Residents>) {}

    /// Sequences cannot move to another session: the next load finds the copy.
    fn copy_ended(_: &Arc<Residents>, _: &Arc<Self>, _: bool) {}

    /// A decode step would feel it.
    fn unpacked(&self) -> bool {
        false
    }
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Runs, as `wasi:nn` asks for them.
    Runs,
    /// Generation.
    Generates,
    /// Runs, once it has taken the place of the session that it is a faster form of.
    Replaces(SessionId),
    /// Runs, beside the session that it helps.
    Beside(SessionId),
}

/// One session to come or there.
pub(crate) enum Slot<T> {
    Coming { id: SessionId, waiters: Vec<(WaiterId, oneshot::Sender<Outcome<T>>)> },
    Ready { id: SessionId, held: Arc<T> },
}

impl<T> Slot<T> {
    pub(super) fn id(&self) -> SessionId {
        match self {
            Self::Coming { id, .. } | Self::Ready { id, .. } => *id,
        }
    }

    pub(super) fn ready(&self) -> Option<&Arc<T>> {
        match self {
            Self::Ready { held, .. } => Some(held),
            Self::Coming { .. } => None,
        }
    }
}

/// Begins a load on a thread of its own.
pub(super) type Start = Box<dyn FnOnce() -> Result<(), LoadError> + Send>;

/// What a session's number stands for, until nothing of it is left.
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) kind: Kind,
    /// None once it has begun.
    pub(super) start: Option<Start>,
    /// Attention state that it may take beside what its load does.
    pub(super) kv_bytes: u64,
    /// Bytes of files that it maps.
    pub(super) mapped: u64,
}

/// Everything loaded or to be loaded.
pub(crate) struct Slots {
    pub(super) executors: HashMap<Key, Slot<Executor>>,
    pub(super) engines: HashMap<Key, Slot<Engine>>,
    pub(super) places: HashMap<SessionId, Place>,
    pub(super) devices: BTreeMap<Device, Decisions>,
    pub(super) measures: Measures,
    pub(super) kept: Kept,
    /// Sessions beside others that are loaded: whose they are, and their seats there.
    pub(super) beside: HashMap<SessionId, (Arc<Executor>, SeatId)>,
    /// The next session's and the next waiter's number.
    next: u64,
}

impl Slots {
    pub(super) fn new(devices: impl IntoIterator<Item = (Device, Settings)>) -> Self {
        Self {
            executors: HashMap::new(),
            engines: HashMap::new(),
            places: HashMap::new(),
            devices: devices.into_iter().map(|(device, settings)| (device, Decisions::new(settings))).collect(),
            measures: Measures::default(),
            kept: Kept::default(),
            beside: HashMap::new(),
            next: 0,
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn device(&mut self, device: Device) -> &mut Decisions {
        self.devices.get_mut(&device).expect("each device has its decisions from the start")
    }

    pub(super) fn ready<T: Held>(&mut self) -> Vec<Arc<T>> {
        T::among(self).values().filter_map(|slot| slot.ready().cloned()).collect()
    }

    /// Whether there is anything of this package on this device that takes work.
    pub(super) fn has(&self, key: Key) -> bool {
        fn open<T: Held>(slot: Option<&Slot<T>>) -> bool {
            slot.and_then(Slot::ready).is_some_and(|held| !held.is_closed())
        }
        open(self.executors.get(&key)) || open(self.engines.get(&key))
    }

    /// Tells the decisions of `device` what its sessions do. `now` in nanoseconds of their clock.
    pub(super) fn observe(&mut self, device: Device, now: u64) {
        fn of(idle: Option<Duration>, now: u64) -> Use {
            let since = |idle: Duration| now.saturating_sub(u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX));
            idle.map_or(Use::Working, |idle| Use::Idle { since: since(idle) })
        }
        fn uses<T: Held>(slots: &HashMap<Key, Slot<T>>, device: Device, now: u64) -> Vec<(SessionId, Use)> {
            let seen = |slot: &Slot<T>| {
                let Slot::Ready { id, held } = slot else { return None };
                Some((*id, of(held.idle(), now)))
            };
            slots.iter().filter(|((_, at), _)| *at == device).filter_map(|(_, slot)| seen(slot)).collect()
        }
        let (executors, engines) = (uses(&self.executors, device, now), uses(&self.engines, device, now));
        let beside = self.beside.iter().filter(|(_, (executor, _))| executor.model().device == device);
        let beside = beside.map(|(id, (executor, seat))| (*id, of(executor.seat_idle(*seat), now)));
        let beside: Vec<_> = beside.collect();
        let decisions = self.device(device);
        for (id, seen) in executors.into_iter().chain(engines).chain(beside) {
            decisions.observe(id, seen);
        }
    }

    /// Closes session `id` unless it works, and tells whether it did. Then its slot is free.
    pub(super) fn close(&mut self, id: SessionId) -> bool {
        fn close<T: Held>(slots: &mut HashMap<Key, Slot<T>>, key: Key, id: SessionId) -> bool {
            let held = slots.get(&key).filter(|slot| slot.id() == id).and_then(Slot::ready);
            let closed = held.is_some_and(|held| held.close_if_idle(Duration::ZERO, Duration::ZERO));
            closed && slots.remove(&key).is_some()
        }
        let Some(Place { key, kind, .. }) = self.places.get(&id) else { return false };
        let key = *key;
        match kind {
            Kind::Runs | Kind::Replaces(_) => close(&mut self.executors, key, id),
            Kind::Generates => close(&mut self.engines, key, id),
            Kind::Beside(_) => {
                let closed = self.beside.get(&id).is_some_and(|(executor, seat)| executor.remove_seat(*seat));
                closed && self.beside.remove(&id).is_some()
            }
        }
    }

    /// Session `id` is at its end; what was to replace it and has not begun is not wanted any more,
    /// and those beside it go, too.
    pub(super) fn leaves(&mut self, id: SessionId) {
        let Some(device) = self.places.get(&id).map(|place| place.key.1) else { return };
        self.device(device).evicted(id);
        self.beside.remove(&id);
        let depends = |kind: Kind| kind == Kind::Replaces(id) || kind == Kind::Beside(id);
        let depend = self.places.iter().filter(|(_, place)| depends(place.kind));
        let depend: Vec<_> = depend.map(|(id, place)| (*id, place.kind, place.start.is_some())).collect();
        for (id, kind, waits) in depend {
            match kind {
                _ if waits => self.forget(id),
                // Its thread sees that there is nothing more to do.
                Kind::Beside(_) if self.beside.remove(&id).is_some() => self.device(device).evicted(id),
                _ => {}
            }
        }
    }

    /// Session `id` will not be loaded: nobody waits for it.
    pub(super) fn forget(&mut self, id: SessionId) {
        let Some(Place { key, kind, .. }) = self.places.remove(&id) else { return };
        self.device(key.1).forget(id);
        match kind {
            Kind::Runs if self.executors.get(&key).is_some_and(|slot| slot.id() == id) => {
                self.executors.remove(&key);
            }
            Kind::Generates if self.engines.get(&key).is_some_and(|slot| slot.id() == id) => {
                self.engines.remove(&key);
            }
            _ => {}
        }
    }

    /// Takes the sender of `waiter` out, and tells it `error`.
    pub(super) fn refuse(&mut self, waiter: WaiterId, error: &LoadError) {
        fn take<T: Held>(slots: &mut HashMap<Key, Slot<T>>, waiter: WaiterId) -> Option<oneshot::Sender<Outcome<T>>> {
            slots.values_mut().find_map(|slot| {
                let Slot::Coming { waiters, .. } = slot else { return None };
                let place = waiters.iter().position(|(other, _)| *other == waiter)?;
                Some(waiters.swap_remove(place).1)
            })
        }
        // That nobody listens any more is nothing to do about.
        if let Some(sender) = take(&mut self.executors, waiter) {
            let _ = sender.send(Err(error.clone()));
        } else if let Some(sender) = take(&mut self.engines, waiter) {
            let _ = sender.send(Err(error.clone()));
        }
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").field("devices", &self.devices).finish_non_exhaustive()
    }
}
