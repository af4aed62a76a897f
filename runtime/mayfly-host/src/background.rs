//! A named OS thread that works in steps until its owner is gone.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// When the next step is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// After this time, or when woken.
    After(Duration),
    /// Only when woken.
    WhenWoken,
}

#[derive(Debug, Default)]
struct Signals {
    woken: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    signals: Mutex<Signals>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread; dropping this stops and joins it.
pub(crate) struct Background {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts a thread that calls `step` again and again.
    pub(crate) fn start(name: &str, mut step: impl FnMut() -> Next + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            loop {
                let next = step();
                let signals = inside.lock();
                let waiting = |signals: &mut Signals| !signals.stop && !signals.woken;
                let mut signals = match next {
                    Next::After(time) => {
                        inside
                            .changed
                            .wait_timeout_while(signals, time, waiting)
                            .unwrap_or_else(PoisonError::into_inner)
                            .0
                    }
                    Next::WhenWoken => {
                        inside.changed.wait_while(signals, waiting).unwrap_or_else(PoisonError::into_inner)
                    }
                };
                if signals.stop {
                    return;
                }
                signals.woken = false;
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Makes the next step due now.
    pub(crate) fn wake(&self) {
        self.shared.lock().woken = true;
        self.shared.changed.notify_one();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a background thread of the host had panicked");
        }
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn steps_when_woken_and_stops_when_dropped() {
        let (sender, steps) = mpsc::channel();
        let background = Background::start("test", move || {
            sender.send(()).expect("the test listens as long as the thread runs");
            Next::WhenWoken
        })
        .expect("a thread starts");
        steps.recv().expect("the first step comes by itself");
        assert!(steps.try_recv().is_err());
        background.wake();
        steps.recv().expect("waking makes a step");
        drop(background);
        assert!(steps.recv().is_err(), "the thread is gone and its sender with it");
    }
}
