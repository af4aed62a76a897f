//! The numbers that stand for words in stored rows. Never changed once released; a new word gets a new number.

use std::sync::Arc;

use mayfly_ledger::{Channel, CountedBy, Kind, Outcome};
use mayfly_types::{LevelId, Meter};

use crate::DbError;

/// The kind of a grant row; grants are no [`Kind`], because they belong to no call.
pub(super) const GRANT: i64 = 5;
/// The meter of a rollup that counts calls.
pub(super) const CALLS: i64 = 0;
/// The meter of a rollup that counts calls by the model they ran on (model 0: on none).
pub(super) const RAN: i64 = 100;
/// How cold a call can be.
const COLD: [&str; 4] = ["none", "instance", "code", "model"];

pub(crate) const fn kind(kind: Kind) -> i64 {
    match kind {
        Kind::Open => 0,
        Kind::Progress => 1,
        Kind::Settle => 2,
        Kind::Void => 3,
        Kind::Correct => 4,
    }
}

pub(crate) const fn outcome(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Completed => 0,
        Outcome::ClientLeft => 1,
        Outcome::Deadline => 2,
        Outcome::GuestFault => 3,
        Outcome::Refused => 4,
        Outcome::HostFault => 5,
        Outcome::HostCrash => 6,
        Outcome::Replayed => 7,
    }
}

pub(crate) const fn channel(channel: Channel) -> i64 {
    match channel {
        Channel::Api => 0,
        Channel::Playground => 1,
        Channel::Batch => 2,
        Channel::Flow => 3,
        Channel::Filter => 4,
    }
}

pub(crate) const fn counted_by(by: CountedBy) -> i64 {
    match by {
        CountedBy::Host => 0,
        CountedBy::Upstream => 1,
    }
}

pub(crate) const fn meter(meter: Meter) -> i64 {
    match meter {
        Meter::InputTokens => 1,
        Meter::CachedInputTokens => 2,
        Meter::OutputTokens => 3,
        Meter::Rows => 4,
        Meter::Elements => 5,
        Meter::InferenceMicros => 6,
        Meter::GuestCpuMicros => 7,
    }
}

pub(crate) fn cold(text: &str) -> Result<i64, DbError> {
    let place = COLD.iter().position(|word| *word == text);
    let unknown = || DbError::Failed { detail: format!("`{text}` does not say how cold a call was") };
    place.and_then(|place| i64::try_from(place).ok()).ok_or_else(unknown)
}

/// The number of a level's kind, and its id.
pub(super) fn level(level: LevelId) -> (i64, [u8; 16]) {
    match level {
        LevelId::Tenant(id) => (0, id.to_bytes()),
        LevelId::Project(id) => (1, id.to_bytes()),
        LevelId::Deployment(id) => (2, id.to_bytes()),
        LevelId::Key(id) => (3, id.to_bytes()),
    }
}

pub(crate) fn kind_of(number: i64) -> Result<Kind, DbError> {
    word(Kind::ALL, kind, number, "kind")
}

pub(crate) fn outcome_of(number: i64) -> Result<Outcome, DbError> {
    word(&Outcome::ALL, outcome, number, "outcome")
}

pub(crate) fn channel_of(number: i64) -> Result<Channel, DbError> {
    word(Channel::ALL, channel, number, "channel")
}

pub(crate) fn counted_by_of(number: i64) -> Result<CountedBy, DbError> {
    word(CountedBy::ALL, counted_by, number, "counter")
}

pub(crate) fn meter_of(number: i64) -> Result<Meter, DbError> {
    word(&Meter::ALL, meter, number, "meter")
}

pub(crate) fn cold_of(number: i64) -> Result<Arc<str>, DbError> {
    let word = usize::try_from(number).ok().and_then(|place| COLD.get(place));
    word.map(|word| Arc::from(*word)).ok_or_else(|| unknown("temperature", number))
}

fn word<T: Copy>(all: &[T], number_of: impl Fn(T) -> i64, number: i64, what: &str) -> Result<T, DbError> {
    all.iter().copied().find(|value| number_of(*value) == number).ok_or_else(|| unknown(what, number))
}

fn unknown(what: &str, number: i64) -> DbError {
    DbError::damaged("ledger row", format_args!("{number} is no {what}"))
}
