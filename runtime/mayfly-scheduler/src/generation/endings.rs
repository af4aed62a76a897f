//! How sequences end: deadline, a reader that stalls or leaves, a failed run, the last token. Each ends once.

use super::scheduler::{Running, Scheduler};
use super::sequence::Sequence;
use super::step::{Ended, Notice};
use super::submission::SequenceId;

impl Scheduler {
    /// Ends whatever is due at `now`, waiting or not. Only between steps.
    pub(super) fn end_due(&mut self, now: u64) {
        let expired: Vec<_> = self.queues.each().filter(|s| s.deadline_ns <= now).map(|s| s.id).collect();
        for id in expired {
            self.queues.remove(id);
            self.notices.push(Notice::Ended { id, why: Ended::Deadline });
        }
        let due: Vec<_> = self.sequences.values().filter_map(|s| Some((s.id, self.due(s, now)?))).collect();
        for (id, why) in due {
            self.end(id, true);
            self.notices.push(Notice::Ended { id, why });
        }
        self.forget_choices();
    }

    fn due(&self, sequence: &Sequence, now: u64) -> Option<Ended> {
        if sequence.left {
            Some(Ended::Left)
        } else if sequence.deadline_ns <= now {
            Some(Ended::Deadline)
        } else {
            self.stalls_at(sequence).is_some_and(|at| at <= now).then_some(Ended::Stalled)
        }
    }

    fn stalls_at(&self, sequence: &Sequence) -> Option<u64> {
        sequence.paused_since.map(|since| since.saturating_add(self.settings.stall_after_ns))
    }

    /// When the next sequence ends by itself.
    pub(super) fn next_due(&self) -> Option<u64> {
        let waiting = self.queues.each().map(|submission| submission.deadline_ns);
        let live = self.sequences.values().map(|sequence| {
            self.stalls_at(sequence).map_or(sequence.deadline_ns, |stalls| stalls.min(sequence.deadline_ns))
        });
        waiting.chain(live).min()
    }

    /// Everybody in the step under way; they are over, and what their slots hold is void.
    pub(super) fn end_running(&mut self, running: &Running) -> Vec<SequenceId> {
        if let Running::Copy { to } = running {
            // A kept prefix was on its way; a sequence empties its slot below.
            self.slots.empty(*to);
        }
        let ids = self.sequences.values().filter(|s| running.concerns(s)).map(|s| s.id).collect::<Vec<_>>();
        for id in &ids {
            self.end(*id, false);
        }
        ids
    }

    /// Takes a sequence out of its slot. What it leaves there stays for reuse if `valid` and somebody may want it.
    pub(super) fn end(&mut self, id: SequenceId, valid: bool) {
        let Some(sequence) = self.sequences.remove(&id) else { return };
        self.queues.ended(sequence.owner);
        let slot = sequence.slot;
        if valid && sequence.past > 0 {
            self.slots.keep(slot, sequence.into_prefix(self.turn));
            self.forget_choices();
        } else {
            self.slots.empty(slot);
        }
    }

    /// Without a scope, a prefix is only for the choices of its own request: it goes when none of them waits.
    fn forget_choices(&mut self) {
        let private = self.slots.kept().filter(|(_, prefix)| prefix.reuse.is_none());
        let wanted = |owner, group| self.queues.each().any(|waiting| waiting.is_choice_of(owner, group));
        let unwanted: Vec<u32> =
            private.filter(|(_, prefix)| !wanted(prefix.owner, prefix.group)).map(|(slot, _)| slot).collect();
        for slot in unwanted {
            self.slots.empty(slot);
        }
    }
}
