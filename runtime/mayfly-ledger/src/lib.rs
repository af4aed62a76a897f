//! The account of every call, as rows: what opened, what was used so far, how it ended.
//!
//! Pure: no clock, randomness, file or socket. Rows become durable through a [`Journal`], which the store implements.

#![forbid(unsafe_code)]

mod account;
mod answer;
mod journal;
mod limits;
mod outcome;
mod period;
mod price;
#[cfg(test)]
mod random;
mod row;
#[cfg(test)]
mod simulation;
mod usage;

pub use account::{Account, CostMax};
pub use answer::{AnswerScope, KeptAnswer};
pub use journal::{
    Append, CallRecord, Credit, Difference, Grant, Journal, JournalError, Position, Prices, Repricing, Verification,
};
pub use limits::{Ask, Entered, Lease, Leases, Levels, Limits, Now, Room, Standing};
pub use outcome::{ChargeRule, Charged, Outcome, charge_table};
pub use period::period_start;
pub use price::{NewPrice, Price, PriceBook, PriceError, Rate, Tariff};
pub use row::{Call, Channel, CountedBy, Kind, Row, RowLine};
pub use usage::{GroupBy, UsageQuery, UsageRow};
