//! What must survive: records, the ledger's rows and artifacts, in one folder.
//!
//! Implements the seams that `mayfly-registry` ([`mayfly_registry::Records`], [`mayfly_registry::Artifacts`]) and
//! `mayfly-ledger` (`Journal`, `Prices`, `Leases`) own; what the rows mean is left to them. SQLite and a folder today; the seams are where
//! PostgreSQL and an S3-compatible store come in.

#![forbid(unsafe_code)]

mod artifacts;
mod config;
mod db;
mod error;
mod folder;
mod journal;
mod keyvalue;
mod migrations;
mod prices;
mod records;
mod redo;
mod store;

pub use artifacts::FileArtifacts;
pub use config::{Config, Fsync};
pub use error::{DbError, StoreError};
pub use store::{Node, Store};
