//! Limits of one graph's queue and of its runs.

use std::time::Duration;

/// Limits of a [`super::Batcher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Runs that wait at once.
    pub runs_max: usize,
    /// Rows of one run of the graph. What one caller gives is never cut: it runs alone if it is larger.
    pub rows_max: u32,
    /// Rows times positions of one run, padding included. As [`Self::rows_max`], for what is joined only.
    pub positions_max: u64,
    /// How long a run that could have company waits for it; zero never waits.
    pub delay: Duration,
}
