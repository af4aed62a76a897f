//! Which waiting runs of a stateless graph go into its next run.
//!
//! A run waits as a [`Waiting`]: whose it is, how large, and which others it can share a run of the graph with. The
//! [`Batcher`] is asked for the next [`Take`] whenever the session is free. It begins with the run whose owner was served
//! least and adds what can be joined with it, up to a budget of rows and padded positions; nothing waits for company
//! unless a delay is set. A full queue refuses the owner who has most waiting. Which of a graph's sessions takes next, a
//! [`Team`] says.

mod batcher;
mod crowd;
mod settings;
mod take;
mod team;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
mod waiting;

pub use batcher::{Batcher, Pushed};
pub use crowd::Crowd;
pub use settings::Settings;
pub use take::Take;
pub use team::{Team, Turn, Working};
pub use waiting::{Owner, Shape, Waiting};
