//! The store as its users see it: records, artifacts, and the registry's workflows on top of them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod artifacts;
mod audit;
mod conformance;
mod control;
mod directory;
mod folder;
mod keys;
mod keyvalue;
mod limits;
mod pins;
mod warm;
mod world;
