//! Instances that wait for their deployment's next request. No thread, no clock: the time is an argument.
//!
//! Each belongs to one revision of one deployment and is given to nobody else. There are bounds for each deployment and
//! for the node, in number and in bytes; at the node's, the one that has waited longest goes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use mayfly_types::{DeploymentId, RevisionId};

/// What may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) count_max: u32,
    pub(crate) per_deployment_max: u32,
    pub(crate) bytes_max: u64,
}

/// All that waits.
#[derive(Debug)]
pub(crate) struct Shelves<T> {
    bounds: Bounds,
    deployments: HashMap<DeploymentId, Shelf<T>>,
    /// Whose it is, by the order in which they came to wait.
    order: BTreeMap<u64, DeploymentId>,
    serial: u64,
    bytes: u64,
}

/// One deployment. Kept as long as one of its instances waits or answers.
#[derive(Debug)]
struct Shelf<T> {
    /// Counted up when nothing of before may be used again.
    generation: u64,
    /// Requests that will bring an instance back, or none.
    out: u32,
    /// Longest waiting first.
    waiting: VecDeque<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    serial: u64,
    revision: RevisionId,
    bytes: u64,
    until: Instant,
    thing: T,
}

/// A request of a deployment whose instances are kept. [`Shelves::end`] must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    deployment: DeploymentId,
    revision: RevisionId,
    generation: u64,
}

impl<T> Shelves<T> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, deployments: HashMap::new(), order: BTreeMap::new(), serial: 0, bytes: 0 }
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.order.len()
    }

    /// A request begins. Gives the instance that has waited shortest, if one waits.
    pub(crate) fn begin(&mut self, deployment: DeploymentId, revision: RevisionId) -> (Ticket, Option<T>) {
        let new = || Shelf { generation: 0, out: 0, waiting: VecDeque::new() };
        let shelf = self.deployments.entry(deployment).or_insert_with(new);
        shelf.out = shelf.out.saturating_add(1);
        let ticket = Ticket { deployment, revision, generation: shelf.generation };
        let at = shelf.waiting.iter().rposition(|waiting| waiting.revision == revision);
        let found = at.and_then(|at| shelf.waiting.remove(at));
        (ticket, found.map(|waiting| self.taken(waiting)))
    }

    fn taken(&mut self, waiting: Waiting<T>) -> T {
        self.order.remove(&waiting.serial);
        self.bytes = self.bytes.saturating_sub(waiting.bytes);
        waiting.thing
    }

    /// A request ends, and its instance of `bytes` may wait `until` then, if there is one and it may be kept. Gives what
    /// has to go.
    pub(crate) fn end(&mut self, ticket: Ticket, back: Option<(T, u64, Instant)>) -> Vec<T> {
        let Some(shelf) = self.deployments.get_mut(&ticket.deployment) else {
            return back.into_iter().map(|b| b.0).collect();
        };
        shelf.out = shelf.out.saturating_sub(1);
        let mut gone = Vec::new();
        if let Some((thing, bytes, until)) = back {
            let full = shelf.waiting.len() >= self.bounds.per_deployment_max as usize;
            let fits = bytes <= self.bounds.bytes_max && self.bounds.count_max > 0;
            if shelf.generation != ticket.generation || full || !fits {
                gone.push(thing);
            } else {
                self.serial += 1;
                let serial = self.serial;
                shelf.waiting.push_back(Waiting { serial, revision: ticket.revision, bytes, until, thing });
                self.order.insert(serial, ticket.deployment);
                self.bytes = self.bytes.saturating_add(bytes);
            }
        }
        self.tidy(ticket.deployment);
        while self.order.len() > self.bounds.count_max as usize || self.bytes > self.bounds.bytes_max {
            let Some(oldest) = self.take_oldest() else { break };
            gone.push(oldest);
        }
        gone
    }

    /// The one that has waited longest: its place is wanted.
    pub(crate) fn take_oldest(&mut self) -> Option<T> {
        let (_, deployment) = self.order.pop_first()?;
        let waiting = self.deployments.get_mut(&deployment)?.waiting.pop_front()?;
        let thing = self.taken(waiting);
        self.tidy(deployment);
        Some(thing)
    }

    /// Nothing of the deployment is used again, also what answers a request now.
    pub(crate) fn forget(&mut self, deployment: DeploymentId) -> Vec<T> {
        let Some(shelf) = self.deployments.get_mut(&deployment) else { return Vec::new() };
        shelf.generation += 1;
        let waiting = std::mem::take(&mut shelf.waiting);
        let gone = waiting.into_iter().map(|waiting| self.taken(waiting)).collect();
        self.tidy(deployment);
        gone
    }

    /// Takes out what has waited long enough at `now`.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<T> {
        let mut expired = Vec::new();
        for shelf in self.deployments.values_mut() {
            let (over, left) = std::mem::take(&mut shelf.waiting).into_iter().partition(|waiting| waiting.until <= now);
            shelf.waiting = left;
            let over: VecDeque<_> = over;
            expired.extend(over);
        }
        self.deployments.retain(|_, shelf| shelf.out > 0 || !shelf.waiting.is_empty());
        expired.into_iter().map(|waiting| self.taken(waiting)).collect()
    }

    /// When the next one will have waited long enough.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.deployments.values().flat_map(|shelf| &shelf.waiting).map(|waiting| waiting.until).min()
    }

    fn tidy(&mut self, deployment: DeploymentId) {
        if self.deployments.get(&deployment).is_some_and(|shelf| shelf.out == 0 && shelf.waiting.is_empty()) {
            self.deployments.remove(&deployment);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BOUNDS: Bounds = Bounds { count_max: 3, per_deployment_max: 2, bytes_max: 100 };

    struct Scene {
        shelves: Shelves<&'static str>,
        now: Instant,
        revision: RevisionId,
    }

    impl Scene {
        fn new() -> Self {
            Self { shelves: Shelves::new(BOUNDS), now: Instant::now(), revision: RevisionId::new() }
        }

        /// A request of `deployment` that found nothing and leaves `thing`; what went for it.
        fn leave(&mut self, deployment: DeploymentId, thing: &'static str, bytes: u64) -> Vec<&'static str> {
            // Not by way of `begin` alone, which would take what waits.
            let (ticket, found) = self.shelves.begin(deployment, RevisionId::new());
            assert_eq!(found, None);
            let ticket = Ticket { revision: self.revision, ..ticket };
            self.shelves.end(ticket, Some((thing, bytes, self.now + Duration::from_secs(1))))
        }

        fn is_empty(&self) -> bool {
            let Shelves { deployments, order, bytes, .. } = &self.shelves;
            deployments.is_empty() && order.is_empty() && *bytes == 0
        }
    }

    #[test]
    fn the_last_one_left_is_taken_first_and_only_by_its_revision() {
        let (mut scene, deployment) = (Scene::new(), DeploymentId::new());
        assert!(scene.leave(deployment, "first", 1).is_empty());
        assert!(scene.leave(deployment, "second", 1).is_empty());
        let (other, found) = scene.shelves.begin(deployment, RevisionId::new());
        assert_eq!(found, None, "another revision");
        scene.shelves.end(other, None);
        let (_, found) = scene.shelves.begin(DeploymentId::new(), scene.revision);
        assert_eq!(found, None, "another deployment");
        let (one, found) = scene.shelves.begin(deployment, scene.revision);
        assert_eq!(found, Some("second"));
        let (two, found) = scene.shelves.begin(deployment, scene.revision);
        assert_eq!(found, Some("first"));
        let (three, found) = scene.shelves.begin(deployment, scene.revision);
        assert_eq!(found, None);
        for ticket in [one, two, three] {
            scene.shelves.end(ticket, None);
        }
        assert!(!scene.shelves.deployments.contains_key(&deployment));
    }

    #[test]
    fn bounds_of_deployment_node_and_bytes() {
        let (mut scene, one, two) = (Scene::new(), DeploymentId::new(), DeploymentId::new());
        assert!(scene.leave(one, "a", 10).is_empty() && scene.leave(one, "b", 10).is_empty());
        assert_eq!(scene.leave(one, "c", 10), ["c"], "two for each deployment");
        assert!(scene.leave(two, "d", 10).is_empty());
        assert_eq!(scene.leave(two, "e", 10), ["a"], "three on the node: the longest waiting one goes");
        assert_eq!(scene.leave(DeploymentId::new(), "f", 81), ["b", "d"], "100 bytes");
        assert_eq!(scene.leave(DeploymentId::new(), "g", 101), ["g"], "never fits");
        assert_eq!(scene.shelves.take_oldest(), Some("e"));
        assert_eq!(scene.shelves.take_oldest(), Some("f"));
        assert_eq!(scene.shelves.take_oldest(), None);
        assert!(scene.is_empty());
    }

    #[test]
    fn what_was_out_when_it_was_forgotten_does_not_come_back() {
        let (mut scene, deployment) = (Scene::new(), DeploymentId::new());
        scene.leave(deployment, "waiting", 1);
        let (ticket, _) = scene.shelves.begin(deployment, RevisionId::new());
        assert_eq!(scene.shelves.forget(deployment), ["waiting"]);
        assert_eq!(scene.shelves.end(ticket, Some(("out", 1, scene.now))), ["out"]);
        assert!(scene.is_empty());
        assert!(scene.shelves.forget(deployment).is_empty() && scene.is_empty());
    }

    #[test]
    fn each_has_its_time() {
        let (mut scene, deployment) = (Scene::new(), DeploymentId::new());
        scene.leave(deployment, "early", 1);
        let began = scene.now;
        scene.now += Duration::from_secs(5);
        scene.leave(deployment, "late", 1);
        assert_eq!(scene.shelves.next_expiry(), Some(began + Duration::from_secs(1)));
        assert!(scene.shelves.expire(began).is_empty());
        assert_eq!(scene.shelves.expire(began + Duration::from_secs(1)), ["early"]);
        assert_eq!(scene.shelves.expire(began + Duration::from_secs(60)), ["late"]);
        assert!(scene.is_empty() && scene.shelves.next_expiry().is_none());
    }
}
