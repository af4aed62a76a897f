//! The life of a process's thread on the server's side: it hears, and sees what time brings, until the process ends.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Process;
use crate::WorkerError;
use crate::worker::message::ToWorker;
use crate::worker::socket::Received;

/// While it works a process is looked at this often, should nothing happen.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// Pause before something is said again to a process that has not taken it.
const SAY_AGAIN: Duration = Duration::from_millis(5);
/// Packets heard between two looks.
const HEARD_MAX: usize = 64;

/// How the life of a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worker) enum End {
    /// It was not needed any more.
    Closed,
    /// It died, hung, or said what it must not; the text is for the log.
    Crashed(String),
}

impl Process {
    /// Hears the process until it ends, one way or the other. Its thread calls it; then it is killed and reaped, and
    /// [`Self::bury`] tells those who still wait.
    pub(in crate::worker) fn attend(&self) -> End {
        let end = self.hear_all();
        self.lock().failed |= matches!(end, End::Crashed(_));
        end
    }

    fn hear_all(&self) -> End {
        loop {
            let time = {
                let state = self.lock();
                match (state.unsaid, state.open()) {
                    (true, _) => SAY_AGAIN,
                    (false, 0) => self.idle.min(Duration::from_secs(1)).max(Duration::from_millis(1)),
                    (false, _) => LOOK_MAX,
                }
            };
            if let Err(error) = self.wait(time) {
                return End::Crashed(error);
            }
            for _ in 0..HEARD_MAX {
                match self.socket.receive(false) {
                    Ok(Received::Packet(packet, _)) => {
                        if let Err(why) = self.hear(&packet) {
                            let mut state = self.lock();
                            (state.closed, state.failed) = (true, true);
                            return End::Crashed(why);
                        }
                    }
                    Ok(Received::End) => return self.ended(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return self.ended(),
                }
            }
            if let Some(end) = self.look() {
                return end;
            }
        }
    }

    fn ended(&self) -> End {
        let mut state = self.lock();
        if state.closed {
            return End::Closed;
        }
        (state.closed, state.failed) = (true, true);
        End::Crashed("it died".to_owned())
    }

    /// What time brings: a run that does not come back, or nothing to do for long.
    fn look(&self) -> Option<End> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.flights.values().any(|flight| now >= flight.until) {
            (state.closed, state.failed) = (true, true);
            return Some(End::Crashed("a run went on past its deadline (workers.stop_ms_max)".to_owned()));
        }
        if !state.courses.values_mut().all(|course| course.is_over() || course.look(now)) {
            (state.closed, state.failed) = (true, true);
            return Some(End::Crashed("a generation went on after its end (workers.stop_ms_max)".to_owned()));
        }
        self.speak(&mut state);
        if state.reports.is_due(now, state.open() > 0, state.used) && self.tell(&ToWorker::Report) {
            state.reports.asked(now);
        }
        if state.open() == 0 && state.used.elapsed() >= self.idle {
            state.closed = true;
            return Some(End::Closed);
        }
        None
    }

    /// Everything it had ends: those who wait read `error`.
    pub(in crate::worker) fn bury(&self, error: impl Fn() -> WorkerError) {
        let mut state = self.lock();
        state.closed = true;
        let flights: Vec<_> = state.flights.drain().map(|(_, flight)| flight).collect();
        for (_, mut course) in std::mem::take(&mut state.courses) {
            if !course.is_over() {
                course.end(Some(error().into()), &mut state.shares);
            }
        }
        drop(state);
        self.freed.notify_waiters();
        for mut flight in flights {
            flight.answer(Err(error().into()));
        }
    }

    /// Waits until there is something to hear, or for `time`.
    pub(super) fn wait(&self, time: Duration) -> Result<(), String> {
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        let time = Timespec::try_from(time).map_err(|error| error.to_string())?;
        match poll(&mut ready, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}
