//! Spans of calls for an OpenTelemetry collector: OTLP over HTTP, protobuf. The only crate that names OpenTelemetry.
//!
//! A span is made when a call has settled, from its row, so that what it says of tokens is what the ledger says. It is
//! put into a bounded queue and the call goes on: a collector that is slow, down or wrong costs spans, never calls.
//! `span` decides what a span says, `sampler` which calls have one, `exporter` sends them.

#![forbid(unsafe_code)]

mod config;
mod exporter;
mod sampler;
mod span;

pub use config::{Config, Secret};
pub use exporter::{Exporter, Node, StartError};
