//! `wasi:keyvalue/store`: the deployment's one bucket, and its keys one by one.

use wasmtime::component::{Resource, ResourceTableError};

use super::bindings::store::{Error, Host, HostBucket, KeyResponse};
use super::{KeyValueState, KeyValueView};
use crate::leftovers::discard;

/// Keys of one `list-keys`.
const LISTED_KEYS_MAX: u32 = 1000;

/// The resource `bucket`: there is one store for each deployment, so it needs to know nothing.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct Bucket;

impl Host for KeyValueView<'_> {
    fn open(&mut self, identifier: String) -> wasmtime::Result<Result<Resource<Bucket>, Error>> {
        if !matches!(identifier.as_str(), "" | "default") {
            return Ok(Err(Error::NoSuchStore));
        }
        match self.table.push(Bucket) {
            Ok(bucket) => Ok(Ok(bucket)),
            Err(ResourceTableError::Full) => Ok(Err(super::other(
                "the handler holds more than handles_max resources at once; drop those it no longer needs",
            ))),
            Err(error) => Err(error.into()),
        }
    }
}

impl HostBucket for KeyValueView<'_> {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        Ok(self.of(&bucket)?.get(key).await)
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.of(&bucket)?.set(key, value).await)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.of(&bucket)?.delete(key).await)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> wasmtime::Result<Result<bool, Error>> {
        Ok(self.of(&bucket)?.exists(key).await)
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> wasmtime::Result<Result<KeyResponse, Error>> {
        Ok(self.of(&bucket)?.list_keys(cursor).await)
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        discard(self.table, bucket)
    }
}

impl KeyValueState {
    async fn get(&self, key: String) -> Result<Option<Vec<u8>>, Error> {
        self.check_key(&key)?;
        self.within_call(self.store.get(self.deployment, key)).await
    }

    async fn set(&self, key: String, value: Vec<u8>) -> Result<(), Error> {
        self.check_key(&key)?;
        self.check_value(&value)?;
        self.within_call(self.store.set(self.deployment, key, value, self.limits)).await
    }

    async fn delete(&self, key: String) -> Result<(), Error> {
        self.check_key(&key)?;
        self.within_call(self.store.delete(self.deployment, key)).await
    }

    async fn exists(&self, key: String) -> Result<bool, Error> {
        self.check_key(&key)?;
        self.within_call(self.store.exists(self.deployment, key)).await
    }

    async fn list_keys(&self, cursor: Option<u64>) -> Result<KeyResponse, Error> {
        let page = self.within_call(self.store.list_keys(self.deployment, cursor, LISTED_KEYS_MAX)).await?;
        Ok(KeyResponse { keys: page.keys, cursor: page.cursor })
    }
}
