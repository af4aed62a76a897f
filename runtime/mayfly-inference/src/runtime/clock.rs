//! The idle clock: one thread that drops what nobody uses and stops what nobody stopped.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::residency::{Residents, Wake};

/// While anything is loaded the clock looks at least this often: a run whose caller is stuck ends so much too late.
const LOOK_MAX: Duration = Duration::from_secs(1);
const LOOK_MIN: Duration = Duration::from_millis(5);

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
        let mut time = None;
        while bell.wait(time) {
            let Some(residents) = residents.upgrade() else { return };
            residents.evict_idle(false);
            if residents.keeps_any() {
                residents.load_kept();
            }
            residents.stop_overdue();
            time = residents.next_look().map(|time| time.clamp(LOOK_MIN, LOOK_MAX));
        }
    };
    thread::Builder::new().name("mayfly-idle".to_owned()).spawn(work).map(drop)
}
