//! Which tier a deployment is in, and the node's figures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mayfly_api::ErrorCode;
use mayfly_host::Timings;
use mayfly_inference::{Device, DeviceResidency, EngineLoad, WorkerLoad};
use mayfly_ledger::{Outcome, Row};
use mayfly_types::Meter;
use serde::{Deserialize, Serialize};

use crate::Spans;
use crate::activity::Activities;
use crate::seconds::{Buckets, Seconds};
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
    /// Its models.
    pub models: Vec<ModelStatus>,
    /// Memory of their own that loading them took, as measured; of those that run apart, as their process tells. Others that
    /// were granted the same model share them.
    pub model_bytes: u64,
}

/// One granted model, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// The handler's name for it.
    pub alias: String,
    /// Whether it is loaded.
    pub loaded: bool,
    /// Whether it is kept loaded, for this deployment or another.
    pub kept: bool,
}

/// Figures of the node since its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeStatus {
    /// Calls that have not settled.
    pub calls_open: u64,
    /// Calls that wait for a place of their deployment.
    pub calls_waiting: u64,
    /// Ended calls by outcome, and `turned_away`: those that left no row.
    pub calls_total: Vec<(&'static str, u64)>,
    /// Ended calls by how cold they were.
    pub cold_total: Vec<(&'static str, u64)>,
    /// Usage by meter.
    pub usage_total: Vec<(&'static str, u64)>,
    /// Instances alive and made.
    pub instances: (u32, u64),
    /// Instances of these that wait for their deployment's next request, and requests that such a one answered.
    pub instances_kept: (u32, u64),
    /// Components mapped and maps made.
    pub code: (u64, u64),
    /// Models loaded, loads and unloads made, bytes measured.
    pub models: (u64, u64, u64, u64),
    /// Processes of tenants' own models: there now, started, and ended otherwise than they should.
    pub workers: (u64, u64, u64),
    /// What these have at work, as far as they tell, by device.
    pub worker_loads: Vec<(Device, WorkerLoad)>,
    /// The host's own answers in place of a handler's, by error code; each code once.
    pub errors_total: Vec<(&'static str, u64)>,
    /// From a call's head to its settlement.
    pub call_seconds: Buckets,
    /// What calls waited for a place of their deployment, of those that had to and got one.
    pub line_seconds: Buckets,
    /// From a call's head to its refusal, of calls that a limit refused at once.
    pub refusal_seconds: Buckets,
    /// What a call's runs waited for their executors, of calls that ran a model over `wasi:nn`.
    pub inference_queue_seconds: Buckets,
    /// From a call's head to the first token its handler was handed, of calls that generated.
    pub first_token_seconds: Buckets,
    /// What the end of a call waited until its row was durable.
    pub commit_seconds: Buckets,
    /// The engines that are loaded.
    pub engines: Vec<EngineLoad>,
    /// Spans that were handed to a collector, and those that were lost.
    pub spans: Spans,
    /// What models take of each device's budget.
    pub devices: Vec<DeviceResidency>,
}

/// Counters of this node. Each is one atomic: they agree once nothing moves.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    turned_away: AtomicU64,
    cold: [AtomicU64; Cold::WORDS.len()],
    usage: [AtomicU64; Meter::ALL.len()],
    errors: [AtomicU64; ErrorCode::ALL.len()],
    call: Seconds,
    inference_queue: Seconds,
    commit: Seconds,
    refusal: Seconds,
    first_token: Seconds,
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
        self.call.add(took);
    }

    /// Work on models is over, as far as it went, for a call whose head came at `received`.
    pub(crate) fn ran(&self, timings: &Timings, received: Instant) {
        if let Some(first) = timings.first_token {
            self.first_token.add(first.saturating_duration_since(received));
        }
        if !timings.inference.is_zero() {
            self.inference_queue.add(timings.inference_queue);
        }
    }

    /// The end of a call was made durable in that time.
    pub(crate) fn committed(&self, took: Duration) {
        self.commit.add(took);
    }

    /// A limit refused a call that came so long ago.
    pub(crate) fn refused(&self, took: Duration) {
        self.refusal.add(took);
    }

    /// The host answers in place of the handler.
    pub(crate) fn failed(&self, code: ErrorCode) {
        count(ErrorCode::ALL, &self.errors, &code, 1);
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
        status.errors_total = words(ErrorCode::ALL.iter().map(|code| code.as_str()).collect(), &self.errors);
        status.call_seconds = self.call.read();
        status.inference_queue_seconds = self.inference_queue.read();
        status.commit_seconds = self.commit.read();
        status.refusal_seconds = self.refusal.read();
        status.first_token_seconds = self.first_token.read();
    }
}

fn count<T: PartialEq>(words: &[T], counters: &[AtomicU64], word: &T, by: u64) {
    if let Some(place) = words.iter().position(|known| known == word) {
        counters[place].fetch_add(by, Ordering::Relaxed);
    }
}
