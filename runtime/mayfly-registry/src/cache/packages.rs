//! Opened model packages, shared between all revisions that were granted them.

use std::sync::Arc;

use mayfly_inference::Package;
use mayfly_types::Digest;
use moka::future::Cache;

use crate::{Artifacts, RecordsError};

/// At most so many are shared; one that is dropped here while it is in use is only opened a second time.
#[derive(Debug)]
pub(super) struct Packages {
    artifacts: Arc<dyn Artifacts>,
    open: Cache<Digest, Arc<Package>>,
}

impl Packages {
    pub(super) fn new(artifacts: Arc<dyn Artifacts>, entries_max: u64) -> Self {
        Self { artifacts, open: Cache::builder().max_capacity(entries_max).build() }
    }

    /// The package, opened off the async threads and once however many ask.
    pub(super) async fn get(&self, digest: Digest) -> Result<Arc<Package>, RecordsError> {
        let open = async {
            let failed = |detail: String| RecordsError::Failed { detail: format!("package {digest}: {detail}") };
            let folder = self.artifacts.folder(digest).await.map_err(|error| failed(format!("{error} ({error:?})")))?;
            let package = tokio::task::spawn_blocking(move || Package::open(&folder)).await;
            let package = package.map_err(|error| failed(error.to_string()))?;
            package.map(Arc::new).map_err(|error| failed(format!("{error} ({error:?})")))
        };
        self.open.try_get_with(digest, open).await.map_err(|error: Arc<RecordsError>| (*error).clone())
    }

    /// Drops what no revision in memory holds any more.
    pub(super) async fn tidy(&self) {
        for (digest, package) in &self.open {
            // The cache's own and the one in our hands.
            if Arc::strong_count(&package) <= 2 {
                self.open.invalidate(&*digest).await;
            }
        }
        self.open.run_pending_tasks().await;
    }

    /// Packages open now.
    pub(super) fn count(&self) -> u64 {
        self.open.entry_count()
    }
}
