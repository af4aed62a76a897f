//! Which sessions are loaded on one device: what is let in next, and what goes for it.
//!
//! The caller (whoever owns the sessions of a device) works like this:
//!
//! 1. Events go in as they happen: [`Residency::ask`], [`Residency::join`], [`Residency::leave`], [`Residency::loaded`],
//!    [`Residency::failed`], [`Residency::unloaded`]. [`Residency::observe`] tells what each loaded session does.
//! 2. [`Residency::next`] says what to do. Each [`Command::Evict`] is answered with [`Residency::evicted`], or with
//!    [`Residency::kept`] where work came first. Until it answers with nothing, ask again.
//!
//! What holds, whatever comes:
//! - What is loaded, being loaded and being dropped stays within the budget, as predicted and, once it was, as measured.
//! - One load at a time. A session that works, is pinned or was loaded a moment ago (`stay_ns`) is never evicted for
//!   another; those that may go do so in the order of their last use.
//! - Loads begin in the order they were asked for. One that finds no room is passed by others at most `passes_max`
//!   times; then the room that becomes free is its own.
//! - Who waits is answered once: by the end of the load, or with a refusal at its time.
//!
//! Bytes are of two kinds ([`Need`]). Those that only this process has count against the budget; pages of files that
//! sessions map are shared, and the system takes them back by itself, so they count for one question only: whether a
//! model fits on this machine at all.
//!
//! Left to others: sessions, predictions, measures, and who waits in which way.

mod choose;
mod fit;
mod requests;
mod sessions;
mod settings;
mod state;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

pub use fit::{Fit, Refused};
pub use requests::WaiterId;
pub use sessions::{Need, SessionId, Use};
pub use settings::Settings;
pub use state::{Command, Load, Residency};
