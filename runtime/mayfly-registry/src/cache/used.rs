//! When keys were last used: noted in memory, written together every few seconds.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mayfly_types::KeyId;

/// Keys noted between two writes; uses of others are not noted until then.
const KEYS_NOTED_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Used(Mutex<HashMap<KeyId, i64>>);

impl Used {
    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `at`: microseconds since the Unix epoch.
    pub(super) fn note(&self, key: KeyId, at: i64) {
        let mut used = self.lock();
        if let Some(last) = used.get_mut(&key) {
            *last = at.max(*last);
        } else if used.len() < KEYS_NOTED_MAX {
            used.insert(key, at);
        }
    }

    /// What is to be written, and nothing is noted any more.
    pub(super) fn take(&self) -> Vec<(KeyId, i64)> {
        std::mem::take(&mut *self.lock()).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_use_is_kept_and_memory_is_bounded() {
        let used = Used::default();
        let first = KeyId::new();
        used.note(first, 7);
        used.note(first, 5);
        for _ in 0..KEYS_NOTED_MAX + 10 {
            used.note(KeyId::new(), 1);
        }
        used.note(first, 9);
        let taken = used.take();
        assert_eq!(taken.len(), KEYS_NOTED_MAX);
        assert!(taken.contains(&(first, 9)));
        assert!(used.take().is_empty());
    }
}
