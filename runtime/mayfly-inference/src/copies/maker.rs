//! Copies made in the background, one at a time: a thread that lives as long as there are orders.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use mayfly_types::Digest;

use super::Copies;
use crate::package::{ChildWork, first_load};

/// A copy that somebody wants.
pub(crate) struct Order {
    pub(crate) digest: Digest,
    /// The package.
    pub(crate) folder: Arc<Path>,
    pub(crate) weight_bytes: u64,
    /// Asked again and again while the child works; false ends it.
    pub(crate) wanted: Box<dyn Fn() -> bool + Send>,
    /// Called once there is a copy, or there will be none.
    pub(crate) done: Box<dyn FnOnce(bool) + Send>,
}

#[derive(Default)]
pub(super) struct Queue(Mutex<Orders>);

#[derive(Default)]
struct Orders {
    waiting: VecDeque<Order>,
    /// There is a thread.
    working: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Order> {
        let mut orders = self.lock();
        let order = orders.waiting.pop_front();
        orders.working = order.is_some();
        order
    }
}

impl Copies {
    /// Has a copy made. Does not block. An order that leads to nothing is dropped, and the log says why.
    pub(crate) fn order(&self, order: Order) {
        let mut orders = self.0.queue.lock();
        // Each loaded model orders once, so the queue is never longer than there are sessions.
        orders.waiting.push_back(order);
        if std::mem::replace(&mut orders.working, true) {
            return;
        }
        drop(orders);
        let this = self.clone();
        let work = move || {
            while let Some(order) = this.0.queue.next() {
                this.fill(order);
            }
        };
        if let Err(error) = thread::Builder::new().name("mayfly-prepack".to_owned()).spawn(work) {
            tracing::info!(%error, "no thread to make prepacked copies");
            let mut orders = self.0.queue.lock();
            orders.working = false;
            let dropped = std::mem::take(&mut orders.waiting);
            drop(orders);
            dropped.into_iter().for_each(|order| (order.done)(false));
        }
    }

    fn fill(&self, order: Order) {
        let Order { digest, folder, weight_bytes, wanted, done } = order;
        if !wanted() {
            return;
        }
        let made = match self.0.making.as_ref().zip(self.begin(digest, weight_bytes)) {
            Some((making, draft)) => {
                let work = ChildWork { folder: &folder, limits: making.limits(), copy: Some(&draft), wanted: &*wanted };
                let ended = first_load(&making.settings.child, &work).map_err(|error| error.to_string());
                let ended = ended.and_then(|heard| heard.ended);
                match ended.and_then(|()| draft.keep().map_err(|error| error.to_string())) {
                    Ok(()) => {
                        tracing::info!(model = %digest, "a prepacked copy was made");
                        true
                    }
                    Err(why) => {
                        tracing::info!(model = %digest, why, "no prepacked copy could be made");
                        false
                    }
                }
            }
            // An import may have brought one since.
            None => self.has(digest),
        };
        done(made);
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}
