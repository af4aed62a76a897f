//! What may enter the book.

use mayfly_types::{Meter, Money, Name};

use super::{NewPrice, Price, PriceBook, PriceError};

impl PriceBook {
    /// Checks an entry against the rules and the book; gives the price it would be (with id 0).
    ///
    /// It may begin inside an older price without end, which ends there. It may not touch the time of one with an end,
    /// and must itself end before a later one begins.
    ///
    /// # Errors
    /// [`PriceError`]; the book is as it was.
    pub fn check(&self, entry: &NewPrice, currency: &str, now: i64) -> Result<Price, PriceError> {
        if entry.currency != currency {
            return Err(PriceError::Currency { given: shown(&entry.currency), ours: currency.to_owned() });
        }
        if let Some(model) = &entry.model
            && !is_model(model)
        {
            return Err(PriceError::Model(shown(model)));
        }
        if !is_priced(entry.meter, entry.model.as_deref()) {
            return Err(PriceError::Unpriced(entry.meter));
        }
        let pico_per_unit = pico_per_unit(&entry.amount, entry.per)?;
        if entry.until.is_some_and(|until| until <= entry.from) {
            return Err(PriceError::Empty);
        }
        let price = Price {
            id: 0,
            tenant: entry.tenant,
            model: entry.model.clone(),
            pool: entry.pool.clone(),
            meter: entry.meter,
            pico_per_unit,
            from: entry.from,
            until: entry.until,
            created_at: now,
        };
        match self.of(price.subject()).find(|other| clash(other, &price)) {
            Some(other) => Err(PriceError::Overlaps { with: other.id }),
            None => Ok(price),
        }
    }
}

/// Whether `new` cannot stand beside `old`. Without an end, the one that begins first gives way to the other.
fn clash(old: &Price, new: &Price) -> bool {
    if old.from < new.from {
        old.until.is_some_and(|until| until > new.from)
    } else {
        new.until.is_none_or(|until| until > old.from)
    }
}

/// Pico-units for one unit of the meter.
fn pico_per_unit(amount: &str, per: u64) -> Result<i64, PriceError> {
    if !matches!(per, 1 | 1_000 | 1_000_000) {
        return Err(PriceError::Per(per));
    }
    let decimal = || amount.parse::<Money>().ok().filter(|_| !amount.starts_with('-'));
    let money = decimal().ok_or_else(|| PriceError::Amount(shown(amount)))?;
    let not_whole = || PriceError::NotWhole { amount: shown(amount), per };
    let per_one = money.pico() / i128::from(per);
    if money.pico() % i128::from(per) != 0 {
        return Err(not_whole());
    }
    i64::try_from(per_one).map_err(|_| not_whole())
}

/// Times depend on the machine and on who else is busy: they are priced only where a project's own model runs.
fn is_priced(meter: Meter, model: Option<&str>) -> bool {
    match meter {
        Meter::InputTokens | Meter::CachedInputTokens | Meter::OutputTokens | Meter::Rows | Meter::Elements => true,
        Meter::InferenceMicros => model.is_some_and(|model| model.contains('/')),
        Meter::GuestCpuMicros => false,
    }
}

fn is_model(text: &str) -> bool {
    let is_name = |text: &str| text.parse::<Name>().is_ok();
    match text.split_once('/') {
        Some((project, name)) => is_name(project) && is_name(name),
        None => is_name(text),
    }
}

/// What was entered, short and harmless enough to repeat.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}
