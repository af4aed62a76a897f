//! The trail of changes.

use mayfly_api::{AuditEntry, Page, Timestamp};
use mayfly_types::KeyId;
use reqwest::Method;

use crate::{Client, Error};

/// Entries of one page, at most.
const PAGE_LIMIT: usize = 500;

/// Which changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only at or after this time.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
    /// Only with this key.
    pub actor: Option<KeyId>,
}

impl Client {
    /// The newest `count` changes that `query` lets through, newest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn audit(&self, query: &AuditQuery, count: usize) -> Result<Vec<AuditEntry>, Error> {
        let mut found: Vec<AuditEntry> = Vec::new();
        let mut after: Option<String> = None;
        while found.len() < count {
            let limit = (count - found.len()).min(PAGE_LIMIT);
            let mut parameters = vec![("limit", limit.to_string())];
            parameters.extend(query.since.map(|time| ("since", time.to_string())));
            parameters.extend(query.until.map(|time| ("until", time.to_string())));
            parameters.extend(query.actor.map(|key| ("actor", key.to_string())));
            parameters.extend(after.take().map(|after| ("after", after)));
            let request = self.request(Method::GET, &["api", "v1", "audit"]).query(&parameters);
            let page: Page<AuditEntry> = self.json(request).await?;
            found.extend(page.data);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(found)
    }
}
