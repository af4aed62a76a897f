//! Continuous batching of generation over the slots of a key-value (KV) cache.
//!
//! The caller (an engine with one model) owns the KV memory, runs the model and samples. It works like this:
//!
//! 1. Events go in as they happen: [`Scheduler::submit`], [`Scheduler::read`], [`Scheduler::leave`].
//! 2. [`Scheduler::next`] says what to run; then [`Scheduler::notices`] says which sequences started or ended.
//! 3. The caller runs the step and reports it: [`Scheduler::ran`], or [`Scheduler::fail_running`].
//! 4. After a [`Step::Prefill`] with `last` and after a [`Step::Decode`], the caller samples and calls
//!    [`Scheduler::accepted`] once for each sequence in it. Then back to 2.
//!
//! A sequence waits, prefills its prompt in chunks, decodes, and ends exactly once: finished ([`Scheduler::accepted`]
//! said so), failed ([`Scheduler::fail_running`] returned it) or by a [`Notice::Ended`].
//!
//! Left to others: the KV memory itself, sampling, stop strings, text, bills.

mod admission;
mod compaction;
mod endings;
mod pace;
mod prefix;
mod queues;
mod scheduler;
mod sequence;
mod settings;
mod slots;
mod step;
mod submission;
#[cfg(test)]
mod tests;
mod turns;

pub use scheduler::{Load, Scheduler};
pub use settings::Settings;
pub use step::{Ended, Notice, Row, Step};
pub use submission::{Owner, Refused, ReuseScope, SequenceId, Submission};
