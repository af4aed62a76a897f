//! Advances the engine's epoch while guests run, so that they yield.
//!
//! A thread of its own: guests must yield also when every async thread is taken by one. It ticks only for guests that are
//! being polled: one that waits for its model needs no ticks, and the model's threads need the cores. It goes on for a
//! while after the last one: waking a thread for each of the calls that come one after the other costs more than ticks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use wasmtime::Engine;

use crate::background::{Background, Next};

/// How long it goes on ticking while no guest runs.
const LINGER: Duration = Duration::from_millis(20);

/// The running thread. Dropping it stops it.
pub(crate) struct Ticker {
    background: Background,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Guests that are being polled.
    running: AtomicU32,
    asleep: AtomicBool,
}

/// As long as it is there, there are ticks.
#[derive(Debug)]
pub(crate) struct Ticks<'a>(&'a Shared);

impl Drop for Ticks<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ticker {
    /// Starts it; it sleeps until the first guest runs.
    pub(crate) fn start(engine: &Engine, tick: Duration) -> std::io::Result<Self> {
        let engine = engine.clone();
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let linger = LINGER.as_micros().div_ceil(tick.as_micros().max(1));
        let (mut idle, mut slept) = (linger, false);
        let background = Background::start("mayfly-epoch", move || {
            if std::mem::take(&mut slept) {
                // Whoever woke it has only begun: its first tick comes after a whole one.
                return Next::After(tick);
            }
            engine.increment_epoch();
            let runs = || inside.running.load(Ordering::SeqCst) > 0;
            idle = if runs() { 0 } else { idle.saturating_add(1) };
            if idle <= linger {
                return Next::After(tick);
            }
            idle = 0;
            // Said before the last look: who comes after it sees that somebody has to be woken.
            inside.asleep.store(true, Ordering::SeqCst);
            if runs() {
                inside.asleep.store(false, Ordering::SeqCst);
                return Next::After(tick);
            }
            slept = true;
            Next::WhenWoken
        })?;
        Ok(Self { background, shared })
    }

    /// A guest is about to run.
    pub(crate) fn ticks(&self) -> Ticks<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) && self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.background.wake();
        }
        Ticks(&self.shared)
    }
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticker").field("shared", &self.shared).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn wait_until(what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn sleeps_while_no_guest_runs_and_wakes_for_each_first_one() {
        let engine = crate::settings::compiling_engine().expect("the settings are valid");
        let ticker = Ticker::start(&engine, Duration::from_millis(1)).expect("a thread starts");
        let asleep = || ticker.shared.asleep.load(Ordering::SeqCst);
        for _ in 0..3 {
            wait_until("it goes to sleep", asleep);
            let ticks = ticker.ticks();
            assert!(!asleep());
            std::thread::sleep(LINGER * 3);
            assert!(!asleep(), "it ticks as long as one runs");
            drop(ticks);
        }
    }
}
