//! What a process says of its load when it is asked, and what of that is believed.
//!
//! Figures to watch and no bill. Each is cut to what the process could have at most, and the only names in it are of packages,
//! which are looked up by those who know them and label nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mayfly_types::Digest;
use serde::{Deserialize, Serialize};

use super::flight::Violation;
use super::message::GenerationBounds;
use crate::Inference;

/// A process that works or has worked since is asked this often.
const EVERY: Duration = Duration::from_secs(1);
/// Models that a report names at most, so that it fits into a packet.
const MODELS_MAX: usize = 256;

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Loaded {
    pub(super) package: Digest,
    /// Memory that its load took, as measured there.
    pub(super) bytes: u64,
}

/// From the worker. Figures of generation are those of all its engines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    pub(super) models: Vec<Loaded>,
    pub(super) sequences: u64,
    pub(super) slots: u64,
    pub(super) waiting: u64,
    pub(super) kv_tokens: u64,
    pub(super) kv_tokens_max: u64,
    pub(super) state_bytes: u64,
}

impl Report {
    /// What there is in this process.
    pub(super) fn of(inference: &Inference) -> Self {
        let residents = inference.residency().models;
        let loaded = |model: &crate::Resident| Loaded { package: model.digest, bytes: model.bytes };
        let mut report = Self { models: residents.iter().take(MODELS_MAX).map(loaded).collect(), ..Self::default() };
        for engine in inference.generation_load() {
            report.sequences += u64::from(engine.active);
            report.slots += u64::from(engine.slots);
            report.waiting += u64::from(engine.waiting);
            report.kv_tokens = report.kv_tokens.saturating_add(engine.kv_tokens);
            report.kv_tokens_max = report.kv_tokens_max.saturating_add(engine.kv_tokens_max);
            report.state_bytes = report.state_bytes.saturating_add(engine.state_bytes);
        }
        report
    }
}

/// What a process could have at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    pub(super) sessions: u32,
    pub(super) memory_bytes: u64,
    pub(super) generation: GenerationBounds,
}

/// What processes of tenants' own models have at work, as far as they tell: of each, a second ago or when it last worked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Models loaded.
    pub models: u64,
    /// Memory of their own that loading them took.
    pub model_bytes: u64,
    /// Sequences that hold a slot of an engine.
    pub sequences: u64,
    /// Slots of engines.
    pub slots: u64,
    /// Sequences that wait for one.
    pub waiting: u64,
    /// Tokens of attention state, in use or kept for reuse.
    pub kv_tokens: u64,
    /// The most there may be.
    pub kv_tokens_max: u64,
    /// Bytes of attention state and logits.
    pub state_bytes: u64,
}

impl WorkerLoad {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            models: self.models.saturating_add(other.models),
            model_bytes: self.model_bytes.saturating_add(other.model_bytes),
            sequences: self.sequences.saturating_add(other.sequences),
            slots: self.slots.saturating_add(other.slots),
            waiting: self.waiting.saturating_add(other.waiting),
            kv_tokens: self.kv_tokens.saturating_add(other.kv_tokens),
            kv_tokens_max: self.kv_tokens_max.saturating_add(other.kv_tokens_max),
            state_bytes: self.state_bytes.saturating_add(other.state_bytes),
        }
    }
}

/// What one process was asked and has told.
#[derive(Debug)]
pub(super) struct Reports {
    most: Most,
    /// It has not answered yet. One that never does is not asked again.
    asked: bool,
    /// When it was asked last, or began.
    at: Instant,
    load: WorkerLoad,
    /// Bytes of each model.
    models: HashMap<Digest, u64>,
}

impl Reports {
    pub(super) fn new(most: Most, now: Instant) -> Self {
        Self { most, asked: false, at: now, load: WorkerLoad::default(), models: HashMap::new() }
    }

    /// Whether it is to be asked; it was last used at `used`.
    pub(super) fn is_due(&self, now: Instant, works: bool, used: Instant) -> bool {
        !self.asked && now.saturating_duration_since(self.at) >= EVERY && (works || used > self.at)
    }

    pub(super) fn asked(&mut self, now: Instant) {
        (self.asked, self.at) = (true, now);
    }

    pub(super) fn told(&mut self, report: Report) -> Result<(), Violation> {
        if !std::mem::take(&mut self.asked) {
            return Err(Violation("a report that nobody asked for"));
        }
        let Most { sessions, memory_bytes, generation } = self.most;
        let models: HashMap<_, _> =
            report.models.iter().map(|model| (model.package, model.bytes.min(memory_bytes))).collect();
        if models.len() < report.models.len() || models.len() > (sessions as usize).min(MODELS_MAX) {
            return Err(Violation("models twice, or more than it may load"));
        }
        let sessions = u64::from(sessions);
        let slots = report.slots.min(sessions.saturating_mul(generation.slots.into()));
        // On a GPU attention state is not in the process's own memory.
        let state_bytes_max = sessions.saturating_mul(generation.kv_bytes_max).saturating_add(memory_bytes);
        // A token of it has a byte at least.
        let kv_tokens_max = report.kv_tokens_max.min(state_bytes_max);
        self.load = WorkerLoad {
            models: models.len() as u64,
            model_bytes: models.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes)).min(memory_bytes),
            sequences: report.sequences.min(slots),
            slots,
            waiting: report.waiting.min(sessions.saturating_mul(generation.waiting_max.into())),
            kv_tokens: report.kv_tokens.min(kv_tokens_max),
            kv_tokens_max,
            state_bytes: report.state_bytes.min(state_bytes_max),
        };
        self.models = models;
        Ok(())
    }

    pub(super) fn load(&self) -> WorkerLoad {
        self.load
    }

    /// Memory that the load of this package took there; 0 if it is not known.
    pub(super) fn bytes_of(&self, package: Digest) -> u64 {
        self.models.get(&package).copied().unwrap_or(0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::worker::message::{FromWorker, PACKET_BYTES_MAX, encode};

    fn reports(now: Instant) -> Reports {
        let generation = GenerationBounds {
            slots: 4,
            kv_bytes_max: 1000,
            waiting_max: 10,
            prefill_chunk_max: 64,
            stall_ms: 1,
            constraint_compiles_max: 1,
        };
        Reports::new(Most { sessions: 2, memory_bytes: 5000, generation }, now)
    }

    fn loaded(name: &str, bytes: u64) -> Loaded {
        Loaded { package: Digest::of(name.as_bytes()), bytes }
    }

    #[test]
    fn it_is_asked_while_it_works_once_more_after_that_and_not_while_it_owes_an_answer() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut reports = reports(start);
        assert!(!reports.is_due(at(999), true, at(0)), "not at once");
        assert!(reports.is_due(at(1000), true, at(0)));
        assert!(!reports.is_due(at(1000), false, at(0)), "it has done nothing");
        assert!(reports.is_due(at(1000), false, at(500)));
        reports.asked(at(1000));
        assert!(!reports.is_due(at(9000), true, at(8000)), "it has not answered");
        reports.told(Report::default()).unwrap();
        assert!(!reports.is_due(at(9000), false, at(900)), "nothing has happened since");
        assert!(reports.is_due(at(9000), true, at(900)));
        assert!(reports.told(Report::default()).is_err(), "nobody asked");
    }

    #[test]
    fn what_is_true_is_told_and_what_cannot_be_is_cut() {
        let now = Instant::now();
        let mut reports = reports(now);
        let mut tell = |report: Report| {
            reports.asked(now);
            reports.told(report)?;
            Ok::<_, Violation>((reports.load(), reports.bytes_of(Digest::of(b"a")), reports.bytes_of(Digest::of(b"c"))))
        };
        let honest = Report {
            models: vec![loaded("a", 300), loaded("b", 40)],
            sequences: 3,
            slots: 8,
            waiting: 2,
            kv_tokens: 50,
            kv_tokens_max: 100,
            state_bytes: 600,
        };
        let load = WorkerLoad {
            models: 2,
            model_bytes: 340,
            sequences: 3,
            slots: 8,
            waiting: 2,
            kv_tokens: 50,
            kv_tokens_max: 100,
            state_bytes: 600,
        };
        assert_eq!(tell(honest.clone()).unwrap(), (load, 300, 0));
        let all = u64::MAX;
        let absurd = Report {
            models: vec![loaded("a", all), loaded("b", all)],
            sequences: all,
            slots: all,
            waiting: all,
            kv_tokens: all,
            kv_tokens_max: all,
            state_bytes: all,
        };
        let most = WorkerLoad {
            models: 2,
            model_bytes: 5000,
            sequences: 8,
            slots: 8,
            waiting: 20,
            kv_tokens: 7000,
            kv_tokens_max: 7000,
            state_bytes: 7000,
        };
        assert_eq!(tell(absurd).unwrap(), (most, 5000, 0));
        for models in [vec![loaded("a", 1), loaded("a", 1)], vec![loaded("a", 1), loaded("b", 1), loaded("c", 1)]] {
            assert!(tell(Report { models, ..honest.clone() }).is_err());
        }
        assert_eq!(most.and(most).model_bytes, 10_000);
    }

    #[test]
    fn the_longest_report_fits_into_a_packet() {
        let models = (0..MODELS_MAX).map(|number| loaded(&number.to_string(), u64::MAX)).collect();
        let packet = encode(&FromWorker::Report(Report { models, ..Report::default() }), &[]).unwrap();
        assert!(packet.len() < PACKET_BYTES_MAX, "{}", packet.len());
    }
}
