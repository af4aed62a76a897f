//! `wasi:keyvalue/atomics`: counters.

use wasmtime::component::Resource;

use super::bindings::atomics::{Error, Host};
use super::store::Bucket;
use super::{KeyValueState, KeyValueView};

impl Host for KeyValueView<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, Error>> {
        Ok(self.of(&bucket)?.increment(key, delta).await)
    }
}

impl KeyValueState {
    async fn increment(&self, key: String, delta: u64) -> Result<u64, Error> {
        self.check_key(&key)?;
        self.within_call(self.store.increment(self.deployment, key, delta, self.limits)).await
    }
}
