//! Limits of tenants, projects, deployments and keys.

use mayfly_api::Limits;

use crate::{Client, Error, Level};

impl Client {
    /// The limits of one level.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn limits(&self, level: Level<'_>) -> Result<Limits, Error> {
        self.get(&level.path("limits")).await
    }

    /// Replaces the limits of one level; gives them as they are now.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn set_limits(&self, level: Level<'_>, limits: &Limits) -> Result<Limits, Error> {
        self.put(&level.path("limits"), limits).await
    }
}
