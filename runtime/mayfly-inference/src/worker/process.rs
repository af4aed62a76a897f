//! The server's end of one worker process: what it was given, what it answers, and when it is killed.
//!
//! A thread of its own starts the process (`begin`, `running`), hears it and reaps it (`attend`, `hear`); the process
//! dies with that thread. Callers send by themselves (`submit`) and never wait for a worker that does not read. All of them
//! share one state under one lock, held for moments.

mod attend;
mod begin;
mod generate;
mod hear;
mod running;
mod space;
mod submit;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mayfly_types::Digest;
use tokio::sync::Notify;

pub(super) use self::attend::End;
pub(super) use self::begin::Start;
use super::arena::{Arena, Places};
use super::course::Course;
use super::flight::{Flight, Shares, Violation};
use super::message::{ToWorker, encode};
use super::report::{Reports, WorkerLoad};
use super::room::Room;
use super::socket::Socket;
use crate::Device;

/// One worker process. Clones of the handle are shared by its callers.
#[derive(Debug)]
pub(super) struct Process {
    socket: Socket,
    arena: Arena,
    room: Room,
    device: Device,
    runs_max: usize,
    /// Bytes of tokens that wait for their readers.
    unread_bytes_max: u64,
    stop: Duration,
    idle: Duration,
    pid: u32,
    state: Mutex<State>,
    /// Packages that it can see. Held while one is brought: two would be in each other's way.
    brought: Mutex<HashSet<Digest>>,
    /// A place in the arena became free, or the end came.
    freed: Notify,
}

struct State {
    flights: HashMap<u64, Flight>,
    /// Generations, and those that are over but were not read to their end.
    courses: HashMap<u64, Course>,
    /// Some of them have something to say that the process has not taken.
    unsaid: bool,
    /// The next run's number.
    next: u64,
    places: Places,
    shares: Shares,
    /// Runs whose outputs wait for space, in order.
    waiting: VecDeque<u64>,
    /// Takes no more.
    closed: bool,
    /// It did not end as it should; who waits for it is about to be told.
    failed: bool,
    used: Instant,
    /// What has run here.
    loaded: HashSet<Digest>,
    /// What it says that it has at work.
    reports: Reports,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("flights", &self.flights.len())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Process {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process's number.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs that it was given and has not answered.
    pub(super) fn open(&self) -> usize {
        self.lock().open()
    }

    /// Since its last run ended; none while it works.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.lock();
        (state.open() == 0).then(|| state.used.elapsed())
    }

    /// Whether this package has run here.
    pub(super) fn is_loaded(&self, package: Digest) -> bool {
        self.lock().loaded.contains(&package)
    }

    /// What it has at work, as far as it tells.
    pub(super) fn load(&self) -> WorkerLoad {
        self.lock().reports.load()
    }

    /// Memory that the load of this package took there, as far as it tells.
    pub(super) fn bytes_of(&self, package: Digest) -> u64 {
        self.lock().reports.bytes_of(package)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether it is about to be buried for a failure.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Takes no more runs; those it has are lost.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.socket.close();
    }

    /// Closes it if it has no work; tells whether it did.
    pub(super) fn close_if_idle(&self) -> bool {
        let mut state = self.lock();
        let idle = state.open() == 0 && !state.closed;
        if idle {
            state.closed = true;
            drop(state);
            self.socket.close();
        }
        idle
    }

    /// Says a word to the worker. One that does not listen is found at its runs' deadlines.
    /// Gives whether it took it.
    fn tell(&self, message: &ToWorker) -> bool {
        let Ok(packet) = encode(message, &[]) else { return false };
        let sent = self.socket.send(&packet, None);
        if let Err(error) = &sent {
            tracing::debug!(%error, pid = self.pid, "a worker did not hear");
        }
        sent.is_ok()
    }
}

impl State {
    /// Runs and generations that the process was given and has not let go of.
    fn open(&self) -> usize {
        self.flights.len() + self.courses.values().filter(|course| !course.is_over()).count()
    }

    fn course(&mut self, run: u64) -> Result<&mut Course, Violation> {
        generate::running(self.courses.get_mut(&run))
    }

    fn flight(&mut self, run: u64) -> Result<&mut Flight, Violation> {
        self.flights.get_mut(&run).ok_or(Violation("a run that is not there"))
    }

    /// The run has begun, if it had not.
    fn begin(&mut self, run: u64) -> Result<&mut Flight, Violation> {
        let flight = self.flights.get_mut(&run).ok_or(Violation("a run that is not there"))?;
        flight.begin(&mut self.shares);
        Ok(flight)
    }
}
