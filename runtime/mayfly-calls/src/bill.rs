//! What a call owes, as its answer tells it: usage by meter and what it costs.

use std::collections::BTreeMap;

use http::HeaderValue;
use http::header::{HeaderMap, HeaderName};
use mayfly_api::headers;
use mayfly_ledger::RowLine;
use mayfly_types::{Meter, Money};

/// Names of the trailers a streamed answer can end with.
pub(crate) const TRAILERS: &str = "x-mayfly-usage, x-mayfly-usage-input-tokens, x-mayfly-usage-output-tokens, \
                                   x-mayfly-cost, x-mayfly-currency";

const USAGE: HeaderName = HeaderName::from_static(headers::USAGE);
const USAGE_INPUT_TOKENS: HeaderName = HeaderName::from_static(headers::USAGE_INPUT_TOKENS);
const USAGE_OUTPUT_TOKENS: HeaderName = HeaderName::from_static(headers::USAGE_OUTPUT_TOKENS);
const COST: HeaderName = HeaderName::from_static(headers::COST);
const CURRENCY: HeaderName = HeaderName::from_static(headers::CURRENCY);

/// Lines of a settlement. Empty if nothing is owed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bill(pub(crate) Vec<RowLine>);

impl Bill {
    /// All amounts together.
    pub(crate) fn cost(&self) -> Money {
        let amounts = self.0.iter().filter_map(|line| line.amount).map(i128::from);
        Money::from_pico(amounts.fold(0, i128::saturating_add))
    }

    /// Whether tokens were counted or anything has a price: a retry would be charged again. Times alone are recorded.
    pub(crate) fn is_charged(&self) -> bool {
        let is_token = |meter| matches!(meter, Meter::InputTokens | Meter::CachedInputTokens | Meter::OutputTokens);
        self.0.iter().any(|line| line.amount.is_some_and(|amount| amount != 0) || is_token(line.meter))
    }

    /// As headers or trailers: all meters, models together; tokens apart if there were any; the cost.
    pub(crate) fn mark(&self, head: &mut HeaderMap, currency: &HeaderValue) {
        let mut sums: BTreeMap<Meter, u64> = BTreeMap::new();
        for line in &self.0 {
            let sum = sums.entry(line.meter).or_default();
            *sum = sum.saturating_add(u64::try_from(line.quantity).unwrap_or(0));
        }
        let json = serde_json::to_string(&sums).expect("words and integers are always JSON");
        head.insert(USAGE, text(json));
        let of = |meter| sums.get(&meter).copied();
        let input = of(Meter::InputTokens).unwrap_or(0).saturating_add(of(Meter::CachedInputTokens).unwrap_or(0));
        let output = of(Meter::OutputTokens).unwrap_or(0);
        if input > 0 || output > 0 {
            head.insert(USAGE_INPUT_TOKENS, HeaderValue::from(input));
            head.insert(USAGE_OUTPUT_TOKENS, HeaderValue::from(output));
        }
        head.insert(COST, text(self.cost().to_string()));
        head.insert(CURRENCY, currency.clone());
    }
}

fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("ASCII words and digits are a header value")
}

#[cfg(test)]
mod tests {
    use mayfly_types::ModelId;

    use super::*;

    fn line(meter: Meter, model: u8, quantity: i64, amount: Option<i64>) -> RowLine {
        RowLine { meter, model: Some(ModelId::from_bytes([model; 16])), quantity, price: amount.map(|_| 1), amount }
    }

    fn head(lines: &[RowLine]) -> HeaderMap {
        let mut head = HeaderMap::new();
        Bill(lines.to_vec()).mark(&mut head, &HeaderValue::from_static("EUR"));
        head
    }

    #[test]
    fn usage_is_summed_over_models() {
        let head = head(&[
            line(Meter::InputTokens, 1, 8, Some(160_000_000)),
            line(Meter::InputTokens, 2, 3, None),
            line(Meter::Rows, 1, 1, Some(5_000_000)),
        ]);
        assert_eq!(head[headers::USAGE], r#"{"input_tokens":11,"rows":1}"#);
        assert_eq!(head[headers::USAGE_INPUT_TOKENS], "11");
        assert_eq!(head[headers::USAGE_OUTPUT_TOKENS], "0");
        assert_eq!(head[headers::COST], "0.000165");
        assert_eq!(head[headers::CURRENCY], "EUR");
    }

    #[test]
    fn nothing_costs_nothing() {
        let head = head(&[]);
        assert_eq!(head[headers::USAGE], "{}");
        assert_eq!(head[headers::COST], "0");
        assert_eq!(head.len(), 3);
    }

    #[test]
    fn the_cost_does_not_wrap() {
        let lines = [line(Meter::Rows, 1, 1, Some(i64::MAX)), line(Meter::Rows, 2, 1, Some(i64::MAX))];
        assert_eq!(Bill(lines.to_vec()).cost().pico(), 2 * i128::from(i64::MAX));
    }

    #[test]
    fn only_tokens_and_what_has_a_price_are_charged() {
        let charged = |line| Bill(vec![line]).is_charged();
        assert!(charged(line(Meter::OutputTokens, 1, 1, None)));
        assert!(charged(line(Meter::Rows, 1, 1, Some(1))));
        assert!(!charged(line(Meter::Rows, 1, 1, None)));
        assert!(!charged(line(Meter::GuestCpuMicros, 1, 70, Some(0))));
        assert!(!Bill::default().is_charged());
    }
}
