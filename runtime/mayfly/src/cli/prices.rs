//! `mayfly prices`: the price book.

use anyhow::{Context as _, bail};
use mayfly_api::{NewPrice, Price, PriceChange, PriceDifference};
use serde_json::json;

use super::Session;
use super::args::{self, Prices};
use super::output::table;
use super::usage::parse_time;

pub(super) async fn run(session: &Session, command: Prices) -> anyhow::Result<()> {
    match command {
        Prices::List => {
            let prices = session.client.prices().await?;
            session.print(&json!({ "data": prices }), |_| {
                let rows: Vec<_> = prices.iter().map(row).collect();
                table(&["ID", "MODEL", "METER", "AMOUNT", "PER", "TENANT", "POOL", "FROM", "UNTIL"], &rows)
            })
        }
        Prices::Check { price } => {
            let change = session.client.check_price(&read(price)?).await?;
            session.print(&change, |change| format!("{}{}", describe("would be", change), difference(change)))
        }
        Prices::Set { price, confirm, as_of } => set(session, read(price)?, confirm, as_of).await,
    }
}

async fn set(
    session: &Session,
    mut price: NewPrice,
    confirm: Option<String>,
    as_of: Option<String>,
) -> anyhow::Result<()> {
    match confirm {
        Some(amount) => {
            price.confirm_difference = Some(amount.parse().context("--confirm")?);
            price.as_of = as_of.map(|time| time.parse()).transpose().context("--as-of")?;
        }
        None => {
            let change = session.client.check_price(&price).await?;
            if let Some(shown) = change.difference.as_ref().filter(|shown| shown.calls > 0) {
                session.print(&change, |change| format!("{}{}", describe("would be", change), difference(change)))?;
                bail!(
                    "nothing was added; to add the price and correct those calls, run it again with {}",
                    again(&change, shown)
                );
            }
        }
    }
    let change = session.client.add_price(&price).await?;
    session.print(&change, |change| format!("{}{}", describe("is", change), difference(change)))
}

/// The flags that confirm what was shown. A span such as `24h` would be another time then, so the time is spelled out.
fn again(change: &PriceChange, shown: &PriceDifference) -> String {
    format!("--from {} --confirm {} --as-of {}", change.price.from, shown.difference, shown.as_of)
}

fn read(price: args::NewPrice) -> anyhow::Result<NewPrice> {
    let meter = price.meter.replace('-', "_").parse().context("--meter")?;
    Ok(NewPrice {
        meter,
        amount: price.amount,
        per: price.per,
        currency: price.currency,
        model: price.model,
        tenant: price.tenant,
        pool: price.pool,
        from: price.from.as_deref().map(parse_time).transpose().context("--from")?,
        until: price.until.as_deref().map(parse_time).transpose().context("--until")?,
        confirm_difference: None,
        as_of: None,
    })
}

fn row(price: &Price) -> Vec<String> {
    vec![
        price.id.to_string(),
        price.model.clone().unwrap_or_else(|| "any".to_owned()),
        price.meter.to_string(),
        format!("{} {}", price.amount, price.currency),
        price.per.to_string(),
        price.tenant.map_or_else(|| "all".to_owned(), |tenant| tenant.to_string()),
        price.pool.to_string(),
        price.from.to_string(),
        price.until.map_or_else(|| "-".to_owned(), |until| until.to_string()),
    ]
}

fn describe(is: &str, change: &PriceChange) -> String {
    let Price { model, meter, amount, per, currency, from, .. } = &change.price;
    let model = model.as_deref().unwrap_or("any model");
    let note = change.note.as_ref().map(|note| format!("note: {note}\n")).unwrap_or_default();
    format!("{meter} of {model} {is} {amount} {currency} per {per} from {from}\n{note}")
}

fn difference(change: &PriceChange) -> String {
    match &change.difference {
        Some(PriceDifference { calls, before, after, difference, .. }) if *calls > 0 => {
            let currency = &change.price.currency;
            format!(
                "{calls} calls that have ended: {before} before, {after} after, difference {difference} {currency}\n"
            )
        }
        _ => "no call that has ended changes\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(calls: u64) -> PriceChange {
        serde_json::from_value(json!({
            "price": {"id": 0, "pool": "shared", "meter": "input_tokens", "amount": "0.02", "per": 1_000_000,
                "currency": "USD", "from": "2026-01-31T12:00:00Z"},
            "difference": {"calls": calls, "before": "0.5", "after": "0.25", "difference": "-0.25",
                "as_of": "2026-01-31T13:00:00Z"},
        }))
        .expect("a change")
    }

    #[test]
    fn a_difference_is_shown_with_the_flags_that_confirm_it() {
        let change = change(3);
        assert!(difference(&change).contains("3 calls") && difference(&change).contains("-0.25 USD"));
        let shown = change.difference.as_ref().expect("it has one");
        let expect = "--from 2026-01-31T12:00:00Z --confirm -0.25 --as-of 2026-01-31T13:00:00Z";
        assert_eq!(again(&change, shown), expect);
    }

    #[test]
    fn a_change_of_nothing_says_so() {
        assert!(difference(&change(0)).starts_with("no call"));
        assert!(describe("is", &change(0)).contains("of any model is 0.02 USD per 1000000"));
    }
}
