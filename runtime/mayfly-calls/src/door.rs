//! The door: how many calls are open, on the node and on each deployment. Memory only, before anything wakes up.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mayfly_types::DeploymentId;

/// Why a call was turned away. Nothing was opened: there is no row of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TurnedAway {
    /// The node is full.
    #[error("this host has calls_max = {0} calls open; retry in a moment")]
    Node(u32),
    /// The deployment is full.
    #[error("this deployment has calls_per_deployment_max = {0} calls open; retry when one has ended")]
    Deployment(u32),
    /// The server is stopping.
    #[error("the server is stopping; retry in a moment")]
    Stopping,
}

/// Counts open calls. Clones share the counts.
#[derive(Debug, Clone)]
pub(crate) struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    calls_max: u32,
    calls_per_deployment_max: u32,
    stopping: AtomicBool,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: u32,
    /// Only deployments with open calls have an entry.
    by_deployment: HashMap<DeploymentId, u32>,
}

/// The right to be open. Dropping it makes room.
#[derive(Debug)]
pub(crate) struct Permit {
    door: Door,
    deployment: DeploymentId,
}

impl Door {
    pub(crate) fn new(calls_max: u32, calls_per_deployment_max: u32) -> Self {
        let open = Mutex::default();
        Self(Arc::new(Inner { calls_max, calls_per_deployment_max, stopping: AtomicBool::new(false), open }))
    }

    /// Lets one call in.
    pub(crate) fn enter(&self, deployment: DeploymentId) -> Result<Permit, TurnedAway> {
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err(TurnedAway::Stopping);
        }
        let mut open = self.lock();
        if open.total >= self.0.calls_max {
            return Err(TurnedAway::Node(self.0.calls_max));
        }
        let here = open.by_deployment.get(&deployment).copied().unwrap_or(0);
        if here >= self.0.calls_per_deployment_max {
            return Err(TurnedAway::Deployment(self.0.calls_per_deployment_max));
        }
        open.total += 1;
        open.by_deployment.insert(deployment, here + 1);
        Ok(Permit { door: self.clone(), deployment })
    }

    /// Turns away whatever comes from now on.
    pub(crate) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Calls open on the node.
    pub(crate) fn open(&self) -> u32 {
        self.lock().total
    }

    /// Calls open on one deployment.
    pub(crate) fn open_on(&self, deployment: DeploymentId) -> u32 {
        self.lock().by_deployment.get(&deployment).copied().unwrap_or(0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.door.lock();
        open.total -= 1;
        if let Entry::Occupied(mut here) = open.by_deployment.entry(self.deployment) {
            *here.get_mut() -= 1;
            if *here.get() == 0 {
                here.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_leaving_makes_room() {
        let door = Door::new(3, 2);
        let (one, two) = (DeploymentId::new(), DeploymentId::new());
        let first = door.enter(one).unwrap();
        let _second = door.enter(one).unwrap();
        assert_eq!(door.enter(one).unwrap_err(), TurnedAway::Deployment(2));
        let _third = door.enter(two).unwrap();
        assert_eq!(door.enter(two).unwrap_err(), TurnedAway::Node(3));
        assert_eq!((door.open(), door.open_on(one), door.open_on(two)), (3, 2, 1));
        drop(first);
        let _again = door.enter(one).unwrap();
        assert_eq!((door.open(), door.open_on(one)), (3, 2));
    }

    #[test]
    fn a_deployment_at_rest_costs_nothing() {
        let door = Door::new(10, 10);
        drop(door.enter(DeploymentId::new()).unwrap());
        assert!(door.lock().by_deployment.is_empty());
        assert_eq!(door.open(), 0);
    }

    #[test]
    fn nobody_enters_a_stopping_server() {
        let door = Door::new(10, 10);
        let inside = door.enter(DeploymentId::new()).unwrap();
        door.stop();
        assert_eq!(door.enter(DeploymentId::new()).unwrap_err(), TurnedAway::Stopping);
        assert_eq!(door.open(), 1);
        drop(inside);
    }
}
