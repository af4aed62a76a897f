//! The state machine: events in, the next step out.

use std::collections::BTreeMap;

use super::pace::Pace;
use super::queues::Queues;
use super::sequence::Sequence;
use super::settings::Settings;
use super::slots::Slots;
use super::step::{Ended, Notice, Step};
use super::submission::{Refused, SequenceId, Submission};

/// Decides what one engine runs next. Times are nanoseconds of one clock that never goes back.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(super) settings: Settings,
    /// Those that hold a slot.
    pub(super) sequences: BTreeMap<SequenceId, Sequence>,
    pub(super) queues: Queues,
    pub(super) slots: Slots,
    pub(super) pace: Pace,
    pub(super) running: Option<Running>,
    pub(super) notices: Vec<Notice>,
    /// Counts steps and admissions: the order of things, where their time does not matter.
    pub(super) turn: u64,
}

/// The step that was given out and not confirmed yet.
#[derive(Clone, Debug)]
pub(super) enum Running {
    Copy { to: u32 },
    Prefill { id: SequenceId, tokens: u32, round: u32 },
    Decode { ids: Vec<SequenceId> },
    Release,
}

impl Running {
    /// Whether `sequence` is lost if the step fails.
    pub(super) fn concerns(&self, sequence: &Sequence) -> bool {
        match self {
            Self::Copy { to } => sequence.slot == *to,
            Self::Prefill { id, .. } => sequence.id == *id,
            Self::Decode { ids } => ids.contains(&sequence.id),
            Self::Release => false,
        }
    }
}

/// Gauges of a [`Scheduler`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that hold a slot.
    pub active: u32,
    /// Sequences that wait for one.
    pub waiting: u32,
    /// KV positions in use, set aside or kept for reuse.
    pub kv_tokens: u64,
    /// Of these, kept for reuse.
    pub kv_tokens_kept: u64,
    /// The limit of `kv_tokens`.
    pub kv_tokens_max: u64,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            slots: Slots::new(settings.kv_slots()),
            pace: Pace::new(settings.step_target_ns, settings.prefill_chunk_max),
            settings,
            sequences: BTreeMap::new(),
            queues: Queues::default(),
            running: None,
            notices: Vec::new(),
            turn: 0,
        }
    }

    /// Takes a sequence into the queue.
    ///
    /// # Errors
    /// [`Refused`], and nothing has changed.
    pub fn submit(&mut self, _now: u64, submission: Submission) -> Result<(), Refused> {
        if submission.prompt.is_empty() || submission.new_tokens_max == 0 {
            return Err(Refused::NothingToRun);
        }
        let (tokens, limit) = (submission.tokens_max(), self.settings.sequence_tokens_max());
        if tokens > limit {
            return Err(Refused::NeverFits { tokens, limit });
        }
        let id = submission.id;
        if self.sequences.contains_key(&id) || self.queues.contains(id) {
            return Err(Refused::Duplicate { id });
        }
        let (waiting, limit) = (self.queues.waiting(), self.settings.waiting_max.max(1));
        if waiting >= limit {
            return Err(Refused::QueueFull { waiting, limit });
        }
        self.queues.push(submission);
        Ok(())
    }

    /// What to run now. While a step is not confirmed the answer is [`Step::Idle`].
    pub fn next(&mut self, now: u64) -> Step {
        if self.running.is_none() {
            self.turn += 1;
            self.end_due(now);
            if let Some(step) = self.shrink().or_else(|| self.admit()).or_else(|| self.run()).or_else(|| self.tidy()) {
                return step;
            }
        }
        Step::Idle { until_ns: self.next_due() }
    }

    /// The step that [`Scheduler::next`] gave out has run and took `took_ns`.
    pub fn ran(&mut self, _now: u64, took_ns: u64) {
        match self.running.take() {
            Some(Running::Prefill { tokens, round, .. }) => self.pace.prefilled(tokens, took_ns, round),
            Some(Running::Decode { .. }) => self.pace.decoded(took_ns),
            Some(Running::Copy { .. } | Running::Release) | None => {}
        }
    }

    /// The step that [`Scheduler::next`] gave out failed: every sequence in it is over, without a notice. What their
    /// slots hold is not used again. A slot that could not be released counts as released.
    pub fn fail_running(&mut self, _now: u64) -> Vec<SequenceId> {
        let Some(running) = self.running.take() else { return Vec::new() };
        self.end_running(&running)
    }

    /// The sequence's next token: once after its last prefill, and once after each decode it was in. `finished`: it is
    /// the last one, and there will be no notice.
    ///
    /// Returns whether the sequence is over: `finished`, or `new_tokens_max` is reached.
    pub fn accepted(&mut self, now: u64, id: SequenceId, token: u32, finished: bool) -> bool {
        let Some(sequence) = self.sequences.get_mut(&id) else { return true };
        if !sequence.awaiting {
            return false;
        }
        sequence.accept(now, token, self.settings.ahead_max.max(1));
        self.queues.served(sequence.owner);
        let over = finished || sequence.new_left == 0;
        if over {
            self.end(id, true);
        }
        over
    }

    /// The reader took `tokens` of what was accepted. A token that gives the reader nothing (its text is held back, or
    /// empty) counts as read at once; else a sequence could wait for a reader that waits for it.
    pub fn read(&mut self, now: u64, id: SequenceId, tokens: u32) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.read(now, tokens, self.settings.ahead_max.max(1));
        }
    }

    /// The caller left: the sequence ends before the next step is given out, with a notice.
    pub fn leave(&mut self, _now: u64, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.left = true;
        } else if self.queues.remove(id) {
            self.notices.push(Notice::Ended { id, why: Ended::Left });
        }
    }

    /// What happened since the last call; to be asked for after every [`Scheduler::next`].
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Whether no sequence is here. Prefixes may still be kept.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty() && self.queues.waiting() == 0 && self.running.is_none()
    }

    /// Gauges.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            active: u32::try_from(self.sequences.len()).unwrap_or(u32::MAX),
            waiting: self.queues.waiting(),
            kv_tokens: self.slots.cost(),
            kv_tokens_kept: self.slots.kept_tokens(),
            kv_tokens_max: self.settings.kv_tokens_max,
        }
    }

    /// A move left positions behind that are too many beside the others.
    pub(super) fn shrink(&mut self) -> Option<Step> {
        let too_many = self.slots.cost() > self.settings.kv_tokens_max;
        too_many.then(|| self.tidy())?
    }

    /// Gives memory of a free slot back.
    fn tidy(&mut self) -> Option<Step> {
        self.slots.stale(None).map(|slot| self.release(slot))
    }

    pub(super) fn release(&mut self, slot: u32) -> Step {
        self.slots.released(slot);
        self.running = Some(Running::Release);
        Step::Release { slot }
    }
}
