//! Whose turn it is among those that compute: the tenant that was served least. No clock, no thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mayfly_types::TenantId;

/// Jobs that wait for a turn, by tenant. A tenant's jobs take turns among themselves in the order they came.
#[derive(Debug)]
pub(crate) struct Turns<J> {
    tenants: BTreeMap<TenantId, Tenant<J>>,
    /// Tenants with a job that waits, least served first.
    order: BTreeSet<(u64, TenantId)>,
    /// What the last one that had a turn had been served: who comes new begins here and owes nothing, and is owed
    /// nothing for the time before.
    floor: u64,
}

#[derive(Debug)]
struct Tenant<J> {
    served: u64,
    waiting: VecDeque<J>,
    /// Jobs that have their turn now.
    running: usize,
}

impl<J> Turns<J> {
    /// Nobody waits.
    pub(crate) fn new() -> Self {
        Self { tenants: BTreeMap::new(), order: BTreeSet::new(), floor: 0 }
    }

    /// A job comes.
    pub(crate) fn add(&mut self, tenant: TenantId, job: J) {
        let floor = self.floor;
        let new = || Tenant { served: floor, waiting: VecDeque::new(), running: 0 };
        let entry = self.tenants.entry(tenant).or_insert_with(new);
        entry.waiting.push_back(job);
        self.order.insert((entry.served, tenant));
    }

    /// The job whose turn it is. [`Self::done`] must follow.
    pub(crate) fn next(&mut self) -> Option<(TenantId, J)> {
        let (served, tenant) = self.order.pop_first()?;
        self.floor = self.floor.max(served);
        let entry = self.tenants.get_mut(&tenant)?;
        let job = entry.waiting.pop_front()?;
        entry.running += 1;
        if !entry.waiting.is_empty() {
            self.order.insert((served, tenant));
        }
        Some((tenant, job))
    }

    /// The turn of a job is over and took `cost`; `again` is the job if it wants another one.
    pub(crate) fn done(&mut self, tenant: TenantId, cost: u64, again: Option<J>) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        self.order.remove(&(entry.served, tenant));
        entry.served = entry.served.saturating_add(cost);
        entry.running = entry.running.saturating_sub(1);
        entry.waiting.extend(again);
        if !entry.waiting.is_empty() {
            self.order.insert((entry.served, tenant));
        } else if entry.running == 0 {
            self.tenants.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `turns` of cost 1 among tenants with that many endless jobs each: turns that each tenant had.
    fn shares(jobs: &[usize], turns: usize) -> Vec<usize> {
        let ids: Vec<_> = jobs.iter().map(|_| TenantId::new()).collect();
        let mut queue = Turns::new();
        for (tenant, count) in ids.iter().zip(jobs) {
            (0..*count).for_each(|job| queue.add(*tenant, job));
        }
        let mut had = vec![0; jobs.len()];
        for _ in 0..turns {
            let (tenant, job) = queue.next().expect("they are endless");
            had[ids.iter().position(|id| *id == tenant).expect("one of them")] += 1;
            queue.done(tenant, 1, Some(job));
        }
        had
    }

    #[test]
    fn tenants_share_alike_however_many_jobs_they_bring() {
        assert_eq!(shares(&[1, 8], 100), [50, 50]);
        assert_eq!(shares(&[1, 100, 3], 300), [100, 100, 100]);
    }

    #[test]
    fn jobs_of_one_tenant_take_turns() {
        let (tenant, mut queue) = (TenantId::new(), Turns::new());
        (0..3).for_each(|job| queue.add(tenant, job));
        let mut seen = Vec::new();
        for _ in 0..6 {
            let (tenant, job) = queue.next().expect("they are endless");
            seen.push(job);
            queue.done(tenant, 1, Some(job));
        }
        assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn who_comes_late_is_next_but_not_owed_the_past() {
        let (early, late, mut queue) = (TenantId::new(), TenantId::new(), Turns::new());
        queue.add(early, "early");
        for _ in 0..100 {
            let (tenant, job) = queue.next().expect("one is there");
            queue.done(tenant, 10, Some(job));
        }
        queue.add(late, "late");
        let mut had = Vec::new();
        for _ in 0..8 {
            let (tenant, job) = queue.next().expect("two are there");
            had.push(job);
            queue.done(tenant, 10, Some(job));
        }
        assert_eq!(had.iter().filter(|job| **job == "late").count(), 4, "{had:?}");
        assert!(had[..2].contains(&"late"), "{had:?}");
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (tenant, mut queue) = (TenantId::new(), Turns::new());
        queue.add(tenant, 1);
        queue.add(tenant, 2);
        let (_, first) = queue.next().expect("two wait");
        let (_, second) = queue.next().expect("one waits");
        assert_eq!((first, second, queue.next()), (1, 2, None));
        queue.done(tenant, 5, None);
        assert_eq!(queue.tenants.len(), 1, "one still runs");
        queue.done(tenant, 5, None);
        assert!(queue.tenants.is_empty() && queue.next().is_none());
    }
}
