//! End-to-end tests: the real binary as a process, real components, real models, plain HTTP.
//!
//! `tests/run.sh` builds what is needed first: the guests of `tests/fixtures/guests`, and the packages that
//! `MAYFLY_TEST_MODELS` names. A test whose fixture is missing fails and says how to make it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

mod access;
mod architecture;
mod audit;
mod billing;
mod chat;
mod classify;
mod cli;
mod clock;
mod counting;
mod crash;
mod cuda;
mod deletion;
mod embeddings;
mod full_disk;
mod hostile;
mod hostile_models;
mod hostile_numbers;
mod idempotency;
mod imports;
mod isolate;
mod keys;
mod keyvalue;
mod lifecycle;
mod limits;
mod logs;
mod nn;
mod observability;
mod onnx;
mod options;
mod pins;
mod pressure;
mod read_only;
mod regressions;
mod reuse;
mod routing;
mod top;
mod tracing;
mod upload;
mod warm;
mod zero;
