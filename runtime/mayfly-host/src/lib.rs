//! Runs handlers: compiled code, pooled instances, limits, and one file per interface a guest may import.
//! The only crate that names `wasmtime`; no `wasmtime` type leaves it.
//!
//! Entry points: [`Host::start`]; [`Host::compile`] turns an uploaded component into stored code through a child
//! process ([`compile_in_child`] is the child's side); [`Host::code`] maps stored code; [`Host::run`] answers one
//! request with a fresh instance, or with one that is kept for its revision. Work on models is held on the caller's [`mayfly_types::Budget`] before it starts.

mod answer;
mod background;
mod body;
mod call;
mod code;
mod compile;
mod config;
mod cpu;
mod dropper;
mod engine;
mod error;
mod fault;
mod filter;
mod grants;
mod http;
mod idle;
mod instance;
mod keyvalue;
mod lane;
mod leftovers;
mod limiter;
mod linker;
mod log;
mod nn;
mod output;
mod places;
mod pool;
mod run;
mod settings;
mod shelves;
mod slices;
mod state;
mod stored;
mod ticker;
mod turns;
mod work;
mod worlds;

pub use code::{Code, CodeStats};
pub use compile::{ComponentInfo, compile_in_child};
pub use config::Config;
pub use engine::Host;
pub use error::{CodeError, CompileError, GuestFault, HostError, StartError};
pub use filter::{ChoiceFilter, FilterError, TextFilter, Verdict, text_filter};
pub use grants::{Grant, Grants, Place};
pub use idle::Reuse;
pub use keyvalue::{KeyValue, KeyValueError, KeyValueLimits, KeyValuePage};
pub use log::{LogLine, LogSink, LogStream};
pub use pool::PoolSize;
pub use run::{BodyError, Clock, Finishes, Invocation, RunEnd, Running, Timings};
pub use slices::serves_connections;
