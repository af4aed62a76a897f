//! One level: its open calls, its buckets and its purse.

use std::sync::Arc;

use mayfly_types::{LevelId, LevelLimits, Money};

use super::{Ask, Now, Room, bucket::Bucket, obstacle::Obstacle, open::OpenCall, open::Share, purse::Purse};
use crate::Position;

/// A level in use.
#[derive(Debug)]
pub(super) struct Level {
    id: LevelId,
    /// As they are in force.
    limits: Arc<LevelLimits>,
    open: u32,
    /// When it was last looked at, nanoseconds on the clock that never goes back.
    touched: u64,
    requests: Rate,
    tokens: Rate,
    wakeups: Rate,
    /// There once money was limited.
    purse: Option<Box<Purse>>,
}

/// A bucket that is there while the limit is.
#[derive(Debug)]
struct Rate {
    name: &'static str,
    bucket: Option<Bucket>,
    /// Which bucket it is: calls give back only to the one they took from.
    number: u32,
}

impl Rate {
    const fn new(name: &'static str) -> Self {
        Self { name, bucket: None, number: 0 }
    }

    fn limit(&mut self, limit: Option<u64>, now: u64) {
        match (limit, &mut self.bucket) {
            (Some(limit), Some(bucket)) => bucket.advance(limit, now),
            (Some(limit), none) => {
                *none = Some(Bucket::empty(limit, now));
                self.number = self.number.wrapping_add(1);
            }
            (None, bucket) => *bucket = None,
        }
    }

    fn obstacle(&self, limit: Option<u64>, requested: u64) -> Option<Obstacle> {
        let (Some(limit), Some(bucket), 1..) = (limit, &self.bucket, requested) else { return None };
        match bucket.wait(requested) {
            Some(0) => None,
            Some(wait) => Some(Obstacle::Rate { name: self.name, limit, used: bucket.used(), requested, wait }),
            None => Some(Obstacle::TooMany { name: self.name, limit, requested }),
        }
    }

    fn add(&mut self, quantity: u64) {
        if let Some(bucket) = &mut self.bucket {
            bucket.add(quantity);
        }
    }

    fn give_back(&mut self, quantity: u64) {
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back(quantity);
        }
    }

    fn room(&self, limit: Option<u64>, now: u64) -> Option<Room> {
        let (limit, bucket) = (limit?, self.bucket.as_ref()?);
        let (remaining, reset) = bucket.room(limit, now);
        Some(Room { limit, remaining, reset })
    }

    fn is_empty_at(&self, now: u64) -> bool {
        self.bucket.as_ref().is_none_or(|bucket| bucket.is_empty_at(now))
    }
}

impl Level {
    /// Without limits; [`Level::limit`] brings them.
    pub(super) fn new(id: LevelId) -> Self {
        Self {
            id,
            limits: Arc::default(),
            open: 0,
            touched: 0,
            requests: Rate::new("requests_per_minute"),
            tokens: Rate::new("tokens_per_minute"),
            wakeups: Rate::new("wakeups_per_minute"),
            purse: None,
        }
    }

    pub(super) const fn id(&self) -> LevelId {
        self.id
    }

    pub(super) const fn open(&self) -> u32 {
        self.open
    }

    pub(super) fn purse_mut(&mut self) -> Option<&mut Purse> {
        self.purse.as_deref_mut()
    }

    pub(super) fn touch(&mut self, now: Now) {
        self.touched = self.touched.max(now.monotonic);
    }

    /// Brings the buckets to `now`, and these limits into force. `open_calls`: when each call of this level opened and
    /// what it has reserved, for a purse that begins with calls open.
    pub(super) fn limit<I: Iterator<Item = (i64, Money)>>(
        &mut self,
        limits: &Arc<LevelLimits>,
        now: Now,
        open_calls: impl FnOnce() -> I,
    ) {
        if !Arc::ptr_eq(&self.limits, limits) {
            self.limits = limits.clone();
            self.limit_money(open_calls);
        }
        self.advance(now);
    }

    /// Brings the buckets to `now`.
    pub(super) fn advance(&mut self, now: Now) {
        self.requests.limit(self.limits.requests_per_minute, now.monotonic);
        self.tokens.limit(self.limits.tokens_per_minute, now.monotonic);
        self.wakeups.limit(self.limits.wakeups_per_minute, now.monotonic);
    }

    fn limit_money<I: Iterator<Item = (i64, Money)>>(&mut self, open_calls: impl FnOnce() -> I) {
        // Once there it stays, until the level is at rest: answers of the ledger may be on their way to it.
        if let Some(purse) = &mut self.purse {
            purse.limit(&self.limits, open_calls);
        } else if self.limits.counts_money() {
            self.purse = Some(Box::new(Purse::new(&self.limits, open_calls())));
        }
    }

    /// What keeps a call from entering.
    pub(super) fn door(&self, wakes: bool, now: Now) -> Option<Obstacle> {
        let limits = &self.limits;
        let money = || self.purse.as_ref().filter(|_| limits.counts_money()).and_then(|purse| purse.door(now.wall));
        let concurrency = || {
            let limit = limits.concurrency.filter(|&limit| self.open >= limit)?;
            Some(Obstacle::Concurrency { limit, open: self.open })
        };
        let requests = self.requests.obstacle(limits.requests_per_minute, 1);
        let wakeups = self.wakeups.obstacle(limits.wakeups_per_minute, u64::from(wakes));
        worst([money(), concurrency(), requests, wakeups])
    }

    /// What keeps a call that opened at `opened_at` from reserving `more`.
    pub(super) fn room(&self, more: Ask, opened_at: i64) -> Option<Obstacle> {
        let tokens = self.tokens.obstacle(self.limits.tokens_per_minute, more.tokens);
        let money = self.purse.as_ref().and_then(|purse| purse.room(more.cost, opened_at));
        worst([money, tokens])
    }

    /// Takes what [`Level::door`] has found room for.
    pub(super) fn enter(&mut self, share: &mut Share, wakes: bool, now: Now) {
        self.open = self.open.saturating_add(1);
        self.requests.add(1);
        if wakes {
            self.wakeups.add(1);
            share.woke_in = Some(self.wakeups.number);
        }
        if let Some(purse) = self.purse_mut() {
            purse.enter(now.wall);
        }
    }

    /// Moves a call's tokens from `from` to `to`, and its reserved money by `cost`.
    pub(super) fn shift(&mut self, share: &mut Share, from: u64, to: u64, cost: Money, opened_at: i64) {
        if share.tokens_in != self.tokens.number || self.tokens.bucket.is_none() {
            (share.tokens, share.tokens_in) = (0, self.tokens.number);
        }
        if self.tokens.bucket.is_some() {
            let back = from.saturating_sub(to).min(share.tokens);
            let more = to.saturating_sub(from);
            self.tokens.give_back(back);
            self.tokens.add(more);
            share.tokens = (share.tokens - back).saturating_add(more);
        }
        if cost != Money::ZERO
            && let Some(purse) = self.purse_mut()
        {
            purse.shift(cost, opened_at);
        }
    }

    /// The end of a call; its tokens are right already.
    pub(super) fn leave(&mut self, share: Share, call: &OpenCall, owed: Money, at: Option<Position>, woke: bool) {
        self.open = self.open.saturating_sub(1);
        if !woke && share.woke_in == Some(self.wakeups.number) {
            self.wakeups.give_back(1);
        }
        if let Some(purse) = self.purse_mut() {
            purse.leave(call.opened_at(), call.cost(), owed, at);
        }
    }

    /// Requests and tokens.
    pub(super) fn rooms(&self, now: Now) -> (Option<Room>, Option<Room>) {
        (
            self.requests.room(self.limits.requests_per_minute, now.monotonic),
            self.tokens.room(self.limits.tokens_per_minute, now.monotonic),
        )
    }

    /// Whether nothing would be lost with it, and nobody has come for so many nanoseconds.
    pub(super) fn is_at_rest(&self, now: Now, nanos_min: u64) -> bool {
        self.open == 0
            && now.monotonic.saturating_sub(self.touched) >= nanos_min
            && [&self.requests, &self.tokens, &self.wakeups].iter().all(|rate| rate.is_empty_at(now.monotonic))
    }
}

/// Of several the one that is longest in the way; of equal ones the first.
fn worst<const N: usize>(obstacles: [Option<Obstacle>; N]) -> Option<Obstacle> {
    let worse = |worst: Obstacle, other: Obstacle| if other.is_worse_than(&worst) { other } else { worst };
    obstacles.into_iter().flatten().reduce(worse)
}
