//! One run that waits, as far as the choice of the next one needs to know it.

use std::time::Duration;

/// Whose a run is: a tenant.
pub type Owner = u128;

/// How large a run is, and what it can be joined with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The first dimension of every input.
    pub rows: u32,
    /// Positions of each row; 1 where the graph has none.
    pub positions: u32,
    /// Whether rows of fewer positions can be padded to more; else only equal ones are joined.
    pub pads: bool,
    /// All other dimensions: only runs that agree in them can be joined.
    pub like: Box<[u32]>,
}

impl Shape {
    /// Rows times positions.
    pub fn size(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.positions)
    }

    pub(super) fn joins(&self, other: &Self) -> bool {
        (self.pads, &self.like) == (other.pads, &other.like) && (self.pads || self.positions == other.positions)
    }
}

/// A run that waits.
#[derive(Debug)]
pub struct Waiting<T> {
    /// Whose it is.
    pub owner: Owner,
    /// When it came.
    pub arrived: Duration,
    /// What serving it counts for its owner, in one unit for all runs of the graph; at least 1.
    pub cost: u64,
    /// What it can be joined with; none runs alone.
    pub shape: Option<Shape>,
    /// What the caller of the batcher knows it by.
    pub job: T,
}
