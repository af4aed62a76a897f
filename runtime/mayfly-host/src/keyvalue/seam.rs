//! The seam the data is kept behind, and the limits of one deployment's store.

use std::fmt;

use async_trait::async_trait;
use mayfly_types::DeploymentId;
use serde::{Deserialize, Serialize};

/// Limits of the key-value store of one deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyValueLimits {
    /// Keys of one deployment.
    pub keys_max: u64,
    /// Bytes of one key.
    pub key_bytes_max: u64,
    /// Bytes of one value.
    pub value_bytes_max: u64,
    /// Bytes of all keys and values of one deployment.
    pub bytes_max: u64,
    /// Keys of one `get-many`, `set-many` or `delete-many`.
    pub batch_keys_max: u64,
}

impl Default for KeyValueLimits {
    fn default() -> Self {
        Self {
            keys_max: 10_000,
            key_bytes_max: 512,
            value_bytes_max: 64 << 10,
            bytes_max: 16 << 20,
            batch_keys_max: 64,
        }
    }
}

/// Some keys of a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyValuePage {
    /// The keys, in no particular order.
    pub keys: Vec<String>,
    /// Where the next page begins; none after the last one.
    pub cursor: Option<u64>,
}

/// An operation on a deployment's data was not done: nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// It would take the deployment over a limit.
    #[error("the deployment's key-value store is full: {limit}; delete keys that are no longer needed")]
    Full {
        /// The limit's name, value and unit.
        limit: String,
    },
    /// `increment` of a value that is not a decimal number of 64 bits.
    #[error("the value is not a decimal number, so it cannot be incremented")]
    NotANumber,
    /// `increment` past 64 bits.
    #[error("the incremented value would not fit into 64 bits")]
    Overflow,
    /// The deployment was deleted, and its data with it.
    #[error("the deployment was deleted")]
    Gone,
    /// Our own trouble; details are in the log.
    #[error("the key-value store failed")]
    Failed {
        /// For the log.
        detail: String,
    },
}

/// Keeps the data of all deployments, each apart. Every method is atomic, and sees what earlier ones have written.
///
/// Keys and values have been checked against [`KeyValueLimits`] one by one; `keys_max` and `bytes_max` are checked here,
/// together with the write.
#[async_trait]
pub trait KeyValue: Send + Sync + fmt::Debug {
    /// The values of `keys`, in their order.
    ///
    /// # Errors
    /// [`KeyValueError::Failed`].
    async fn get_many(&self, of: DeploymentId, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, KeyValueError>;

    /// Sets all of `entries`, or none. Of a key given twice the later value stays.
    ///
    /// # Errors
    /// [`KeyValueError::Full`], [`KeyValueError::Gone`], [`KeyValueError::Failed`].
    async fn set_many(
        &self,
        of: DeploymentId,
        entries: Vec<(String, Vec<u8>)>,
        limits: KeyValueLimits,
    ) -> Result<(), KeyValueError>;

    /// Deletes those of `keys` that are there.
    ///
    /// # Errors
    /// [`KeyValueError::Failed`].
    async fn delete_many(&self, of: DeploymentId, keys: Vec<String>) -> Result<(), KeyValueError>;

    /// Whether the key is there.
    ///
    /// # Errors
    /// [`KeyValueError::Failed`].
    async fn exists(&self, of: DeploymentId, key: String) -> Result<bool, KeyValueError>;

    /// At most `limit` keys, after `cursor`. Keys that are there from the first page to the last come once.
    ///
    /// # Errors
    /// [`KeyValueError::Failed`].
    async fn list_keys(&self, of: DeploymentId, cursor: Option<u64>, limit: u32)
    -> Result<KeyValuePage, KeyValueError>;

    /// Adds `delta` to the number under `key` (decimal digits; 0 if there is none) and gives the sum.
    ///
    /// # Errors
    /// [`KeyValueError`].
    async fn increment(
        &self,
        of: DeploymentId,
        key: String,
        delta: u64,
        limits: KeyValueLimits,
    ) -> Result<u64, KeyValueError>;

    /// The value of `key`.
    ///
    /// # Errors
    /// As [`KeyValue::get_many`].
    async fn get(&self, of: DeploymentId, key: String) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.get_many(of, vec![key]).await?.pop().flatten())
    }

    /// Sets one key.
    ///
    /// # Errors
    /// As [`KeyValue::set_many`].
    async fn set(
        &self,
        of: DeploymentId,
        key: String,
        value: Vec<u8>,
        limits: KeyValueLimits,
    ) -> Result<(), KeyValueError> {
        self.set_many(of, vec![(key, value)], limits).await
    }

    /// Deletes one key, if it is there.
    ///
    /// # Errors
    /// As [`KeyValue::delete_many`].
    async fn delete(&self, of: DeploymentId, key: String) -> Result<(), KeyValueError> {
        self.delete_many(of, vec![key]).await
    }
}
