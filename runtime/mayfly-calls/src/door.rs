//! The door: how many calls are open on the node. Memory only, before anything else is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Why a call was turned away. Nothing was opened: there is no row of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TurnedAway {
    /// The node is full.
    #[error("this host has calls_max = {0} calls open; retry in a moment")]
    Node(u32),
    /// The server is stopping.
    #[error("the server is stopping; retry in a moment")]
    Stopping,
}

/// Counts open calls. Clones share the count.
#[derive(Debug, Clone)]
pub(crate) struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    calls_max: u32,
    stopping: AtomicBool,
    open: AtomicU32,
}

/// The right to be open. Dropping it makes room.
#[derive(Debug)]
pub(crate) struct Permit(Door);

impl Door {
    pub(crate) fn new(calls_max: u32) -> Self {
        Self(Arc::new(Inner { calls_max, stopping: AtomicBool::new(false), open: AtomicU32::new(0) }))
    }

    /// Lets one call in.
    pub(crate) fn enter(&self) -> Result<Permit, TurnedAway> {
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err(TurnedAway::Stopping);
        }
        let one_more = |open: u32| (open < self.0.calls_max).then_some(open + 1);
        let entered = self.0.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.map(|_| Permit(self.clone())).map_err(|_| TurnedAway::Node(self.0.calls_max))
    }

    /// Turns away whatever comes from now on.
    pub(crate) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Calls open on the node.
    pub(crate) fn open(&self) -> u32 {
        self.0.open.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_leaving_makes_room() {
        let door = Door::new(2);
        let first = door.enter().unwrap();
        let _second = door.enter().unwrap();
        assert_eq!(door.enter().unwrap_err(), TurnedAway::Node(2));
        assert_eq!(door.open(), 2);
        drop(first);
        let _again = door.enter().unwrap();
        assert_eq!(door.open(), 2);
    }

    #[test]
    fn nobody_enters_a_stopping_server() {
        let door = Door::new(10);
        let inside = door.enter().unwrap();
        door.stop();
        assert_eq!(door.enter().unwrap_err(), TurnedAway::Stopping);
        assert_eq!(door.open(), 1);
        drop(inside);
        assert_eq!(door.open(), 0);
    }
}
