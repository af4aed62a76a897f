//! What a call would cost, without running it.

use std::collections::BTreeMap;

use mayfly_types::{Meter, ModelId, Money, Name};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One text, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EstimateInput {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// What to price: texts, quantities, or texts with quantities beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEstimate {
    /// The project's name.
    #[schema(value_type = String)]
    pub project: Name,
    /// The deployment's name.
    #[schema(value_type = String)]
    pub deployment: Name,
    /// The alias of one of its models; needed where it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub model: Option<Name>,
    /// Counted with the model's own tokenizer as `input_tokens`, its own first and last tokens included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<EstimateInput>,
    /// By meter, for example `{"output_tokens": 200}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quantities: BTreeMap<String, u64>,
}

/// The price of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinePrice {
    /// The price's id in the book.
    pub id: i64,
    /// Money for `per` units.
    #[schema(value_type = String)]
    pub amount: Money,
    /// 1 or 1,000,000.
    pub per: u64,
}

/// One line of an estimate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EstimateLine {
    /// What is counted.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// The model that would do the work; absent for guest CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub model: Option<ModelId>,
    /// How the model is called in the price book.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// How much, in the meter's unit.
    pub quantity: i64,
    /// The price that applies now; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<LinePrice>,
    /// What the line costs; absent if it is unpriced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cost: Option<Money>,
}

/// What a call would cost now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    /// One for each meter.
    pub lines: Vec<EstimateLine>,
    /// All lines together.
    #[schema(value_type = String)]
    pub cost: Money,
    /// The host's.
    pub currency: String,
    /// Meters without a price: counted, and free as the book stands.
    #[schema(value_type = Vec<String>)]
    pub unpriced: Vec<Meter>,
    /// Texts longer than the model reads: the encoder cuts them, and so does this count.
    pub truncated: u32,
}
