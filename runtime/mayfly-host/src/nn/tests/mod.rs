//! The interfaces as a guest sees them: real components, real models, an account that writes everything down.
//!
//! Needs ONNX Runtime's library (`MAYFLY_ORT_DYLIB`, or a place the binary looks in).

#![expect(clippy::unwrap_used, reason = "tests")]

mod account;
mod charging;
mod guest;
mod handles;
mod models;
mod runs;
