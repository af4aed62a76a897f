//! Doing what the decisions say, and the idle clock's part.

use std::time::Duration;

use mayfly_scheduler::residency::{Command, Need, SessionId};

use super::need::File;
use super::slots::{Held, Kind, Place, Slot, Slots};
use super::{LOOK_BLOCKED, Residents, refused};
use crate::{Device, LoadError};

impl Residents {
    /// Does what is to be done on `device`, until there is nothing; gives how many sessions were told to go.
    pub(super) fn settle(&self, slots: &mut Slots, device: Device) -> usize {
        let now = self.now();
        slots.observe(device, now);
        slots.pin(device);
        let mut closed = 0;
        loop {
            let commands = slots.device(device).next(now);
            if commands.is_empty() {
                return closed;
            }
            for command in commands {
                match command {
                    Command::Load { id } => slots.begin(id),
                    Command::Evict { id } if slots.close(id) => {
                        slots.leaves(id);
                        closed += 1;
                    }
                    Command::Evict { id } => slots.device(device).kept(id),
                    Command::Refuse { waiter, why } => slots.refuse(waiter, &refused(device, why)),
                    Command::Forget { id } => slots.forget(id),
                }
            }
        }
    }

    /// Closes every session that is idle and past its stay, or, with `force`, every one without work that is not pinned.
    ///
    /// Their threads drop them at once; nobody waits for that here.
    pub(crate) fn evict_idle(&self, force: bool) -> usize {
        let mut slots = self.lock();
        let mut closed = 0;
        if force {
            let kept = |place: &Place| slots.kept.has(place.key, place.kind);
            let ids = slots.places.iter().filter(|(_, place)| !kept(place)).map(|(id, _)| *id);
            let ids: Vec<_> = ids.collect();
            for id in ids {
                if slots.close(id) {
                    slots.leaves(id);
                    closed += 1;
                }
            }
        }
        let devices: Vec<_> = slots.devices.keys().copied().collect();
        closed + devices.into_iter().map(|device| self.settle(&mut slots, device)).sum::<usize>()
    }

    /// Until something may have to be done here; none while nothing is loaded or asked for. What works or leaves needs no
    /// more than to be looked at now and then.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let now = self.now();
        let slots = self.lock();
        if slots.places.is_empty() && self.leaving().is_empty() && slots.kept.is_empty() {
            return None;
        }
        let look = slots.devices.values().map(|decisions| {
            let due =
                decisions.next_due(now).map_or(Duration::MAX, |due| Duration::from_nanos(due.saturating_sub(now)));
            if decisions.is_blocked() { due.min(LOOK_BLOCKED) } else { due }
        });
        look.min()
    }
}

impl Slots {
    /// Begins the load of session `id`.
    fn begin(&mut self, id: SessionId) {
        let Some(place) = self.places.get_mut(&id) else { return };
        let (key, kind) = (place.key, place.kind);
        let Some(start) = place.start.take() else { return };
        let Err(error) = start() else { return };
        self.places.remove(&id);
        self.device(key.1).failed(id);
        self.note_load(key, kind, false);
        match kind {
            Kind::Runs => Self::failed(self.executors.remove(&key), &error),
            Kind::Generates => Self::failed(self.engines.remove(&key), &error),
            Kind::Beside(_) => tracing::warn!(?error, "one more session could not be loaded"),
            Kind::Replaces(_) => tracing::warn!(?error, "a prepacked copy could not be loaded; the session goes on"),
        }
    }

    fn failed<T>(slot: Option<Slot<T>>, error: &LoadError) {
        let Some(Slot::Coming { waiters, .. }) = slot else { return };
        for (_, sender) in waiters {
            let _ = sender.send(Err(error.clone()));
        }
    }

    /// What session `id` takes now that it is loaded. `expected` is the file it was to run on.
    pub(super) fn measured<T: Held>(&mut self, id: SessionId, held: &T, expected: File) -> Need {
        let model = held.model();
        // A copy that could not be loaded: then the package was.
        let file = match model.copy.is_some() && !held.wants_copy() {
            true => File::Copy,
            false if held.unpacked() => File::Unpacked,
            false => File::Package,
        };
        let (kv_bytes, mapped) = self.places.get(&id).map_or((0, 0), |place| (place.kv_bytes, place.mapped));
        let mapped = if file == expected { mapped } else { model.weights.beside };
        let own = match model.device {
            Device::Cpu => self.measures.note((model.digest, model.device, file), held.bytes()),
            // Its memory is not the process's: what was predicted stands.
            Device::Cuda => super::predict(model.weights, model.device, file).own,
        };
        Need { own: own.saturating_add(kv_bytes), mapped }
    }
}
