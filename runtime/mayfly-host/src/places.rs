//! Places in the pool: one for each instance, whether it answers or waits for its deployment's next request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Instances alive, and since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    alive: AtomicU32,
    total: AtomicU64,
    reused: AtomicU64,
}

impl Counts {
    /// Instances alive now.
    pub(crate) fn alive(&self) -> u32 {
        self.alive.load(Ordering::Relaxed)
    }

    /// Instances since the start.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Requests since the start that an instance of an earlier request answered.
    pub(crate) fn reused(&self) -> u64 {
        self.reused.load(Ordering::Relaxed)
    }

    pub(crate) fn reuse(&self) {
        self.reused.fetch_add(1, Ordering::Relaxed);
    }
}

/// A place in the pool.
#[derive(Debug)]
pub(crate) struct Place(Arc<Counts>);

impl Place {
    /// One of `limit` places, if one is free.
    pub(crate) fn take(counts: &Arc<Counts>, limit: u32) -> Option<Self> {
        let more = |alive: u32| (alive < limit).then(|| alive + 1);
        counts.alive.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        counts.total.fetch_add(1, Ordering::Relaxed);
        Some(Self(Arc::clone(counts)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_are() {
        let counts = Arc::new(Counts::default());
        let one = Place::take(&counts, 1);
        assert!(one.is_some() && Place::take(&counts, 1).is_none());
        drop(one);
        assert!(Place::take(&counts, 1).is_some());
        assert_eq!((counts.alive(), counts.total()), (0, 2));
    }
}
