//! The composition root: settings, the server put together from its crates, and the command line.

pub mod builtins;
pub mod child;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod server;
