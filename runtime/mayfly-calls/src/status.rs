//! Which tier a deployment is in, and the node's figures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mayfly_ledger::{Outcome, Row};
use mayfly_types::Meter;
use serde::{Deserialize, Serialize};

use crate::activity::Activities;
use crate::timing::Cold;

/// How warm a deployment is. Each tier has its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Rows in the store and files on disk; nothing in memory.
    Zero,
    /// Compiled code is mapped.
    Code,
    /// At least one of its models is loaded.
    Model,
    /// Calls are running.
    Active,
}

/// One deployment, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// The warmest tier.
    pub tier: Tier,
    /// Calls running.
    pub calls: u32,
    /// Whether its code is mapped.
    pub code_mapped: bool,
    /// Its models by alias: loaded or not.
    pub models_loaded: Vec<(String, bool)>,
    /// Resident bytes that loading them added, as measured. Others that were granted the same model share them.
    pub model_bytes: u64,
}

/// Figures of the node since its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeStatus {
    /// Calls that have not settled.
    pub calls_open: u64,
    /// Ended calls by outcome, and `turned_away`: those that left no row.
    pub calls_total: Vec<(&'static str, u64)>,
    /// Ended calls by how cold they were.
    pub cold_total: Vec<(&'static str, u64)>,
    /// Usage by meter.
    pub usage_total: Vec<(&'static str, u64)>,
    /// Instances alive and made.
    pub instances: (u32, u64),
    /// Components mapped and maps made.
    pub code: (u64, u64),
    /// Models loaded, loads and unloads made, bytes measured.
    pub models: (u64, u64, u64, u64),
    /// Seconds a call took: upper bounds (the last is infinite) and cumulative counts, and the sum.
    pub call_seconds: (Vec<(f64, u64)>, f64),
}

/// Upper bounds of the call-time histogram, in seconds. The last bucket has none.
const BOUNDS: [f64; 16] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Counters of this node. Each is one atomic: they agree once nothing moves.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    turned_away: AtomicU64,
    cold: [AtomicU64; Cold::WORDS.len()],
    usage: [AtomicU64; Meter::ALL.len()],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
    /// The same by deployment, for those used last.
    pub(crate) activities: Activities,
}

impl Counters {
    /// A call that took `took` has ended with `row`.
    pub(crate) fn ended(&self, row: &Row, took: Duration) {
        if let Some(outcome) = row.outcome {
            count(&Outcome::ALL, &self.outcomes, &outcome, 1);
        }
        if let Some(cold) = &row.cold {
            count(&Cold::WORDS, &self.cold, &cold.as_ref(), 1);
        }
        for line in &row.lines {
            count(&Meter::ALL, &self.usage, &line.meter, u64::try_from(line.quantity).unwrap_or(0));
        }
        self.activities.ended(row);
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A call ended without a row: refused before it opened, or the ledger could not take it.
    pub(crate) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// Fills in what is counted here.
    pub(crate) fn fill(&self, status: &mut NodeStatus) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let words = |words: Vec<&'static str>, counters: &[AtomicU64]| -> Vec<(&'static str, u64)> {
            words.into_iter().zip(counters.iter().map(read)).collect()
        };
        status.calls_total = words(Outcome::ALL.map(Outcome::as_str).to_vec(), &self.outcomes);
        status.calls_total.push(("turned_away", read(&self.turned_away)));
        status.cold_total = words(Cold::WORDS.to_vec(), &self.cold);
        status.usage_total = words(Meter::ALL.map(Meter::as_str).to_vec(), &self.usage);
        let mut sum = 0;
        let mut cumulative = |counter: &AtomicU64| {
            sum += read(counter);
            sum
        };
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets = bounds.zip(self.buckets.iter().map(&mut cumulative)).collect();
        status.call_seconds = (buckets, Duration::from_micros(read(&self.micros)).as_secs_f64());
    }
}

fn count<T: PartialEq>(words: &[T], counters: &[AtomicU64], word: &T, by: u64) {
    if let Some(place) = words.iter().position(|known| known == word) {
        counters[place].fetch_add(by, Ordering::Relaxed);
    }
}
