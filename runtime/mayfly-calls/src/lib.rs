//! The life of a call: door, holds, run, settle. No HTTP server here: the gateway, and later batches, flows and a
//! playground, enter through [`Calls::call`].

#![forbid(unsafe_code)]

mod body;
mod budget;
mod call;
mod config;
mod context;
mod logbook;
mod status;
mod telemetry;

pub use body::Body;
pub use call::Calls;
pub use config::Config;
pub use context::Context;
pub use logbook::{LogBook, LogEntry};
pub use status::{DeploymentStatus, NodeStatus, Tier};
