//! `wasi:keyvalue`, one file per interface: a small store of its own for every deployment.
//!
//! This side checks names, lengths and handles and stops with the call; keeping the data, and counting keys and bytes
//! of a deployment, belongs to whoever implements [`KeyValue`].

mod atomics;
mod batch;
mod bindings;
mod seam;
mod store;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use mayfly_types::DeploymentId;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use self::bindings::store::Error;
pub use self::seam::{KeyValue, KeyValueError, KeyValueLimits, KeyValuePage};
use self::store::Bucket;
use crate::state::{GuestState, IN_A_REQUEST};

/// The part of a guest's state that belongs to its key-value store. Lives as long as one request.
#[derive(Debug)]
pub(crate) struct KeyValueState {
    pub(crate) store: Arc<dyn KeyValue>,
    pub(crate) deployment: DeploymentId,
    pub(crate) limits: KeyValueLimits,
    pub(crate) deadline: Instant,
    /// Also cancelled when the response's body has ended: calls then fail.
    pub(crate) cancel: CancellationToken,
}

impl KeyValueState {
    /// Waits for `work` as long as the call goes on. A write that was handed over is done even if nobody waits.
    async fn within_call<T>(&self, work: impl Future<Output = Result<T, KeyValueError>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(other(
                "the call is over; the key-value store can be used only until the response's body has ended",
            )),
            () = tokio::time::sleep_until(self.deadline.into()) => {
                Err(other("the deadline of the call (deadline_ms_max) has passed"))
            }
            done = work => done.map_err(Error::from),
        }
    }

    fn check_key(&self, key: &str) -> Result<(), Error> {
        check("keyvalue.key_bytes_max", "the key", key.len(), self.limits.key_bytes_max)
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Error> {
        check("keyvalue.value_bytes_max", "the value", value.len(), self.limits.value_bytes_max)
    }

    fn check_batch(&self, keys: usize) -> Result<(), Error> {
        let limit = self.limits.batch_keys_max;
        if keys as u64 > limit {
            return Err(other(format!("{keys} keys in one call; at most keyvalue.batch_keys_max = {limit} are taken")));
        }
        Ok(())
    }
}

fn check(name: &str, what: &str, bytes: usize, limit: u64) -> Result<(), Error> {
    if bytes as u64 > limit {
        return Err(other(format!("{what} has {bytes} bytes; it may have {name} = {limit}")));
    }
    Ok(())
}

fn other(text: impl Into<String>) -> Error {
    Error::Other(text.into())
}

impl From<KeyValueError> for Error {
    fn from(error: KeyValueError) -> Self {
        match error {
            KeyValueError::Gone => Self::NoSuchStore,
            KeyValueError::Failed { detail } => {
                tracing::error!(detail, "a guest's call to its key-value store failed on the host's side");
                other("the key-value store failed; try again later")
            }
            KeyValueError::Full { .. } | KeyValueError::NotANumber | KeyValueError::Overflow => {
                other(error.to_string())
            }
        }
    }
}

/// What the interfaces work on: one instance's handles and its state.
#[derive(Debug)]
pub(crate) struct KeyValueView<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) keyvalue: &'a mut KeyValueState,
}

impl KeyValueView<'_> {
    /// The state, once the handle was found to be one of this guest's buckets.
    fn of(&self, bucket: &Resource<Bucket>) -> wasmtime::Result<&KeyValueState> {
        self.table.get(bucket)?;
        Ok(self.keyvalue)
    }
}

struct Interfaces;

impl HasData for Interfaces {
    type Data<'a> = KeyValueView<'a>;
}

/// Links every interface of this module.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    bindings::KeyValues::add_to_linker::<GuestState, Interfaces>(linker, |state| KeyValueView {
        table: &mut state.table,
        keyvalue: &mut state.request.as_mut().expect(IN_A_REQUEST).keyvalue,
    })
}
