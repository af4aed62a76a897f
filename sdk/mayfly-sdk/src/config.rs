//! The deployment's own settings: the `[config]` table of its `mayfly.toml`, read-only strings.

use crate::Error;
use crate::bindings::wasi::config::store;

/// The value of `key`, none if the deployment does not set it.
///
/// # Errors
/// A 500 if the host cannot read its configuration.
pub fn get(key: &str) -> Result<Option<String>, Error> {
    store::get(key).map_err(unreadable)
}

/// All keys and values.
///
/// # Errors
/// As [`get`].
pub fn all() -> Result<Vec<(String, String)>, Error> {
    store::get_all().map_err(unreadable)
}

fn unreadable(error: store::Error) -> Error {
    let (store::Error::Upstream(text) | store::Error::Io(text)) = error;
    Error::internal(format!("the deployment's configuration could not be read: {text}"))
}
