//! The price book: what a unit costs, for whom, from when to when.

use mayfly_types::{Meter, Money, Name, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Timestamp;

/// A price in the book. Never changed once there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Price {
    /// Goes into bills; 0 for a price that was only checked.
    pub id: i64,
    /// Only for this tenant's calls; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    /// The model's name (`minilm` for the host's, `project/name` for a project's); absent for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The pool of capacity the work runs in.
    #[schema(value_type = String)]
    pub pool: Name,
    /// What is counted.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// Money for `per` units, as a decimal.
    #[schema(value_type = String)]
    pub amount: Money,
    /// 1 or 1,000,000, whichever reads better; the same price as was entered.
    pub per: u64,
    /// The host's.
    pub currency: String,
    /// It applies to calls that begin at this time or later.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// And before this time; absent: until the next price of the same tenant, model, pool and meter begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// When it was entered; absent for a price that was only checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Timestamp>,
}

/// A price to add. What a unit costs must be a whole number of 10^-12 of the currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrice {
    /// What is counted: `input_tokens`, `cached_input_tokens`, `output_tokens`, `rows`, `elements`; `inference_micros` on
    /// models of projects only.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// Money for `per` units: a decimal without sign or exponent, as a string.
    pub amount: String,
    /// 1, 1000 or 1000000.
    pub per: u64,
    /// Must be the host's; without it, it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// The model's name (`minilm` for the host's, `project/name` for a project's); without it, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Only for this tenant's calls, by name or id; without it, for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The pool of capacity; without it, `shared`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub pool: Option<Name>,
    /// It applies to calls that begin at this time or later; without it, now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// And before this time; without it, until the next price of the same things begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// For a price that begins in the past and changes what calls cost: the difference (after minus before) that was
    /// shown, so that nobody corrects bills without having seen by how much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub confirm_difference: Option<Money>,
    /// Show, and compare with, the difference over calls that began before this time (`as_of` of the answer that
    /// showed it): on a busy host it changes while it is read. Without it, now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<Timestamp>,
}

/// What a price changes on calls that have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PriceDifference {
    /// Calls that it changes.
    pub calls: u64,
    /// What their lines cost as they stand.
    #[schema(value_type = String)]
    pub before: Money,
    /// What they cost with the price.
    #[schema(value_type = String)]
    pub after: Money,
    /// After minus before: what `confirm_difference` has to say.
    #[schema(value_type = String)]
    pub difference: Money,
    /// Over calls that began before this time.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: Timestamp,
}

/// A price with what it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PriceChange {
    /// The price.
    pub price: Price,
    /// What it changes, or has changed, on calls that have ended; absent where it begins now or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<PriceDifference>,
    /// Something worth a second look, for example that no model has the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
