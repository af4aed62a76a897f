//! The second way to run a model: in a process of its own for each tenant, for packages that nobody has vouched for.
//!
//! ONNX Runtime has had memory bugs that a crafted model reaches. So what a tenant brings runs in the same binary started
//! as `mayfly __worker` ([`run_worker`]), which has no network, no files but its tenant's packages, no rights and
//! bounded memory (`sandbox`). What happens to it is that tenant's trouble alone.
//!
//! The two sides talk in packets (`message`) over a socket pair; tensors that are too large for a packet lie in one
//! shared memory file of fixed size (`arena`), which both sides read and write with system calls and never map: nothing
//! the worker does to it can fault the server. [`Workers`] decides who has a process; `process` is the server's end of
//! one, `serve` the worker's. Counting happens before a run, in the server, on values that it reads itself; tokens that are
//! generated count when the worker says so, within what was held (`course`).
//!
//! The server believes nothing it hears: each number is checked against what was asked, and a worker that breaks the
//! protocol is killed.

mod arena;
mod asking;
mod config;
mod course;
mod crashes;
mod faults;
mod flight;
mod message;
mod piece;
mod process;
mod report;
mod room;
mod sandbox;
mod serve;
mod socket;
mod workers;

#[doc(hidden)]
pub use config::FalseWorker;
pub use config::{SandboxPolicy, WorkerChild, WorkerConfig, WorkerSettings};
pub(crate) use message::GenerationBounds;
pub use report::WorkerLoad;
pub use sandbox::missing_from_sandbox;
pub use serve::run_worker;
pub(crate) use workers::Workers;
pub use workers::{WorkerState, WorkersState};
