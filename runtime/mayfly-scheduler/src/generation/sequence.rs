//! One sequence that holds a slot: its tokens, how many of them are in the KV memory, how far its reader is.
//!
//! While its prompt is prefilled, `past` grows towards `prompt_len`. Then every run is followed by one accepted token,
//! so that a sequence that may decode has exactly one token more than positions in its slot.

use super::slots::Prefix;
use super::submission::{Owner, ReuseScope, SequenceId, Submission};

/// A sequence from admission to its end.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) owner: Owner,
    pub(super) reuse: Option<ReuseScope>,
    pub(super) group: u64,
    /// Prompt, then accepted tokens.
    pub(super) tokens: Vec<u32>,
    pub(super) prompt_len: u32,
    /// Tokens that may still be accepted.
    pub(super) new_left: u32,
    pub(super) deadline_ns: u64,
    pub(super) slot: u32,
    /// Positions in the slot, those of a run that was just given out included.
    pub(super) past: u32,
    /// Prompt tokens that came from another sequence.
    pub(super) cached: u32,
    /// A run is done or under way whose token has not been accepted yet.
    pub(super) awaiting: bool,
    /// Accepted tokens that the reader has not taken.
    pub(super) unread: u32,
    /// Too far ahead of its reader; since when nothing happened about it.
    pub(super) paused_since: Option<u64>,
    /// Its caller left; it ends before the next step.
    pub(super) left: bool,
    /// When it was admitted, in turns.
    pub(super) admitted: u64,
    /// When it decoded last, in turns.
    pub(super) decoded: u64,
    /// Whether its first chunk was given out.
    pub(super) started: bool,
}

impl Sequence {
    /// A sequence in `slot`, whose first `cached` positions are there already.
    pub(super) fn new(submission: &Submission, slot: u32, cached: u32, turn: u64) -> Self {
        Self {
            id: submission.id,
            owner: submission.owner,
            reuse: submission.reuse,
            group: submission.group,
            tokens: submission.prompt.to_vec(),
            prompt_len: u32::try_from(submission.prompt.len()).expect("at most context_max, which submit checked"),
            new_left: submission.new_tokens_max,
            deadline_ns: submission.deadline_ns,
            slot,
            past: cached,
            cached,
            awaiting: false,
            unread: 0,
            paused_since: None,
            left: false,
            admitted: turn,
            decoded: 0,
            started: false,
        }
    }

    /// Whether prompt tokens are still to be run.
    pub(super) fn prefills(&self) -> bool {
        self.past < self.prompt_len
    }

    /// Whether its next token may be run now.
    pub(super) fn decodes(&self) -> bool {
        !self.prefills() && !self.awaiting && self.paused_since.is_none()
    }

    /// The tokens whose positions are in the slot.
    pub(super) fn in_slot(&self) -> &[u32] {
        &self.tokens[..self.past as usize]
    }

    /// The next prompt tokens to run, `chunk` at most; counts them as run.
    pub(super) fn take_chunk(&mut self, chunk: u32) -> Vec<u32> {
        let end = self.past.saturating_add(chunk.max(1)).min(self.prompt_len);
        let tokens = self.tokens[self.past as usize..end as usize].to_vec();
        self.past = end;
        self.awaiting = !self.prefills();
        tokens
    }

    /// The token to run next; counts it as run.
    pub(super) fn take_token(&mut self) -> u32 {
        let token = self.tokens[self.past as usize];
        self.past += 1;
        self.awaiting = true;
        token
    }

    /// One more token; `ahead_max` unread ones pause the sequence.
    pub(super) fn accept(&mut self, now: u64, token: u32, ahead_max: u32) {
        self.awaiting = false;
        self.tokens.push(token);
        self.new_left = self.new_left.saturating_sub(1);
        self.unread += 1;
        if self.unread >= ahead_max {
            self.paused_since = Some(now);
        }
    }

    /// The reader took `tokens`. A paused sequence goes on when half of what it may be ahead is read: going on and
    /// pausing move whole slots, so they should not alternate with every token.
    pub(super) fn read(&mut self, now: u64, tokens: u32, ahead_max: u32) {
        self.unread = self.unread.saturating_sub(tokens);
        if self.unread <= ahead_max / 2 {
            self.paused_since = None;
        } else if tokens > 0 && self.paused_since.is_some() {
            self.paused_since = Some(now);
        }
    }

    /// What stays in its slot for others.
    pub(super) fn into_prefix(mut self, turn: u64) -> Prefix {
        self.tokens.truncate(self.past as usize);
        Prefix { tokens: self.tokens, owner: self.owner, reuse: self.reuse, group: self.group, used: turn }
    }
}
