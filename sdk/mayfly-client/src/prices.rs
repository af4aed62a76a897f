//! The price book, and what calls would cost.

use mayfly_api::{Estimate, NewEstimate, NewPrice, Price, PriceChange};

use crate::{Client, Error};

impl Client {
    /// The prices that apply to the key's calls; for the operator, all.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn prices(&self) -> Result<Vec<Price>, Error> {
        self.list(&["api", "v1", "prices"]).await
    }

    /// What adding a price would change; nothing is added. For the operator.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn check_price(&self, price: &NewPrice) -> Result<PriceChange, Error> {
        self.post(&["api", "v1", "prices", "check"], price).await
    }

    /// Adds a price. For the operator.
    ///
    /// # Errors
    /// [`Error`]; with the code `conflict` if it begins in the past and its difference was not confirmed.
    pub async fn add_price(&self, price: &NewPrice) -> Result<PriceChange, Error> {
        self.post(&["api", "v1", "prices"], price).await
    }

    /// What a call would cost now, without running it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn estimate(&self, call: &NewEstimate) -> Result<Estimate, Error> {
        self.post(&["api", "v1", "estimate"], call).await
    }
}
