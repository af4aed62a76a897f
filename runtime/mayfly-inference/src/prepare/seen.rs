//! Whether what a decoder's run put out was seen: what its next step costs follows from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by the outputs of one run and the attention state it left. Clones are the same run's.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<AtomicBool>);

impl Seen {
    /// One of the outputs was read, or handed to another graph, and charged for.
    pub fn mark(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether one was.
    pub fn is_marked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
