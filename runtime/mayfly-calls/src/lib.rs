//! The life of a call: door, holds, run, settle. No HTTP server here: the gateway, and later batches, flows and a
//! playground, enter through [`Calls::call`].
//!
//! One task carries a call from the door to its settlement, so that a caller's leaving never stops the settling.
//! `door` lets it in, `call` runs it, `deliver` sends its answer in the order that billing rests on.

#![forbid(unsafe_code)]

mod body;
mod budget;
mod call;
mod config;
mod context;
mod deliver;
mod door;
mod failure;
mod logbook;
mod open;
mod status;
mod telemetry;
mod timing;

pub use body::Body;
pub use call::{Calls, Recompile};
pub use config::Config;
pub use context::Context;
pub use logbook::{LogBook, LogEntry};
pub use status::{DeploymentStatus, NodeStatus, Tier};
