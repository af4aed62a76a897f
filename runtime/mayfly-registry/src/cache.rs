//! What calls read: keys, deployments, active revisions and opened packages, in bounded caches that `changes_since`
//! keeps true.

use std::sync::Arc;

use mayfly_host::Grants;
use mayfly_types::Name;

use crate::{Deployment, Key, Project, RecordsError, Revision};

/// A deployment that can answer, and all its call needs.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Resolved {
    pub project: Project,
    pub deployment: Deployment,
    pub revision: Revision,
    pub limits: Arc<mayfly_types::GuestLimits>,
    pub grants: Arc<Grants>,
}

/// Bounded caches over the records. Clones share them.
#[derive(Debug, Clone)]
pub struct Directory(Arc<()>);

impl Directory {
    /// The live key with this secret: not revoked, not expired at `now` (microseconds since the Unix epoch).
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub async fn key(&self, _secret: &str, _now: i64) -> Result<Option<Arc<Key>>, RecordsError> {
        todo!()
    }

    /// The project of that name.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub async fn project(&self, _name: &str) -> Result<Option<Arc<Project>>, RecordsError> {
        todo!()
    }

    /// The deployment `name` of project `project`, with its active revision and grants. None if there is none.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub async fn resolve(&self, _project: &str, _name: &str) -> Result<Option<Arc<Resolved>>, RecordsError> {
        todo!()
    }

    /// Names of a project's deployments, sorted (for `/v1/models`), at most `limit`.
    ///
    /// # Errors
    /// [`RecordsError`] if the store failed.
    pub async fn names(&self, _project: &Project, _limit: u32) -> Result<Vec<Name>, RecordsError> {
        todo!()
    }
}
