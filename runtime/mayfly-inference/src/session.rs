//! Sessions: loading a model into ONNX Runtime, and running it from one place at a time.
//!
//! An [`Executor`] is one loaded model with its queue and the thread that owns both. Which executors exist, and for how
//! long, is decided in [`crate::residency`]; what a run costs is counted before it gets here.

mod executor;
mod folding;
mod identity;
mod inline;
mod join;
mod load;
mod probe;
mod queue;
mod run;
mod save;
mod ticket;

pub(crate) use executor::{Executor, give_memory_back, start, start_beside};
pub(crate) use identity::identity;
pub(crate) use join::{JoinRules, Joint};
pub(crate) use load::{CopySource, Loaded, Model, Options, Pool, Source, check_device, load, probe_load};
pub(crate) use probe::try_joining;
pub(crate) use queue::{Refused, SeatId, Why};
pub(crate) use run::{Done, OutputPlan, Request, readable};
pub(crate) use save::save_copy;
pub(crate) use ticket::Ticket;
