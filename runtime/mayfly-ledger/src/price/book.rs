//! The book: finds the price that applies.

use std::cmp::Ordering;
use std::ops::Range;

use mayfly_types::{Meter, Name, TenantId};

use super::Price;

/// All prices, as of one moment. Immutable: a change makes a new book.
#[derive(Debug, Clone, Default)]
pub struct PriceBook {
    prices: Vec<Price>,
    /// Places in `prices`, ordered by what is priced ([`Subject`]) and then by when it begins.
    order: Vec<usize>,
}

/// What a price is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject<'a> {
    pub(super) meter: Meter,
    pub(super) pool: &'a str,
    pub(super) tenant: Option<TenantId>,
    pub(super) model: Option<&'a str>,
}

impl Price {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { meter: self.meter, pool: self.pool.as_str(), tenant: self.tenant, model: self.model.as_deref() }
    }

    /// Whether it was ended by itself before `at`. The next price of its subject may have ended it too.
    fn has_ended(&self, at: i64) -> bool {
        self.until.is_some_and(|until| until <= at)
    }
}

impl PriceBook {
    /// The book of these prices, as the store keeps them.
    pub fn new(mut prices: Vec<Price>) -> Self {
        prices.sort_by_key(|price| price.id);
        let mut order: Vec<usize> = (0..prices.len()).collect();
        order.sort_by(|&a, &b| {
            let (a, b) = (&prices[a], &prices[b]);
            a.subject().cmp(&b.subject()).then(a.from.cmp(&b.from))
        });
        Self { prices, order }
    }

    /// All prices, by id.
    pub fn prices(&self) -> &[Price] {
        &self.prices
    }

    /// The price that applies to work of a call opened at `at`; none is unpriced.
    pub fn price(&self, tenant: TenantId, model: Option<&str>, pool: &Name, meter: Meter, at: i64) -> Option<&Price> {
        let find = |tenant, model| self.find(Subject { meter, pool: pool.as_str(), tenant, model }, at);
        // A price for the model by name comes before one for any; where there is no name the two are one.
        let of = |tenant| model.and_then(|model| find(tenant, Some(model))).or_else(|| find(tenant, None));
        of(Some(tenant)).or_else(|| of(None))
    }

    fn find(&self, subject: Subject<'_>, at: i64) -> Option<&Price> {
        let begun = |price: &Price| match price.subject().cmp(&subject) {
            Ordering::Equal => price.from <= at,
            order => order == Ordering::Less,
        };
        let after = self.order.partition_point(|&place| begun(&self.prices[place]));
        // Periods do not overlap, so only the newest that has begun can apply.
        let newest = &self.prices[*self.order[..after].last()?];
        (newest.subject() == subject && !newest.has_ended(at)).then_some(newest)
    }

    /// All prices for `subject`, oldest beginning first.
    pub(super) fn of<'a>(&'a self, subject: Subject<'_>) -> impl Iterator<Item = &'a Price> + use<'a> {
        let place = |before: &dyn Fn(Ordering) -> bool| {
            self.order.partition_point(|&place| before(self.prices[place].subject().cmp(&subject)))
        };
        let range: Range<usize> = place(&Ordering::is_lt)..place(&Ordering::is_le);
        self.order[range].iter().map(|&place| &self.prices[place])
    }
}
