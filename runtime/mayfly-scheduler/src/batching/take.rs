//! What to do next, and the making of a batch: the seed first, then what fits beside it.

use std::time::Duration;

use super::settings::Settings;
use super::waiting::Shape;

/// Padding may at most double what a run computes.
const PADDED_TO_REAL_MAX: u64 = 2;

/// What to do now.
#[derive(Debug)]
pub enum Take<T> {
    /// Run these together.
    Run(Vec<T>),
    /// Something waits for company: ask again at this time, or when something new comes.
    WaitUntil(Duration),
    /// Nothing waits.
    Nothing,
}

/// How large a batch is so far.
#[derive(Clone, Debug)]
pub(super) struct Size {
    like: Shape,
    rows: u64,
    longest: u32,
    real: u64,
}

impl Size {
    pub(super) fn of(seed: &Shape) -> Self {
        Self { like: seed.clone(), rows: seed.rows.into(), longest: seed.positions, real: seed.size() }
    }

    /// The batch with `other` in it; none if it cannot be joined or would be too large.
    pub(super) fn with(&self, other: &Shape, settings: &Settings) -> Option<Self> {
        if !self.like.joins(other) {
            return None;
        }
        let (rows, longest) = (self.rows + u64::from(other.rows), self.longest.max(other.positions));
        let (real, padded) = (self.real.saturating_add(other.size()), rows.saturating_mul(longest.into()));
        let fits = rows <= u64::from(settings.rows_max)
            && padded <= settings.positions_max
            && padded <= real.saturating_mul(PADDED_TO_REAL_MAX);
        fits.then(|| Self { like: self.like.clone(), rows, longest, real })
    }

    /// Whether another row of its length would still fit.
    pub(super) fn has_room(&self, settings: &Settings) -> bool {
        let one_more = Shape { rows: 1, positions: self.longest, ..self.like.clone() };
        self.with(&one_more, settings).is_some()
    }
}
