//! The two listeners: the data plane that callers reach, and the control plane for developers and operators.
//! The only crate that names `axum`.
//!
//! Entry points: [`Gateway::new`] and [`Gateway::serve`]. It authenticates, matches a request to a deployment, takes
//! out everything a handler must not see, and turns errors into HTTP. What a call is and how it ends is left to
//! `mayfly-calls`; what a deploy is, to `mayfly-registry`.

#![forbid(unsafe_code)]

mod access;
mod admin;
mod config;
mod data;
mod failure;
mod gateway;
mod headers;
mod limits;
mod metrics;
mod repricing;
mod requests;
mod room;
mod server;
mod target;
mod time;
mod unread;

pub use admin::openapi;
pub use config::GatewayConfig;
pub use gateway::{Gateway, NodeInfo, Parts, ServeError};
