//! `wasi:keyvalue/batch`: many keys in one call, all or none.

use wasmtime::component::Resource;

use super::bindings::batch::{Error, Host};
use super::store::Bucket;
use super::{KeyValueState, KeyValueView};

type Entry = (String, Vec<u8>);

impl Host for KeyValueView<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<Entry>>, Error>> {
        Ok(self.of(&bucket)?.get_many(keys).await)
    }

    async fn set_many(&mut self, bucket: Resource<Bucket>, entries: Vec<Entry>) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.of(&bucket)?.set_many(entries).await)
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.of(&bucket)?.delete_many(keys).await)
    }
}

impl KeyValueState {
    fn check_keys(&self, keys: &[String]) -> Result<(), Error> {
        self.check_batch(keys.len())?;
        keys.iter().try_for_each(|key| self.check_key(key))
    }

    async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Entry>>, Error> {
        self.check_keys(&keys)?;
        let values = self.within_call(self.store.get_many(self.deployment, keys.clone())).await?;
        Ok(keys.into_iter().zip(values).map(|(key, value)| value.map(|value| (key, value))).collect())
    }

    async fn set_many(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.check_batch(entries.len())?;
        for (key, value) in &entries {
            self.check_key(key)?;
            self.check_value(value)?;
        }
        self.within_call(self.store.set_many(self.deployment, entries, self.limits)).await
    }

    async fn delete_many(&self, keys: Vec<String>) -> Result<(), Error> {
        self.check_keys(&keys)?;
        self.within_call(self.store.delete_many(self.deployment, keys)).await
    }
}
