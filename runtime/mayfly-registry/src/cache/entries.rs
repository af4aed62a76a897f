//! A bounded cache whose values are checked against the changes each time they are taken out.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use moka::future::Cache;

use super::follow::Follower;
use crate::{ChangeKind, RecordsError};

/// Loads of one value in a row that were overtaken by changes, before it is answered without being cached.
const OVERTAKEN_MAX: usize = 4;

/// What a cached value was made of.
pub(super) trait Watched: std::fmt::Debug + Send + Sync + 'static {
    /// Whether the change makes it stale.
    fn touched_by(&self, change: &ChangeKind) -> bool;
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    /// It holds up to this version.
    seen: AtomicI64,
}

impl<V: Watched> Entry<V> {
    /// The value, if nothing has touched it since it was read.
    fn current(&self, follower: &Follower) -> Option<Arc<V>> {
        let holds = follower.still_holds(self.seen.load(Ordering::Acquire), |change| self.value.touched_by(change))?;
        self.seen.fetch_max(holds, Ordering::AcqRel);
        Some(Arc::clone(&self.value))
    }
}

/// Absent values are not cached: an attacker who asks for many names fills nothing.
#[derive(Debug, Clone)]
enum Miss {
    None,
    Failed(RecordsError),
}

pub(super) struct Entries<K, V> {
    cache: Cache<K, Arc<Entry<V>>>,
}

// Short on purpose: the values are other people's records.
impl<K, V> std::fmt::Debug for Entries<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

impl<K, V> Entries<K, V>
where
    K: Hash + Eq + Clone + std::fmt::Debug + Send + Sync + 'static,
    V: Watched,
{
    pub(super) fn new(entries_max: u64, idle: Duration) -> Self {
        Self { cache: Cache::builder().max_capacity(entries_max).time_to_idle(idle).build() }
    }

    /// The value of `key`, cached or loaded. Who asks while it is loaded waits for the same load.
    pub(super) async fn get<F>(
        &self,
        follower: &Follower,
        key: K,
        load: impl Fn() -> F,
    ) -> Result<Option<Arc<V>>, RecordsError>
    where
        F: Future<Output = Result<Option<V>, RecordsError>>,
    {
        follower.ensure_recent().await?;
        // Nearly every call ends here.
        if let Some(entry) = self.cache.get(&key).await
            && let Some(value) = entry.current(follower)
        {
            return Ok(Some(value));
        }
        for _ in 0..OVERTAKEN_MAX {
            let own = AtomicBool::new(false);
            let loading = async {
                own.store(true, Ordering::Relaxed);
                // Before the read: what changes while it runs must count as newer.
                let seen = AtomicI64::new(follower.version());
                match load().await {
                    Ok(Some(value)) => Ok(Arc::new(Entry { value: Arc::new(value), seen })),
                    Ok(None) => Err(Miss::None),
                    Err(error) => Err(Miss::Failed(error)),
                }
            };
            match self.cache.try_get_with(key.clone(), Box::pin(loading)).await {
                Ok(entry) => {
                    if let Some(value) = entry.current(follower) {
                        return Ok(Some(value));
                    }
                    self.cache.invalidate(&key).await;
                }
                Err(miss) => match &*miss {
                    Miss::Failed(error) => return Err(error.clone()),
                    Miss::None if own.into_inner() => return Ok(None),
                    // Somebody else's load, which may have begun before the record was made: look once more.
                    Miss::None => break,
                },
            }
        }
        Ok(load().await?.map(Arc::new))
    }

    /// Values cached now.
    pub(super) fn count(&self) -> u64 {
        self.cache.entry_count()
    }

    /// Lets go of what idled out; moka does so only when it is used.
    pub(super) async fn tidy(&self) {
        self.cache.run_pending_tasks().await;
    }
}
