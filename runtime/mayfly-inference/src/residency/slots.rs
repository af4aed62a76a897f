//! What is loaded or being loaded: executors and engines, which have one limit and one idle clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mayfly_types::Digest;
use tokio::sync::watch;

use super::Residents;
use crate::generation::Engine;
use crate::session::{Executor, Model};
use crate::{Device, LoadError};

/// A package on a device.
pub(super) type Key = (Digest, Device);

/// How a load ended, once it has.
pub(crate) type Outcome<T> = Option<Result<Arc<T>, LoadError>>;

/// Something loaded that goes when nobody uses it: an executor or an engine.
pub(crate) trait Held: Send + Sync + Sized + 'static {
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

    /// Whether it runs on the package though a prepacked copy could be had.
    fn wants_copy(&self) -> bool;

    /// There is a copy of what it runs now.
    fn copy_made(residents: &Arc<Residents>, this: &Arc<Self>);
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

        fn wants_copy(&self) -> bool {
            <$kind>::wants_copy(self)
        }
    };
}

impl Held for Executor {
    forward!(Executor);

    fn among(slots: &mut Slots) -> &mut HashMap<Key, Slot<Self>> {
        &mut slots.executors
    }

    fn copy_made(residents: &Arc<Residents>, this: &Arc<Self>) {
        residents.replace(this);
    }
}

impl Held for Engine {
    forward!(Engine);

    fn among(slots: &mut Slots) -> &mut HashMap<Key, Slot<Self>> {
        &mut slots.engines
    }

    /// Sequences cannot move to another session: the next load finds the copy.
    fn copy_made(_: &Arc<Residents>, _: &Arc<Self>) {}
}

#[derive(Debug)]
pub(crate) enum Slot<T> {
    Loading(watch::Receiver<Outcome<T>>),
    Ready(Arc<T>),
}

impl<T> Slot<T> {
    fn ready(&self) -> Option<&Arc<T>> {
        match self {
            Self::Ready(held) => Some(held),
            Self::Loading(_) => None,
        }
    }
}

/// Everything loaded or being loaded.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub(super) executors: HashMap<Key, Slot<Executor>>,
    pub(super) engines: HashMap<Key, Slot<Engine>>,
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.executors.len() + self.engines.len()
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

    /// Closes what has been idle longest, if one may go; tells whether it did.
    pub(super) fn make_room(&mut self, stay_min: Duration) -> bool {
        fn idle<T: Held>(slots: &HashMap<Key, Slot<T>>, engine: bool) -> impl Iterator<Item = (Duration, bool, Key)> {
            slots.iter().filter_map(move |(key, slot)| Some((slot.ready()?.idle()?, engine, *key)))
        }
        fn close<T: Held>(slots: &mut HashMap<Key, Slot<T>>, key: Key, stay_min: Duration) -> bool {
            let held = slots.get(&key).and_then(Slot::ready);
            let closed = held.is_some_and(|held| held.close_if_idle(stay_min, Duration::ZERO));
            closed && slots.remove(&key).is_some()
        }
        let mut all: Vec<_> = idle(&self.executors, false).chain(idle(&self.engines, true)).collect();
        all.sort_unstable_by(|left, right| right.cmp(left));
        all.into_iter().any(|(_, engine, key)| {
            if engine { close(&mut self.engines, key, stay_min) } else { close(&mut self.executors, key, stay_min) }
        })
    }

    /// Closes everything that has been idle for `idle` and loaded for `stay`; gives how many.
    pub(super) fn close_idle(&mut self, stay: Duration, idle: Duration) -> usize {
        fn sweep<T: Held>(slots: &mut HashMap<Key, Slot<T>>, stay: Duration, idle: Duration) {
            slots.retain(|_, slot| !slot.ready().is_some_and(|held| held.close_if_idle(stay, idle)));
        }
        let before = self.len();
        sweep(&mut self.executors, stay, idle);
        sweep(&mut self.engines, stay, idle);
        before - self.len()
    }
}
