//! Which slot holds the longest beginning of a prompt that its sequence may take over.

use super::scheduler::Scheduler;
use super::submission::{Owner, ReuseScope, Submission};

/// A slot whose first positions are the first ones of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) slot: u32,
    /// At least one; less than the prompt, so that a run is left to give logits.
    pub(super) positions: u32,
    /// Positions that the slot holds, if nobody needs them any more.
    pub(super) kept: Option<u32>,
}

/// Whose tokens they are.
pub(super) type Holder = (Owner, Option<ReuseScope>, u64);

impl Submission {
    /// Whether it may take positions over from `holder`: within one scope, or between the choices of one request.
    pub(super) fn may_reuse(&self, (owner, reuse, group): Holder) -> bool {
        (self.reuse.is_some() && self.reuse == reuse) || self.is_choice_of(owner, group)
    }

    /// Whether it is another choice of the same request.
    pub(super) fn is_choice_of(&self, owner: Owner, group: u64) -> bool {
        self.owner == owner && self.group == group
    }
}

impl Scheduler {
    /// The longest beginning of `submission`'s prompt in any slot; kept ones before those in use.
    pub(super) fn source(&self, submission: &Submission) -> Option<Source> {
        let kept = self.slots.kept().map(|(slot, prefix)| {
            let holder = (prefix.owner, prefix.reuse, prefix.group);
            (slot, holder, prefix.tokens.as_slice(), true)
        });
        let live = self.sequences.values().map(|sequence| {
            let holder = (sequence.owner, sequence.reuse, sequence.group);
            (sequence.slot, holder, sequence.in_slot(), false)
        });
        let sources = kept.chain(live).filter(|(_, holder, ..)| submission.may_reuse(*holder));
        let sources = sources.map(|(slot, _, tokens, kept)| Source {
            slot,
            positions: common(tokens, &submission.prompt[..submission.prompt.len() - 1]),
            kept: kept.then(|| length(tokens)),
        });
        sources.filter(|source| source.positions > 0).max_by_key(|source| (source.positions, source.kept.is_some()))
    }
}

fn common(left: &[u32], right: &[u32]) -> u32 {
    let same = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    length(&left[..same])
}

fn length(tokens: &[u32]) -> u32 {
    u32::try_from(tokens.len()).expect("at most context_max, which submit checked")
}
