//! The price book: what a unit costs, for whom, from when to when. Append-only; looked up as of a call's start.

mod book;
mod entry;
mod tariff;

use mayfly_types::{Meter, Name, TenantId};

pub use book::PriceBook;
pub use tariff::{Rate, Tariff};

/// A price as it was entered: money for `per` units (1, 1,000 or 1,000,000).
///
/// A price applies to calls opened in `[from, until)`. Without `until` it lasts until the next price of the same
/// tenant, model, pool and meter begins. Where several apply, a tenant's own comes before the general one, then a
/// model's own before that for any model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPrice {
    /// Only for this tenant's calls; none is for all.
    pub tenant: Option<TenantId>,
    /// The model's name (`minilm` for the host's, `project/name` for a project's); none is for any.
    pub model: Option<String>,
    /// The pool of capacity the work runs in: `shared` unless the deployment says otherwise.
    pub pool: Name,
    /// What is counted.
    pub meter: Meter,
    /// Money for `per` units, as a decimal string.
    pub amount: String,
    /// 1, 1,000 or 1,000,000.
    pub per: u64,
    /// Must be the host's currency.
    pub currency: String,
    /// Microseconds since the Unix epoch.
    pub from: i64,
    /// Microseconds since the Unix epoch.
    pub until: Option<i64>,
}

/// A price in the book. Never changed once there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `NewPrice`")]
pub struct Price {
    /// Given by the store, from 1.
    pub id: i64,
    pub tenant: Option<TenantId>,
    pub model: Option<String>,
    pub pool: Name,
    pub meter: Meter,
    /// Pico-units of currency for one unit of the meter. Zero is free.
    pub pico_per_unit: i64,
    pub from: i64,
    pub until: Option<i64>,
    /// When it was entered.
    pub created_at: i64,
}

/// Why a price was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not a decimal amount: sign, exponent, letters, too many digits.
    #[error("`{0}` is not a price (a decimal number without sign or exponent)")]
    Amount(String),
    /// `per` is not one of the three.
    #[error("`per` is {0}; it must be 1, 1000 or 1000000")]
    Per(u64),
    /// The price of one unit is not a whole number of pico-units, or above 2^63 - 1 of them.
    #[error("{amount} per {per} is not a whole number of pico-units (10^-12) per unit below 2^63")]
    NotWhole {
        /// As entered.
        amount: String,
        /// As entered.
        per: u64,
    },
    /// Another currency than the host's.
    #[error("the currency is `{given}`, this host's is `{ours}`")]
    Currency {
        /// As entered.
        given: String,
        /// The host's.
        ours: String,
    },
    /// The end is not after the beginning.
    #[error("the price ends before it begins")]
    Empty,
    /// It would overlap with another price for the same thing.
    #[error("it overlaps with price {with} for the same tenant, model, pool and meter")]
    Overlaps {
        /// The other price's id.
        with: i64,
    },
    /// Neither none, `name` nor `project/name`.
    #[error("`{0}` is not a model's name (`name`, or `project/name` for a project's own)")]
    Model(String),
    /// Times are recorded, and priced only for models that projects brought. Guest CPU belongs to no model.
    #[error("`{0}` is recorded and not priced{hint}", hint = match .0 {
        Meter::GuestCpuMicros => "",
        _ => " on models of the host; name a project's own model (`project/name`)",
    })]
    Unpriced(Meter),
}

#[cfg(test)]
mod tests;
