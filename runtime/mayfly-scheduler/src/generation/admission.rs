//! Gives waiting sequences a slot: when one is free and the KV positions they may need fit beside those of the others.
//!
//! Whatever no live sequence needs makes room: memory of free slots first, then kept prefixes, the least used first.

use super::prefix::Source;
use super::queues::Candidate;
use super::scheduler::{Running, Scheduler};
use super::sequence::Sequence;
use super::step::Step;
use super::submission::Submission;

impl Scheduler {
    /// Admits who is next while there is room. A step, if slots have to be prepared for it.
    pub(super) fn admit(&mut self) -> Option<Step> {
        while self.sequences.len() < self.settings.slots.max(1) as usize {
            let candidate = self.next_candidate()?;
            let submission = self.queues.submission(candidate).clone();
            let source = self.source(&submission);
            let slot = match self.make_room(submission.tokens_max(), source) {
                Ok(slot) => slot,
                Err(in_the_way) => return Some(self.release(in_the_way)),
            };
            if let Some(copy) = self.settle(candidate, &submission, source, slot) {
                return Some(copy);
            }
        }
        None
    }

    /// Who is next and fits. Others may pass one that does not fit until its owner is overdue.
    fn next_candidate(&self) -> Option<Candidate> {
        // The choices of one request wait for the first one's prompt, to take it over.
        let prompt_is_coming = |submission: &Submission| {
            self.sequences.values().any(|s| s.prefills() && submission.is_choice_of(s.owner, s.group))
        };
        let room = self.settings.kv_tokens_max.saturating_sub(self.slots.reserved());
        for candidate in self.queues.candidates(|submission| !prompt_is_coming(submission)) {
            if self.queues.submission(candidate).tokens_max() <= room {
                return Some(candidate);
            }
            if candidate.overdue {
                return None;
            }
        }
        None
    }

    /// A slot for a sequence of `reserved` positions; an error names a slot to release before asking again.
    fn make_room(&mut self, reserved: u64, source: Option<Source>) -> Result<u32, u32> {
        let mut slot = self.choose_slot(source);
        if self.slots.is_free(slot) && u64::from(self.slots.touched(slot)) > reserved {
            return Err(slot);
        }
        let source = source.map(|source| source.slot);
        while self.slots.cost_with(slot, reserved) > self.settings.kv_tokens_max {
            if let Some(stale) = self.slots.stale(Some(slot)) {
                return Err(stale);
            }
            let in_place = source == Some(slot);
            match (self.slots.least_used(source), source.filter(|source| self.slots.is_kept(*source))) {
                (Some(kept), _) => return Err(self.give_up(kept)),
                (None, Some(kept)) if in_place => return Err(self.give_up(kept)),
                (None, Some(kept)) => slot = kept,
                // Only what live sequences reserved is left, and beside that it fits.
                (None, None) => break,
            }
        }
        Ok(slot)
    }

    /// The source itself, if it is of little use beyond this prompt; else a free slot; else that of the least used
    /// prefix, which is given up.
    fn choose_slot(&mut self, source: Option<Source>) -> u32 {
        let kept = source.and_then(|source| Some((source, source.kept?)));
        if let Some((source, _)) = kept.filter(|(source, kept)| source.positions >= kept / 4 * 3) {
            return source.slot;
        }
        let rows = self.sequences.values().filter(|sequence| sequence.decodes()).count();
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        if let Some(free) = self.slots.free_behind(rows) {
            return free;
        }
        let kept_source = kept.map(|(source, _)| source.slot);
        let least_used = self.slots.least_used(kept_source).map(|slot| self.give_up(slot));
        least_used.or(kept_source).expect("fewer live sequences than slots")
    }

    fn give_up(&mut self, kept: u32) -> u32 {
        self.slots.empty(kept);
        kept
    }

    /// `candidate` holds `slot` from now on. A step, if its prefix has to be copied there.
    fn settle(&mut self, from: Candidate, submission: &Submission, source: Option<Source>, slot: u32) -> Option<Step> {
        // So that the order of admissions is their order of turns, even if several fit at once.
        self.turn += 1;
        let cached = source.map_or(0, |source| source.positions);
        let sequence = Sequence::new(submission, slot, cached, self.turn);
        self.queues.admit(from, sequence.prompt_len - cached);
        self.slots.settle(slot, submission.id, submission.tokens_max());
        self.sequences.insert(submission.id, sequence);
        let source = source.filter(|source| source.slot != slot)?;
        self.slots.used(source.slot, self.turn);
        self.slots.touch(slot, cached);
        self.running = Some(Running::Copy { to: slot });
        Some(Step::Copy { from: source.slot, to: slot, positions: cached })
    }
}
