//! One choice of a generation in a worker: what came of it, and what of that its reader has.

use std::collections::VecDeque;
use std::time::Instant;

use super::Terms;
use crate::generation::AHEAD_MAX;
use crate::worker::flight::Violation;
use crate::{ChunkToken, Finish};

/// Bytes of one choice that its reader has not taken. Sixteen tokens with twenty likeliest each are some kilobytes.
pub(super) const UNREAD_BYTES_MAX: u64 = 256 << 10;
/// What a token takes here beside its bytes.
const TOKEN_BYTES: u64 = 64;
/// Bytes of text that one byte of a token can be: a byte that is no character becomes U+FFFD.
const TEXT_PER_BYTE: usize = 3;
/// Bytes of an unfinished character that were counted as one.
const UNFINISHED_BYTES_MAX: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Choice {
    made: u32,
    /// Its reader has so many of them.
    read: u32,
    /// The worker was told so many.
    told: u32,
    /// Bytes of those that were not read.
    unread: VecDeque<u64>,
    unread_bytes: u64,
    /// Far enough ahead of its reader to wait for it.
    paused: bool,
    /// How far its text reaches, and how much of it was given.
    reach: usize,
    given: usize,
    end: End,
    pub(super) over: bool,
}

/// Whether its reader wants it to end.
#[derive(Debug, Default)]
enum End {
    #[default]
    No,
    ToSay(Instant),
    Said(Instant),
}

impl Choice {
    /// Takes tokens over, if they can be what they should. `cancelled`: all of the generation may end so.
    pub(super) fn take(
        &mut self,
        terms: &Terms,
        text: &str,
        tokens: &[ChunkToken],
        finish: Option<Finish>,
        cancelled: bool,
    ) -> Result<(), Violation> {
        if self.over {
            return Err(Violation("more of a choice that is over"));
        }
        for token in tokens {
            self.token(terms, token)?;
        }
        self.check_end(terms, tokens.is_empty(), finish, cancelled)?;
        self.given = self.given.saturating_add(text.len());
        // At its end an unfinished character becomes U+FFFD.
        let slack = if finish.is_some() { UNFINISHED_BYTES_MAX } else { 0 };
        if self.given > self.reach.saturating_add(slack) {
            return Err(Violation("text that no token made"));
        }
        if let Some(last) = self.unread.back_mut() {
            *last += text.len() as u64;
            self.unread_bytes += text.len() as u64;
        }
        if self.unread_bytes > UNREAD_BYTES_MAX {
            return Err(Violation("more than may wait for its reader"));
        }
        self.over = finish.is_some();
        Ok(())
    }

    fn token(&mut self, terms: &Terms, token: &ChunkToken) -> Result<(), Violation> {
        let ChunkToken { id, bytes, text_end, logprob, top } = token;
        let allowed = terms.logprobs.unwrap_or(0) as usize;
        if *id >= terms.vocab || top.iter().any(|top| top.id >= terms.vocab) {
            return Err(Violation("a token that the model has not"));
        }
        if !logprob.is_finite() || top.iter().any(|top| !top.logprob.is_finite()) {
            return Err(Violation("a log probability that is none"));
        }
        if top.len() > allowed || (terms.logprobs.is_none() && *logprob != 0.0) {
            return Err(Violation("log probabilities nobody asked for"));
        }
        let most = bytes.len().saturating_add(UNFINISHED_BYTES_MAX).saturating_mul(TEXT_PER_BYTE);
        if *text_end < self.reach || *text_end - self.reach > most {
            return Err(Violation("text that does not follow from its tokens"));
        }
        self.reach = *text_end;
        self.made = self.made.saturating_add(1);
        if self.made > terms.max_tokens {
            return Err(Violation("more tokens than were asked for"));
        }
        if self.made - self.told > AHEAD_MAX {
            return Err(Violation("tokens too far ahead of their reader"));
        }
        let likeliest: u64 = top.iter().map(|top| TOKEN_BYTES + top.bytes.len() as u64).sum();
        let waiting = TOKEN_BYTES + bytes.len() as u64 + likeliest;
        self.unread.push_back(waiting);
        self.unread_bytes += waiting;
        self.paused |= self.made - self.read >= AHEAD_MAX;
        Ok(())
    }

    fn check_end(
        &self,
        terms: &Terms,
        is_empty: bool,
        finish: Option<Finish>,
        cancelled: bool,
    ) -> Result<(), Violation> {
        let full = self.made >= terms.max_tokens;
        match finish {
            None if is_empty => Err(Violation("a piece of nothing")),
            None if full => Err(Violation("a choice that goes on beyond its end")),
            Some(Finish::Cancelled) if !cancelled && matches!(self.end, End::No) => {
                Err(Violation("a choice that nobody cancelled"))
            }
            Some(Finish::Length) if !full => Err(Violation("a choice that is not as long as it says")),
            Some(Finish::Stop | Finish::Length) if is_empty => Err(Violation("an end without a token")),
            _ => Ok(()),
        }
    }

    /// Its reader has so many more; gives whether it goes on for that.
    pub(super) fn read(&mut self, tokens: u32) -> bool {
        let taken = self.unread.drain(..self.unread.len().min(tokens as usize));
        self.unread_bytes -= taken.sum::<u64>();
        self.read = self.read.saturating_add(tokens).min(self.made);
        // As the engine's scheduler does it.
        let resumes = self.paused && self.made - self.read <= AHEAD_MAX / 2;
        self.paused &= !resumes;
        resumes
    }

    /// Whether the model works on it.
    pub(super) fn goes_on(&self) -> bool {
        !self.over && !self.paused
    }

    pub(super) fn unread_bytes(&self) -> u64 {
        self.unread_bytes
    }

    /// Its reader wants no more of it; the worker is killed if it goes on after `until`.
    pub(super) fn end(&mut self, until: Instant) {
        if !self.over && matches!(self.end, End::No) {
            self.end = End::ToSay(until);
        }
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        !self.over && matches!(self.end, End::ToSay(until) | End::Said(until) if now >= until)
    }

    pub(super) fn end_to_say(&self) -> bool {
        !self.over && matches!(self.end, End::ToSay(_))
    }

    pub(super) fn end_said(&mut self) {
        if let End::ToSay(until) = self.end {
            self.end = End::Said(until);
        }
    }

    /// How many its reader has, if the worker was not told.
    pub(super) fn news(&self) -> Option<u32> {
        (!self.over && self.read > self.told).then_some(self.read)
    }

    pub(super) fn news_said(&mut self) {
        self.told = self.told.max(self.read);
    }
}
