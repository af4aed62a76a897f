//! Artifacts nobody refers to any more, and what this node made of them (compiled code, prepacked copies), removed without racing a
//! deploy that is about to refer to them.
//!
//! A workflow pins a digest from before it relies on the bytes until its record is written; what is pinned is not
//! removed, and what is being removed is not pinned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mayfly_types::Digest;
use tokio::sync::Notify;

use super::tools::Derived;
use super::{Control, Tools};
use crate::{Artifacts, ControlError, Records};

#[derive(Debug, Default)]
pub(super) struct Pins {
    uses: Mutex<HashMap<Digest, Use>>,
    removed: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Pinned(usize),
    Removing,
}

/// Keeps an artifact from being removed, until dropped.
#[derive(Debug)]
pub(super) struct Pin {
    pins: Arc<Pins>,
    digest: Digest,
}

/// The only one that removes it, until dropped.
struct Removal<'a> {
    pins: &'a Pins,
    digest: Digest,
}

impl Pins {
    fn uses(&self) -> MutexGuard<'_, HashMap<Digest, Use>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins, after a removal under way has ended. The artifact may be gone then: look for it afterwards.
    pub(super) async fn pin(self: &Arc<Self>, digest: Digest) -> Pin {
        loop {
            // Listens before it looks, so that an end in between is not missed.
            let removed = self.removed.notified();
            if self.try_pin(digest) {
                return Pin { pins: Arc::clone(self), digest };
            }
            removed.await;
        }
    }

    fn try_pin(&self, digest: Digest) -> bool {
        match self.uses().entry(digest).or_insert(Use::Pinned(0)) {
            Use::Pinned(count) => {
                *count += 1;
                true
            }
            Use::Removing => false,
        }
    }

    fn try_remove(&self, digest: Digest) -> Option<Removal<'_>> {
        let mut uses = self.uses();
        if uses.contains_key(&digest) {
            return None;
        }
        uses.insert(digest, Use::Removing);
        Some(Removal { pins: self, digest })
    }

    /// Removes the artifact unless somebody refers to it or is about to. Trouble is logged: the bytes stay, and
    /// the record that was changed is changed.
    pub(super) async fn collect(
        &self,
        records: &dyn Records,
        artifacts: &dyn Artifacts,
        tools: &dyn Tools,
        digest: Digest,
    ) {
        let Some(_removal) = self.try_remove(digest) else { return };
        match records.is_referenced(digest).await {
            Ok(true) => {}
            Ok(false) => {
                if let Err(error) = artifacts.remove(digest).await {
                    tracing::warn!(%digest, ?error, "an artifact nobody refers to could not be removed");
                }
                // Calls that run on it go on: they have it mapped.
                for derived in Derived::ALL {
                    remove(tools, derived, digest).await;
                }
            }
            Err(error) => tracing::warn!(%digest, ?error, "could not tell whether an artifact is still referred to"),
        }
    }
}

/// Whether it is gone; trouble is logged.
async fn remove(tools: &dyn Tools, derived: Derived, digest: Digest) -> bool {
    let removed = tools.remove(derived, digest).await;
    if let Err(error) = &removed {
        tracing::warn!(%digest, what = derived.as_str(), %error, "what was made of an artifact could not be removed");
    }
    removed.is_ok()
}

impl Control {
    /// Removes what this node made of artifacts that fits another engine, another ONNX Runtime or CPU, or that nobody
    /// refers to any more: other nodes may have removed the artifact. Trouble with the folder is logged; the next start
    /// tries again.
    pub(super) async fn sweep_derived(&self, derived: Derived) -> Result<(), ControlError> {
        let what = derived.as_str();
        let digests = match self.tools.stored(derived).await {
            Ok(digests) => digests,
            Err(error) => {
                tracing::warn!(what, %error, "a folder could not be swept");
                return Ok(());
            }
        };
        let mut removed = 0_u32;
        for digest in digests {
            let Some(_removal) = self.shared.pins.try_remove(digest) else { continue };
            if !self.records.is_referenced(digest).await? && remove(&*self.tools, derived, digest).await {
                removed = removed.saturating_add(1);
            }
        }
        if removed > 0 {
            tracing::info!(what, removed, "removed what nobody refers to");
        }
        Ok(())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut uses = self.pins.uses();
        if let Some(Use::Pinned(count)) = uses.get_mut(&self.digest) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                uses.remove(&self.digest);
            }
        }
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.pins.uses().remove(&self.digest);
        self.pins.removed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_pinned_is_not_removed_and_the_other_way_round() {
        let pins = Arc::new(Pins::default());
        let digest = Digest::of(b"x");
        let (one, two) = (pins.pin(digest).await, pins.pin(digest).await);
        assert!(pins.try_remove(digest).is_none());
        drop(one);
        assert!(pins.try_remove(digest).is_none());
        drop(two);
        let removal = pins.try_remove(digest).expect("nobody uses it");
        let waiting = tokio::spawn({
            let pins = Arc::clone(&pins);
            async move { drop(pins.pin(digest).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(removal);
        waiting.await.expect("pinned once the removal had ended");
        assert!(pins.uses().is_empty());
    }
}
