//! What must survive: records, the ledger's rows and artifacts, in one folder.
//!
//! Implements the seams that `mayfly-registry` ([`mayfly_registry::Records`], [`mayfly_registry::Artifacts`]) and
//! `mayfly-ledger` (`Journal`) own; what the rows mean is left to them. SQLite and a folder today; the seams are where
//! PostgreSQL and an S3-compatible store come in.

#![forbid(unsafe_code)]

mod artifacts;
mod db;
mod error;
mod folder;
mod journal;
mod migrations;
mod records;
mod store;

pub use artifacts::FileArtifacts;
pub use error::{DbError, StoreError};
pub use store::{Node, Store};
