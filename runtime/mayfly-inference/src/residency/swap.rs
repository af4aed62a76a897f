//! Going over to a prepacked copy, or, where none can be made, from unpacked weights to packed ones: it is made in the background, loaded beside the session that runs, and takes over
//! between two runs.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use mayfly_scheduler::residency::SessionId;

use super::need::File;
use super::slots::{Held, Kind, Place, Slot};
use super::{Outcome, Residents, Wanted};
use crate::copies::Order;
use crate::session::{self, Executor, Source};

impl Residents {
    /// Has a prepacked copy made of a model that was loaded without one.
    pub(super) fn order_copy<T: Held>(self: &Arc<Self>, plain: &Arc<T>) {
        let Some(copies) = self.options.copies.as_ref().filter(|_| plain.wants_copy()) else { return };
        let model = plain.model();
        let Some(source) = model.copy.clone() else { return };
        let (alive, residents, plain) = (Arc::downgrade(self), Arc::downgrade(self), Arc::downgrade(plain));
        copies.order(Order {
            digest: model.digest,
            folder: source.folder,
            weight_bytes: source.weight_bytes,
            wanted: Box::new(move || alive.strong_count() > 0),
            done: Box::new(move |made| {
                if let (Some(residents), Some(plain)) = (residents.upgrade(), plain.upgrade()) {
                    T::copy_ended(&residents, &plain, made);
                }
            }),
        });
    }

    /// Loads the copy of what `plain` runs (or the package, its weights packed), beside it, once nobody waits for another
    /// load and there is room without anything going for it; then the next runs go there.
    pub(super) fn replace(self: &Arc<Self>, plain: &Arc<Executor>, source: Source) {
        let model = plain.model().clone();
        let key = (model.digest, model.device);
        let (file, weights) = self.file(&model);
        let mut slots = self.lock();
        let old = match slots.executors.get(&key) {
            Some(Slot::Ready { id, held }) if Arc::ptr_eq(held, plain) && !held.is_closed() => *id,
            _ => return,
        };
        let id = SessionId(slots.number());
        let need = self.need(&mut slots, key, &Wanted { file, weights, kv_bytes: 0 });
        if slots.device(key.1).want(id, need, false).is_err() {
            return;
        }
        let (residents, also, plain) = (Arc::downgrade(self), Arc::downgrade(self), Arc::clone(plain));
        let options = self.options.clone();
        let start = move || {
            let ready = move |result| Self::replaced(&residents, id, file, &plain, result);
            let gone = move |executor: &Arc<Executor>| Self::gone(&also, id, executor);
            session::start(model, options, source, ready, gone)
        };
        let (start, kind) = (Some(Box::new(start) as _), Kind::Replaces(old));
        slots.places.insert(id, Place { key, kind, start, kv_bytes: 0, mapped: need.mapped });
        self.settle(&mut slots, key.1);
        let blocked = slots.device(key.1).is_blocked();
        drop(slots);
        if blocked {
            self.woken.wake();
        }
    }

    /// The thread that loaded the other one tells how that ended. Without a copy `plain` goes on.
    fn replaced(residents: &Weak<Self>, id: SessionId, file: File, plain: &Arc<Executor>, result: Outcome<Executor>) {
        let Some(residents) = residents.upgrade() else {
            if let Ok(copy) = result {
                copy.close();
            }
            return;
        };
        let now = residents.now();
        let mut slots = residents.lock();
        let Some(key) = slots.places.get(&id).map(|place| place.key) else { return };
        match result {
            Err(_) => {
                slots.places.remove(&id);
                slots.device(key.1).failed(id);
            }
            Ok(copy) => {
                residents.loads.fetch_add(1, Ordering::Relaxed);
                let measured = slots.measured(id, copy.as_ref(), file);
                slots.device(key.1).loaded(now, id, measured);
                let current = match slots.executors.get(&key) {
                    Some(Slot::Ready { id, held }) if Arc::ptr_eq(held, plain) => Some(*id),
                    _ => None,
                };
                match current.filter(|_| plain.hand_over(&copy)) {
                    Some(old) => {
                        residents.leaving().push(Arc::clone(plain));
                        residents.watch_crowd(&copy);
                        slots.executors.insert(key, Slot::Ready { id, held: copy });
                        slots.leaves(old);
                    }
                    // It was unloaded meanwhile: the next load finds the copy.
                    None => {
                        copy.close();
                        slots.leaves(id);
                    }
                }
            }
        }
        residents.settle(&mut slots, key.1);
        drop(slots);
        residents.woken.wake();
    }
}
