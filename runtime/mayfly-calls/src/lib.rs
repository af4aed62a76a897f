//! The life of a call: door, holds, run, settle. No HTTP server here: the gateway, and later batches, flows and a
//! playground, enter through [`Calls::call`].
//!
//! One task carries a call from the door to its settlement, so that a caller's leaving never stops the settling.
//! `entrance` lets it in, `call` runs it, `deliver` sends its answer in the order that billing rests on.

#![forbid(unsafe_code)]

mod activity;
mod admission;
mod attended;
mod bill;
mod body;
mod budget;
mod call;
mod config;
mod context;
mod deliver;
mod door;
mod dry_run;
mod entrance;
mod failure;
#[cfg(test)]
mod fakes;
mod handoff;
mod held;
mod housekeeping;
mod idempotency;
mod logbook;
mod observer;
mod open;
mod opener;
mod replay;
mod seconds;
mod standing;
mod status;
mod telemetry;
mod timing;

pub use activity::Activity;
pub use body::Body;
pub use call::{CallParts, Calls, Recompile};
pub use config::Config;
pub use context::{Context, IdempotencyKey};
pub use logbook::{LogBook, LogEntry};
pub use observer::{EndedCall, Observer, Operation, Seen, Spans, TraceParent};
pub use seconds::Buckets;
pub use status::{DeploymentStatus, ModelStatus, NodeStatus, Tier};
