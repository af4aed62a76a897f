//! The redo log: rows of the ledger are durable once they stand in it, and get into the tables in large transactions later.
//!
//! A commit of SQLite costs some ten writes whatever is in it, and each call waits for one. An append here is one write at the
//! end of a file. What an append says is kept as its caller gave it ([`form`]); numbers, hashes and sums are made when it is
//! applied, by the code that would make them without a log. Appends are numbered; the tables know the number up to
//! which they have been applied, and a start applies what comes after ([`replay`]).
//!
//! Files ([`segment`]) have a fixed size that is taken from the disk beforehand. One whose appends are all applied is
//! written over: its new beginning has another key for the checksums, so that nothing old is ever read as new.

pub(crate) mod form;
mod log;
mod replay;
mod segment;
#[cfg(test)]
mod tests;

pub(crate) use log::Log;
pub(crate) use replay::{damaged_files, note_applied, replay};

use crate::DbError;

/// What the system said, as the store tells it.
pub(crate) fn io_error(error: &std::io::Error) -> DbError {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DbError::Full,
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => DbError::ReadOnly,
        _ => DbError::Disk { detail: format!("the redo log: {error}") },
    }
}
