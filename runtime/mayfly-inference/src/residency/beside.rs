//! More sessions of a model whose runs wait for each other, or are so many that they are better shared out: asked for by its
//! executor when one would have paid for itself, loaded where there is room without anything going for it, gone by the idle
//! clock.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use mayfly_scheduler::residency::{Fit, Need, SessionId};

use super::need::{File, SESSION_BYTES_MIN};
use super::slots::{Key, Kind, Place, Slot};
use super::{Residents, Wanted};
use crate::session::{self, Executor, SeatId, Why};
use crate::{Device, LoadError};

/// A session that takes more of its own than this, and more than an eighth of what it maps, is no cheap one.
const CHEAP_BYTES: u64 = 8 << 20;

impl Residents {
    /// From now on `executor` asks here for one more session when it is crowded.
    pub(super) fn watch_crowd(self: &Arc<Self>, executor: &Arc<Executor>) {
        if self.options.team.narrow_max() > 0 && executor.model().device == Device::Cpu {
            let (residents, this) = (Arc::downgrade(self), Arc::downgrade(executor));
            executor.on_crowd(move |why| {
                if let (Some(residents), Some(executor)) = (residents.upgrade(), this.upgrade()) {
                    residents.open_beside(&executor, why);
                }
            });
        }
    }

    fn open_beside(self: &Arc<Self>, executor: &Arc<Executor>, why: Why) {
        let model = executor.model();
        let key: Key = (model.digest, model.device);
        let (file, weights) = self.file(model);
        // What is packed for each session anew is not there twice for the sake of a little speed.
        let packs = file != File::Copy && weights.beside > 0;
        if (why == Why::Waiting && !executor.is_brisk()) || packs || executor.unpacked() {
            return;
        }
        let mut slots = self.lock();
        let main = match slots.executors.get(&key) {
            Some(Slot::Ready { id, held }) if Arc::ptr_eq(held, executor) && !held.is_closed() => *id,
            _ => return,
        };
        let beside = slots.places.values().filter(|place| place.kind == Kind::Beside(main)).count();
        if beside >= self.options.team.narrow_max() {
            return;
        }
        let need = self.need(&mut slots, key, &Wanted { file, weights, kv_bytes: 0 });
        let cheap = need.own <= CHEAP_BYTES.max(need.mapped / 8);
        if !cheap || slots.device(key.1).is_blocked() || slots.device(key.1).fit(need) != Ok(Fit::Fits) {
            return;
        }
        let id = SessionId(slots.number());
        if slots.device(key.1).want(id, need, false).is_err() {
            return;
        }
        let (residents, also, of) = (Arc::downgrade(self), Arc::downgrade(self), Arc::clone(executor));
        let options = self.options.clone();
        let start = move || {
            let this = Arc::clone(&of);
            let ready = move |result| Self::loaded_beside(&residents, id, &this, need.mapped, result);
            session::start_beside(of, options, ready, move || Self::gone_beside(&also, id))
        };
        let (kind, start) = (Kind::Beside(main), Some(Box::new(start) as _));
        slots.places.insert(id, Place { key, kind, start, kv_bytes: 0, mapped: need.mapped });
        self.settle(&mut slots, key.1);
    }

    fn loaded_beside(
        residents: &Weak<Self>,
        id: SessionId,
        executor: &Arc<Executor>,
        mapped: u64,
        result: Result<(SeatId, u64), LoadError>,
    ) {
        let Some(residents) = residents.upgrade() else { return };
        let now = residents.now();
        let mut slots = residents.lock();
        let device = executor.model().device;
        match result {
            Ok((seat, bytes)) => {
                residents.loads.fetch_add(1, Ordering::Relaxed);
                let own = bytes.max(SESSION_BYTES_MIN);
                slots.device(device).loaded(now, id, Need { own, mapped });
                slots.beside.insert(id, (Arc::clone(executor), seat));
                if executor.is_closed() {
                    slots.leaves(id);
                }
            }
            Err(_) => {
                slots.places.remove(&id);
                slots.device(device).failed(id);
            }
        }
        residents.settle(&mut slots, device);
        drop(slots);
        residents.woken.wake();
    }

    fn gone_beside(residents: &Weak<Self>, id: SessionId) {
        let Some(residents) = residents.upgrade() else { return };
        let mut slots = residents.lock();
        slots.beside.remove(&id);
        if let Some(Place { key, .. }) = slots.places.remove(&id) {
            slots.device(key.1).unloaded(id);
            residents.settle(&mut slots, key.1);
        }
        drop(slots);
        residents.unloads.fetch_add(1, Ordering::Relaxed);
        // The clock sees to what is freed after this.
        residents.woken.wake();
    }
}
