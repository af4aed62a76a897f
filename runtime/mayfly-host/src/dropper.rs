//! Drops what takes long to drop (254 MiB of dirty memory: 17 ms) on a thread of its own.

use std::fmt;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// Things that wait to be dropped. With more, whoever drops does it itself: nothing piles up behind a slow machine.
const WAITING_MAX: usize = 32;

type Thing = Box<dyn Send>;

/// The thread. Dropping this drops what still waits, and joins it.
pub(crate) struct Dropper {
    sender: Option<SyncSender<Thing>>,
    thread: Option<JoinHandle<()>>,
}

impl Dropper {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (sender, things) = sync_channel::<Thing>(WAITING_MAX);
        let thread = std::thread::Builder::new().name("mayfly-drop".to_owned()).spawn(move || {
            for thing in things {
                let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(thing)));
                if dropped.is_err() {
                    tracing::error!("dropping an instance panicked");
                }
            }
        })?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Drops `thing` over there, or here if too much waits there.
    pub(crate) fn drop(&self, thing: impl Send + 'static) {
        let Some(sender) = &self.sender else { return };
        match sender.try_send(Box::new(thing)) {
            Ok(()) => {}
            Err(TrySendError::Full(thing) | TrySendError::Disconnected(thing)) => drop(thing),
        }
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that drops instances had panicked");
        }
    }
}

impl fmt::Debug for Dropper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dropper").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::ThreadId;

    use super::*;

    /// Tells where it was dropped, once it may.
    struct Slow(Option<Receiver<()>>, Sender<ThreadId>);

    impl Drop for Slow {
        fn drop(&mut self) {
            if let Some(gate) = self.0.take() {
                let _opened = gate.recv();
            }
            self.1.send(std::thread::current().id()).expect("the test listens");
        }
    }

    #[test]
    fn over_there_until_too_much_waits() {
        let dropper = Dropper::start().expect("a thread starts");
        let (open, gate) = channel();
        let (told, places) = channel();
        dropper.drop(Slow(Some(gate), told.clone()));
        // One is being dropped or waits, the others wait; those that find no place are dropped here, at once.
        for _ in 0..WAITING_MAX + 2 {
            dropper.drop(Slow(None, told.clone()));
        }
        let here = std::thread::current().id();
        let inline: Vec<_> = places.try_iter().collect();
        assert!(!inline.is_empty() && inline.iter().all(|place| *place == here), "{inline:?}");
        open.send(()).expect("it waits");
        drop(dropper);
        let rest: Vec<_> = places.try_iter().collect();
        assert_eq!(rest.len() + inline.len(), WAITING_MAX + 3, "none is lost");
        assert!(rest.iter().all(|place| *place != here));
    }
}
