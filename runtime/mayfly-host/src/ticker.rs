//! Advances the engine's epoch while instances are alive, so that guests yield.
//!
//! A thread of its own: guests must yield also when every async thread is taken by one. It goes on for a while after the
//! last instance has gone: waking a thread for each of the calls that come one after the other costs more than the ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wasmtime::Engine;

use crate::background::{Background, Next};
use crate::instance::Counts;

/// How long it goes on ticking with no instance alive.
const LINGER: Duration = Duration::from_millis(20);

/// The running thread. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Ticker {
    background: Background,
    asleep: Arc<AtomicBool>,
}

impl Ticker {
    /// Starts it; it sleeps until the first instance.
    pub(crate) fn start(engine: &Engine, counts: &Arc<Counts>, tick: Duration) -> std::io::Result<Self> {
        let (engine, counts) = (engine.clone(), Arc::clone(counts));
        let asleep = Arc::new(AtomicBool::new(false));
        let sleeps = Arc::clone(&asleep);
        let linger = LINGER.as_micros().div_ceil(tick.as_micros().max(1));
        let mut idle = linger;
        let background = Background::start("mayfly-epoch", move || {
            engine.increment_epoch();
            idle = if counts.alive() == 0 { idle.saturating_add(1) } else { 0 };
            if idle > linger {
                idle = 0;
                // Said before the last look: who comes after it sees that somebody has to be woken.
                sleeps.store(true, Ordering::SeqCst);
                if counts.alive() == 0 {
                    return Next::WhenWoken;
                }
                sleeps.store(false, Ordering::SeqCst);
            }
            Next::After(tick)
        })?;
        Ok(Self { background, asleep })
    }

    /// An instance has been counted as alive: there must be ticks.
    pub(crate) fn ensure(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.background.wake();
        }
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
    fn sleeps_without_instances_and_wakes_for_each_first_one() {
        let engine = crate::settings::compiling_engine().expect("the settings are valid");
        let counts = Arc::new(Counts::default());
        let ticker = Ticker::start(&engine, &counts, Duration::from_millis(1)).expect("a thread starts");
        let asleep = || ticker.asleep.load(Ordering::SeqCst);
        for _ in 0..3 {
            wait_until("it goes to sleep", asleep);
            assert!(counts.enter(1));
            ticker.ensure();
            assert!(!asleep());
            std::thread::sleep(LINGER * 3);
            assert!(!asleep(), "it ticks as long as one is alive");
            counts.leave();
        }
    }
}
