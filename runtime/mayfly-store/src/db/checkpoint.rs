//! Moves the write-ahead log into the file, off the commit path.
//!
//! Past a few MiB a thread with its own connection copies what no reader needs (a passive checkpoint); writers go on
//! meanwhile and begin the log anew once all of it is copied. Under a load that never pauses that moment never comes:
//! past [`LOG_PAGES_MAX`] the thread holds the writer back for the last stretch.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use crate::DbError;

/// Pages (1 KiB) in the log from which on it is copied: 8 MiB; and again after as many more.
const LOG_PAGES: u32 = 8_192;
/// Pages in the log from which on the writer is held back: 64 MiB.
const LOG_PAGES_MAX: u32 = 65_536;

/// How full the log is.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<State>, Condvar);

#[derive(Debug)]
struct State {
    pages: u32,
    /// Pages at which the next checkpoint is due.
    due_at: u32,
    stop: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { pages: 0, due_at: LOG_PAGES, stop: false }
    }
}

impl Log {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of every commit of `connection`.
    pub(super) fn watch(self: &Arc<Self>, connection: &mut Connection) -> Result<(), DbError> {
        let log = Arc::clone(self);
        connection.wal_hook(Some(move |_log: &mut rusqlite::hooks::Wal, pages| {
            log.grown(u32::try_from(pages).unwrap_or(0));
            Ok(())
        }))?;
        Ok(())
    }

    fn grown(&self, pages: u32) {
        let mut state = self.state();
        if pages < state.pages {
            // The log began anew.
            state.due_at = LOG_PAGES;
        }
        state.pages = pages;
        if pages >= state.due_at {
            drop(state);
            self.1.notify_one();
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.state().stop = true;
        self.1.notify_one();
    }

    /// Waits until a checkpoint is due; none at the end. Pages in the log.
    fn wait(&self) -> Option<u32> {
        let mut state = self.state();
        while !state.stop && state.pages < state.due_at {
            state = self.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.due_at = state.pages.saturating_add(LOG_PAGES);
        (!state.stop).then_some(state.pages)
    }

    /// The thread: checkpoints through `connection` until the end. `hold` keeps the writer from beginning a commit.
    pub(super) fn checkpoint_until_stopped<H>(&self, connection: &Connection, hold: impl Fn() -> H) {
        // A reader in the way is not waited for: the next round gets further.
        let _ = connection.busy_timeout(Duration::ZERO);
        while let Some(pages) = self.wait() {
            let mut done = checkpoint(connection, "PASSIVE");
            if done.is_ok() && pages >= LOG_PAGES_MAX {
                let _held = hold();
                done = checkpoint(connection, "RESTART");
            }
            if let Err(error) = done {
                tracing::warn!(%error, pages, "the write-ahead log could not be moved into the database; it grows");
            }
        }
    }
}

fn checkpoint(connection: &Connection, how: &str) -> Result<(), DbError> {
    Ok(connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_row| Ok(()))?)
}
