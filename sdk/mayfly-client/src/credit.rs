//! Prepaid credit, and the ledger it is kept in.

use mayfly_api::{Credit, NewCredit, Verification};
use reqwest::Method;

use crate::{Client, Error, Level};

impl Client {
    /// A level's credit account.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn credit(&self, level: Level<'_>) -> Result<Credit, Error> {
        self.get(&level.path("credit")).await
    }

    /// Gives a level credit, or takes some back; the account after it. For the operator. Twice gives twice.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn grant_credit(&self, level: Level<'_>, credit: &NewCredit) -> Result<Credit, Error> {
        self.post(&level.path("credit"), credit).await
    }

    /// Walks the whole ledger; may take minutes. What is wrong is in the answer. For the operator.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn verify_ledger(&self) -> Result<Verification, Error> {
        self.json(self.request(Method::POST, &["api", "v1", "ledger", "verify"])).await
    }
}
