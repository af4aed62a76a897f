//! `wasi:config/store`: the configuration of the revision, read-only.

use super::NnView;
use super::bindings::store::{Error, Host};

impl Host for NnView<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        Ok(Ok(self.nn.grants.config.get(&key).cloned()))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(Ok(self.nn.grants.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}
