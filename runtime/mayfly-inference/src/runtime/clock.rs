//! The idle clock: one thread that drops what nobody uses, stops what nobody stopped, and gives memory back that was freed late.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::residency::{Residents, Wake};
use crate::session::give_memory_back;

/// While anything is loaded the clock looks at least this often: a run whose caller is stuck ends so much too late.
const LOOK_MAX: Duration = Duration::from_secs(1);
const LOOK_MIN: Duration = Duration::from_millis(5);
/// So long after the last unload, memory is given back once more: its callers, and the threads of other sessions that went with
/// it, may have held some until after its own thread did so.
const LATE: Duration = Duration::from_millis(250);

/// Wakes and stops the clock. Dropping the last one stops it.
#[derive(Debug, Clone, Default)]
pub(super) struct Bell(Arc<(Mutex<Rung>, Condvar)>);

#[derive(Debug, Default)]
struct Rung {
    look: bool,
    stop: bool,
}

impl Bell {
    fn ring(&self, set: impl FnOnce(&mut Rung)) {
        let (rung, wake) = &*self.0;
        set(&mut rung.lock().unwrap_or_else(PoisonError::into_inner));
        wake.notify_one();
    }

    /// Ends the thread, soon.
    pub(super) fn stop(&self) {
        self.ring(|rung| rung.stop = true);
    }

    /// Waits until woken or until `time` is over; false once stopped.
    fn wait(&self, time: Option<Duration>) -> bool {
        let (rung, wake) = &*self.0;
        let rung = rung.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |rung: &mut Rung| !rung.look && !rung.stop;
        let mut rung = match time {
            Some(time) => wake.wait_timeout_while(rung, time, quiet).unwrap_or_else(PoisonError::into_inner).0,
            None => wake.wait_while(rung, quiet).unwrap_or_else(PoisonError::into_inner),
        };
        rung.look = false;
        !rung.stop
    }
}

impl Wake for Bell {
    fn wake(&self) {
        self.ring(|rung| rung.look = true);
    }
}

/// Starts the thread. It holds nothing alive.
pub(super) fn start(residents: Weak<Residents>, bell: Bell) -> std::io::Result<()> {
    let work = move || {
        let (mut time, mut late) = (None, Late::default());
        while bell.wait(time) {
            let Some(residents) = residents.upgrade() else { return };
            residents.evict_idle(false);
            if residents.keeps_any() {
                residents.load_kept();
            }
            residents.stop_overdue();
            time = residents.next_look().map(|time| time.clamp(LOOK_MIN, LOOK_MAX));
            // After the next look was settled: an unload that ends later has that look.
            if late.look(residents.unloads(), Instant::now()) {
                give_memory_back();
            }
            if late.at.is_some() {
                time = Some(time.unwrap_or(LATE).min(LATE));
            }
        }
    };
    thread::Builder::new().name("mayfly-idle".to_owned()).spawn(work).map(drop)
}

/// Whether there is memory to give back late.
#[derive(Debug, Default)]
struct Late {
    unloads: u64,
    /// When; none once it was.
    at: Option<Instant>,
}

impl Late {
    /// So many unloads there were until now. Tells whether it is time.
    fn look(&mut self, unloads: u64, now: Instant) -> bool {
        if self.unloads != unloads {
            *self = Self { unloads, at: now.checked_add(LATE) };
        }
        self.at.take_if(|at| *at <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_once_more_after_the_last_unload() {
        let (mut late, start) = (Late::default(), Instant::now());
        let mut look = |unloads, ms| late.look(unloads, start + Duration::from_millis(ms));
        assert!(!look(0, 5_000), "nothing was unloaded");
        assert!(!look(1, 5_010) && !look(1, 5_200));
        assert!(!look(2, 5_250) && !look(2, 5_450), "another one went meanwhile");
        assert!(look(2, 5_500));
        assert!(!look(2, 9_000), "once");
    }
}
