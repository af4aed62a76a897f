//! What the calls below a level may use together. The pool rule is the store's, in the write's own transaction.

use mayfly_types::{LevelId, LevelLimits};

use super::Control;
use crate::clock::now;
use crate::{ControlError, RecordsError};

impl Control {
    /// Replaces the limits of one level. They hold for the next call on this node, on every other within
    /// [`crate::REVOCATION_BOUND_MS`].
    ///
    /// # Errors
    /// [`ControlError::Invalid`] names every limit that is out of range; [`ControlError::Conflict`] if a project's pool
    /// of tokens per minute would be smaller than what its deployments were given of it.
    pub async fn set_limits(&self, level: LevelId, limits: &LevelLimits) -> Result<(), ControlError> {
        check(limits)?;
        self.records.set_limits(level, limits, now()).await?;
        self.changed().await;
        Ok(())
    }

    /// The limits of one level.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn limits(&self, level: LevelId) -> Result<LevelLimits, ControlError> {
        let records = &self.records;
        let found = match level {
            LevelId::Tenant(id) => records.tenant(id).await?.map(|tenant| tenant.limits),
            LevelId::Project(id) => records.project(id).await?.map(|project| project.limits),
            LevelId::Deployment(id) => records.deployment(id).await?.map(|deployment| deployment.limits),
            LevelId::Key(id) => records.key(id).await?.map(|key| (*key.limits).clone()),
        };
        found.ok_or_else(|| RecordsError::NotFound(level.kind()).into())
    }
}

/// Whether every limit is within its range.
pub(super) fn check(limits: &LevelLimits) -> Result<(), ControlError> {
    limits.validate().map_err(|errors| {
        let problems: Vec<_> = errors.iter().map(ToString::to_string).collect();
        ControlError::Invalid(problems.join("; "))
    })
}
