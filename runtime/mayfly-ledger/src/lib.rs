//! The account of every call, as rows: what opened, what was used so far, how it ended.
//!
//! Pure: no clock, randomness, file or socket. Rows become durable through a [`Journal`], which the store implements.

#![forbid(unsafe_code)]

mod account;
mod journal;
mod outcome;
mod row;
mod usage;

pub use account::Account;
pub use journal::{CallRecord, Journal, JournalError};
pub use outcome::Outcome;
pub use row::{Call, Channel, CountedBy, Kind, Row, RowLine};
pub use usage::{GroupBy, UsageQuery, UsageRow};
