//! What operators see of residency.

use std::time::Duration;

use mayfly_scheduler::residency::{Fit, Load};
use mayfly_types::Digest;

use crate::Device;

/// One loaded model. Its engine, if it generates, counts with it.
#[derive(Debug, Clone)]
pub struct Resident {
    /// The package.
    pub digest: Digest,
    /// Where it runs.
    pub device: Device,
    /// Since its last run ended; none while it works.
    pub idle: Option<Duration>,
    /// How long its load took.
    pub load: Duration,
    /// Runs of callers since its load.
    pub runs: u64,
    /// Runs of the graph since its load: several callers' runs may have been one.
    pub batches: u64,
    /// Memory of its own that the load took (pages of mapped files are not in it), as measured around it; what else the
    /// process did at the time blurs it.
    pub bytes: u64,
    /// Sessions: those for runs, and its engine's.
    pub sessions: u32,
}

impl Resident {
    /// The same model's other session.
    pub(super) fn add(&mut self, other: Self) {
        self.idle = self.idle.zip(other.idle).map(|(this, other)| this.min(other));
        self.load = self.load.max(other.load);
        self.runs = self.runs.saturating_add(other.runs);
        self.batches = self.batches.saturating_add(other.batches);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.sessions = self.sessions.saturating_add(other.sessions);
    }
}

/// What loading a model takes on one device, said before it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Where.
    pub device: Device,
    /// Bytes that count against the budget, attention state at its bound: as predicted, or as an earlier load took them.
    pub bytes: u64,
    /// Bytes of files that it maps. Shared; they count only where it is asked whether the model fits at all.
    pub mapped_bytes: u64,
    /// Whether it could be had now; none: never.
    pub fit: Option<Fit>,
    /// The budget; none without one.
    pub budget: Option<u64>,
}

/// Everything loaded.
#[derive(Debug, Clone, Default)]
pub struct Residency {
    /// Loaded models, by digest.
    pub models: Vec<Resident>,
    /// The budget of each device that has one.
    pub devices: Vec<DeviceResidency>,
    /// Loads since the start.
    pub loads_total: u64,
    /// Sessions dropped since the start.
    pub unloads_total: u64,
}

/// What sessions take on one device, those that come and go included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceResidency {
    /// Where.
    pub device: Device,
    /// Bytes that count against the budget: measured, or predicted while a load goes on; attention state at its bound.
    pub bytes: u64,
    /// Bytes of files that sessions map. Shared, and taken back by the system when it needs them; each session of a model counts its own.
    pub mapped_bytes: u64,
    /// Of `bytes`, those of models that are kept loaded.
    pub pinned_bytes: u64,
    /// The budget.
    pub bytes_max: u64,
    /// Loads that have not begun.
    pub loads_queued: u32,
    /// Callers that wait for a load.
    pub waiting: u32,
    /// Sessions that went to make room, since the start.
    pub evicted_for_room_total: u64,
    /// Sessions that went because nobody used them, since the start.
    pub evicted_idle_total: u64,
    /// Loads that were refused for want of room, at once or after a wait, since the start.
    pub refused_total: u64,
}

impl DeviceResidency {
    pub(super) fn new(device: Device, load: Load) -> Self {
        Self {
            device,
            bytes: load.bytes.own,
            mapped_bytes: load.bytes.mapped,
            pinned_bytes: load.pinned,
            bytes_max: load.bytes_max,
            loads_queued: load.queued,
            waiting: load.waiting,
            evicted_for_room_total: load.evicted_for_room,
            evicted_idle_total: load.evicted_idle,
            refused_total: load.refused,
        }
    }
}
