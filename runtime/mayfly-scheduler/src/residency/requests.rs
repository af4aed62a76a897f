//! Loads that have not begun, and all who wait for one.

use std::collections::BTreeMap;

use super::sessions::{Need, SessionId};

/// Names one who waits; the caller chooses it, never the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// A load that somebody wants.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: SessionId,
    pub(super) need: Need,
    pub(super) pinned: bool,
    /// How often a later one went first.
    pub(super) passed: u32,
    /// It stays though nobody waits for it.
    pub(super) stands: bool,
    /// Others may go for it though nobody waits for it.
    pub(super) evicts: bool,
}

/// One who waits for a load, begun or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) id: SessionId,
    /// If the load has not begun by then, there is no point in waiting on.
    pub(super) until: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    /// In the order in which they came.
    pub(super) queue: Vec<Request>,
    pub(super) waiters: BTreeMap<WaiterId, Waiter>,
}

impl Requests {
    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.queue.iter().any(|request| request.id == id)
    }

    pub(super) fn is_waited_for(&self, id: SessionId) -> bool {
        self.waiters.values().any(|waiter| waiter.id == id)
    }

    /// Takes everybody out who waits for `id`.
    pub(super) fn answer(&mut self, id: SessionId) -> Vec<WaiterId> {
        let all: Vec<_> =
            self.waiters.iter().filter(|(_, waiter)| waiter.id == id).map(|(waiter, _)| *waiter).collect();
        for waiter in &all {
            self.waiters.remove(waiter);
        }
        all
    }

    /// Takes one who waits out, and its request if nobody else waits for it and it has not begun; gives that request's id.
    pub(super) fn leave(&mut self, waiter: WaiterId) -> Option<SessionId> {
        let id = self.waiters.remove(&waiter)?.id;
        if self.is_waited_for(id) {
            return None;
        }
        let place = self.queue.iter().position(|request| request.id == id && !request.stands)?;
        self.queue.remove(place);
        Some(id)
    }

    /// Those whose time is over while their load has not begun.
    pub(super) fn overdue(&self, now: u64) -> Vec<WaiterId> {
        let over = |waiter: &Waiter| waiter.until <= now && self.contains(waiter.id);
        self.waiters.iter().filter(|(_, waiter)| over(waiter)).map(|(id, _)| *id).collect()
    }
}
