//! What runs next: pure state machines that take an event and a time and answer with commands.
//!
//! Nothing here reads a clock, draws a random number, opens a file or a socket, or knows a model runtime. Whoever owns
//! the real thing asks what to do, does it, and reports; so every decision can be tested as plain data.
//!
//! [`batching`] joins runs of a stateless graph. [`generation`] schedules text generation: continuous batching over the
//! slots of a key-value cache. [`places`] says which calls run, which wait and which are refused at once. [`residency`]
//! decides which models are loaded on a device.
#![forbid(unsafe_code)]

pub mod batching;
pub mod generation;
pub mod places;
pub mod residency;
