//! The prices of one call.

use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_types::{Line, Meter, ModelId, Money, Name, TenantId};

use super::PriceBook;

/// The prices of one call: the book as it stood when the call opened, and the names its models are priced by.
#[derive(Debug, Clone)]
pub struct Tariff {
    /// The book.
    pub book: Arc<PriceBook>,
    /// Whose prices.
    pub tenant: TenantId,
    /// The deployment's pool.
    pub pool: Name,
    /// When the call opened.
    pub at: i64,
    /// How each granted model is called in the book.
    pub models: Arc<BTreeMap<ModelId, String>>,
}

/// What one unit costs, and by which price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The price's id.
    pub price: i64,
    /// Pico-units of currency.
    pub pico_per_unit: i64,
}

impl Rate {
    /// The amount of `quantity` in pico-units. It stops at the bounds of `i64`.
    pub fn amount(self, quantity: i64) -> i64 {
        let exact = i128::from(self.pico_per_unit) * i128::from(quantity);
        i64::try_from(exact).unwrap_or(if exact < 0 { i64::MIN } else { i64::MAX })
    }
}

impl Tariff {
    /// What a unit of `meter` costs on `model`; none if it is unpriced.
    pub fn rate(&self, meter: Meter, model: Option<ModelId>) -> Option<Rate> {
        let model = model.and_then(|model| self.models.get(&model)).map(String::as_str);
        let price = self.book.price(self.tenant, model, &self.pool, meter, self.at)?;
        Some(Rate { price: price.id, pico_per_unit: price.pico_per_unit })
    }

    /// Price id and amount of `quantity`; none if it is unpriced. An amount stops growing at `i64::MAX`.
    pub fn amount(&self, meter: Meter, model: Option<ModelId>, quantity: i64) -> Option<(i64, i64)> {
        let rate = self.rate(meter, model)?;
        Some((rate.price, rate.amount(quantity)))
    }

    /// What `lines` cost together.
    pub fn cost(&self, lines: &[Line]) -> Money {
        let amount = |line: &Line| {
            let quantity = i64::try_from(line.quantity).unwrap_or(i64::MAX);
            self.amount(line.meter, line.model, quantity).map(|(_, amount)| Money::from_pico(amount.into()))
        };
        lines.iter().filter_map(amount).sum()
    }
}
