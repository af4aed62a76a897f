//! Calls that have ended, brought to the prices that hold for them: when a price begins in the past.
//!
//! What a correction is and how it is written is the ledger's; here is which calls, which names and when. A call that
//! is open while a price is entered ends with the book it began with, so a second pass follows once all such calls
//! must have ended; after a restart it is done again for what was entered shortly before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mayfly_ledger::{Difference, GroupBy, Price, PriceBook, Repricing, UsageQuery};
use mayfly_registry::{Model, Owner, RecordsError};
use mayfly_types::{Meter, ModelId, TenantId};

use crate::Gateway;
use crate::failure::Failure;
use crate::time::now_micros;

/// Every call ends within the ceiling of `deadline_ms_max` and a little more for its last row.
const CALLS_END: Duration = Duration::from_secs(11 * 60);
/// A price entered this long before a start may have been cut off in its corrections.
const RECENT_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// Which calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Only this tenant's.
    pub(crate) tenant: Option<TenantId>,
    /// Only lines of this meter.
    pub(crate) meter: Meter,
    /// Opened at or after.
    pub(crate) from: i64,
    /// Opened before.
    pub(crate) until: i64,
}

impl Window {
    /// The calls opened before `until` that a price is for.
    pub(crate) fn of(price: &Price, until: i64) -> Self {
        let until = price.until.map_or(until, |end| end.min(until));
        Self { tenant: price.tenant, meter: price.meter, from: price.from, until }
    }
}

impl Gateway {
    /// Compares the calls of a window with `book` and, if `write` says so, corrects them.
    ///
    /// # Errors
    /// [`Failure`] of the store. Corrections written so far stand; doing it again writes only what is missing.
    pub(crate) async fn reprice(
        &self,
        window: Window,
        book: Arc<PriceBook>,
        write: bool,
    ) -> Result<Difference, Failure> {
        if window.from >= window.until {
            return Ok(Difference::default());
        }
        let repricing = Repricing {
            models: Arc::new(self.models_of(window).await?),
            book,
            tenant: window.tenant,
            meter: window.meter,
            from: window.from,
            until: window.until,
            at: now_micros(),
        };
        let difference = self.0.parts.journal.reprice(&repricing, write).await?;
        if write && difference.calls > 0 {
            self.0.parts.calls.money_changed();
        }
        Ok(difference)
    }

    /// A second pass over the calls that were open when the book changed.
    pub(crate) fn reprice_later(&self, window: Window) {
        let gateway = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(CALLS_END) => gateway.reprice_logged(window).await,
                () = gateway.0.stop.cancelled() => {}
            }
        });
    }

    /// What an earlier start may have left: prices entered within the last day that begin in the past.
    pub(crate) async fn reprice_recent(self) {
        let now = now_micros();
        let book = self.0.parts.calls.price_book();
        for window in recent(book.prices(), now) {
            self.reprice_logged(window).await;
        }
    }

    async fn reprice_logged(&self, window: Window) {
        match self.reprice(window, self.0.parts.calls.price_book(), true).await {
            Ok(Difference { calls: 0, .. }) => {}
            Ok(Difference { calls, before, after }) => {
                tracing::info!(calls, %before, %after, "calls were corrected to a price that begins in the past");
            }
            Err(failure) => tracing::error!(
                message = failure.message,
                "calls could not be corrected to a price that begins in the past; the next start tries again"
            ),
        }
    }

    /// How the models that worked for a window's calls are called in the book.
    async fn models_of(&self, window: Window) -> Result<BTreeMap<ModelId, String>, Failure> {
        let query = UsageQuery {
            tenant: window.tenant,
            since: Some(window.from),
            until: Some(window.until),
            group_by: vec![GroupBy::Model],
            ..UsageQuery::default()
        };
        let mut names = BTreeMap::new();
        for row in self.0.parts.journal.usage(&query).await? {
            let Some(Ok(id)) = row.group.first().map(|id| id.parse::<ModelId>()) else { continue };
            if names.contains_key(&id) {
                continue;
            }
            if let Some(model) = self.records().model(id).await?
                && let Some(name) = self.book_name(&model).await?
            {
                names.insert(id, name);
            }
        }
        Ok(names)
    }

    /// What a model is called in the price book: `minilm` for the host's, `project/name` for a project's.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub(crate) async fn book_name(&self, model: &Model) -> Result<Option<String>, RecordsError> {
        Ok(match model.owner {
            Owner::Host => Some(model.name.to_string()),
            Owner::Project(id) => self.project(id).await?.map(|project| format!("{}/{}", project.name, model.name)),
        })
    }
}

/// The windows of prices that were entered within the last day and begin before that.
fn recent(prices: &[Price], now: i64) -> Vec<Window> {
    let entered = prices.iter().filter(|price| price.created_at > now.saturating_sub(RECENT_MICROS));
    // A call may have begun with the older book until the newer one was in use, a moment after the price was stored.
    let back_dated = entered.filter(|price| price.from < price.created_at);
    back_dated.map(|price| Window::of(price, price.created_at.saturating_add(1_000_000).min(now))).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn price(from: i64, until: Option<i64>, created_at: i64) -> Price {
        Price {
            id: 1,
            tenant: None,
            model: None,
            pool: "shared".parse().unwrap(),
            meter: Meter::Rows,
            pico_per_unit: 1,
            from,
            until,
            created_at,
        }
    }

    #[test]
    fn a_window_ends_with_its_price() {
        let ends = |until, at| Window::of(&price(0, until, 0), at).until;
        assert_eq!((ends(None, 9), ends(Some(5), 9), ends(Some(50), 9)), (9, 5, 9));
    }

    #[test]
    fn only_what_was_entered_lately_and_begins_before_is_looked_at_again() {
        let now = 100 * HOUR;
        let prices = [
            price(0, None, now - 30 * HOUR),
            price(now - 2 * HOUR, None, now - HOUR),
            price(now - HOUR, None, now - HOUR),
            price(now + HOUR, None, now - HOUR),
        ];
        let windows = recent(&prices, now);
        assert_eq!(windows.len(), 1);
        assert_eq!((windows[0].from, windows[0].until), (now - 2 * HOUR, now - HOUR + 1_000_000));
    }
}
