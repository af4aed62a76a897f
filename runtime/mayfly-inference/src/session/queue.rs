//! The bounded queue of one executor, and the right to work on its sessions.
//!
//! Each session has a seat here. The right to work on it is its seat's state under the queue's lock: who takes jobs takes a
//! seat with them and works alone on its session until it is free again. So runs on one session never overlap, and "idle"
//! has one meaning. Which jobs go together is decided in [`mayfly_scheduler::batching`], and there, too, when one more
//! session would be worth its load.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mayfly_scheduler::batching::{Batcher, Crowd, Owner, Pushed, Settings, Take, Waiting};
use tokio::sync::oneshot;

use super::run::{Done, Request};
use super::ticket::Ticket;
use crate::RunError;

/// One run to do.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) ticket: Arc<Ticket>,
    pub(super) started: Box<dyn FnOnce() + Send>,
    pub(super) reply: oneshot::Sender<Result<Done, RunError>>,
    pub(super) queued: Instant,
}

impl Job {
    /// It will not begin.
    fn dismiss(self) {
        // As a rule nobody is there to hear it.
        let _ = self.reply.send(Err(RunError::Stopped { started: false }));
    }
}

/// A job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many runs wait as may.
    Full,
    /// The executor is going away; there may be another.
    Closed,
}

/// Names a session's seat; the first one's is 0.
pub(crate) type SeatId = u32;

/// The seat of the session that is there from the first to the last.
pub(super) const FIRST: SeatId = 0;

/// Whether somebody works on a session.
#[derive(Debug, Clone, Copy)]
enum Seat {
    Free { since: Instant },
    Taken,
}

/// Jobs that were taken with a session's right to work.
pub(super) struct Taken {
    pub(super) jobs: Vec<Job>,
    /// Others wait that cannot be joined with anything, every session works, and this has gone on for as long as a load
    /// takes.
    pub(super) is_crowded: bool,
}

pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    settings: Settings,
    /// Times of the batcher count from here.
    epoch: Instant,
}

struct State {
    jobs: Batcher<Job>,
    /// Of each session.
    seats: BTreeMap<SeatId, Seat>,
    /// Never the same twice: a session that leaves may still be on its way out.
    next_seat: SeatId,
    crowd: Crowd,
    closed: bool,
    /// When the last run ended.
    used: Instant,
}

impl State {
    fn is_free(&self, seat: SeatId) -> bool {
        matches!(self.seats.get(&seat), Some(Seat::Free { .. }))
    }

    /// The first one that is free: those that came later are to idle out.
    fn first_free(&self) -> Option<SeatId> {
        self.seats.keys().copied().find(|seat| self.is_free(*seat))
    }

    fn works(&self) -> bool {
        self.seats.values().any(|seat| matches!(seat, Seat::Taken))
    }
}

impl Queue {
    pub(super) fn new(settings: Settings) -> Self {
        let epoch = Instant::now();
        let seats = BTreeMap::from([(FIRST, Seat::Free { since: epoch })]);
        let crowd = Crowd::default();
        let state =
            State { jobs: Batcher::new(settings), seats, next_seat: FIRST + 1, crowd, closed: false, used: epoch };
        Self { state: Mutex::new(state), wake: Condvar::new(), settings, epoch }
    }

    pub(super) fn runs_max(&self) -> usize {
        self.settings.runs_max
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self, owner: Owner, job: Job) -> Waiting<Job> {
        let shape = job.request.joint.as_ref().map(|joint| joint.shape.clone());
        Waiting { owner, arrived: job.queued.duration_since(self.epoch), cost: job.request.cost(), shape, job }
    }

    /// Adds a job of `owner`. What has died in the queue makes room first, then the newest job of whoever has most: that
    /// one is given out.
    pub(super) fn push(&self, owner: Owner, job: Job) -> Result<Option<Job>, Box<(Job, Refused)>> {
        let job = self.waiting(owner, job);
        let mut dead = Vec::new();
        let mut state = self.lock();
        if state.closed {
            return Err(Box::new((job.job, Refused::Closed)));
        }
        if state.jobs.is_full() {
            dead = state.jobs.remove(|job| job.ticket.is_dead());
        }
        let pushed = state.jobs.push(job);
        let seats = state.seats.len();
        drop(state);
        dead.into_iter().for_each(Job::dismiss);
        let displaced = match pushed {
            Pushed::Full(job) => return Err(Box::new((job, Refused::Full))),
            Pushed::Waits => None,
            Pushed::InsteadOf(other) => Some(other),
        };
        self.wake(seats);
        Ok(displaced)
    }

    /// Wakes whoever has to look: with several sessions it is not known whose thread.
    fn wake(&self, seats: usize) {
        if seats > 1 { self.wake.notify_all() } else { self.wake.notify_one() }
    }

    /// Waits for jobs that can run together and takes the right to work on the session of `seat` with them; none once the
    /// queue is closed, or the seat has gone, and nobody works there. `load` is what another session would take to load.
    pub(super) fn next(&self, seat: SeatId, load: Duration) -> Option<Taken> {
        let mut state = self.lock();
        loop {
            let mut until = None;
            if !state.seats.contains_key(&seat) || (state.closed && state.is_free(seat)) {
                return None;
            }
            if !state.closed && state.first_free() == Some(seat) {
                let now = Instant::now();
                let mut dead = Vec::new();
                let at = now.duration_since(self.epoch);
                match state.jobs.take(at, |job| job.ticket.is_dead(), &mut dead) {
                    Take::Run(jobs) => {
                        state.seats.insert(seat, Seat::Taken);
                        let is_full = state.first_free().is_none();
                        let left = if is_full { state.jobs.alone() } else { 0 };
                        state.crowd.taken(at, u32::try_from(left).unwrap_or(u32::MAX));
                        let is_crowded = state.crowd.is_worth(load);
                        if is_crowded {
                            state.crowd.reset();
                        }
                        let others = !is_full && !state.jobs.is_empty();
                        let seats = state.seats.len();
                        drop(state);
                        if others {
                            self.wake(seats);
                        }
                        dead.into_iter().for_each(Job::dismiss);
                        return Some(Taken { jobs, is_crowded });
                    }
                    Take::WaitUntil(time) => until = Some((self.epoch + time).saturating_duration_since(now)),
                    Take::Nothing => {}
                }
                if !dead.is_empty() {
                    // Their callers hear it and their inputs go; not under the lock.
                    drop(state);
                    dead.into_iter().for_each(Job::dismiss);
                    state = self.lock();
                    continue;
                }
            }
            state = match until {
                Some(time) => self.wake.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Takes the right to work on a session that is free, if nobody waits for one.
    pub(super) fn take_right(&self) -> Option<SeatId> {
        let mut state = self.lock();
        let seat = state.first_free().filter(|_| !state.closed && state.jobs.is_empty())?;
        state.seats.insert(seat, Seat::Taken);
        Some(seat)
    }

    /// Gives the right to work back.
    pub(super) fn done(&self, seat: SeatId) {
        let mut state = self.lock();
        let now = Instant::now();
        state.seats.insert(seat, Seat::Free { since: now });
        state.used = now;
        let wanted = state.closed || !state.jobs.is_empty();
        let seats = state.seats.len();
        drop(state);
        if wanted {
            self.wake(seats);
        }
    }

    /// A seat for one more session; none once the queue is closed.
    pub(super) fn add_seat(&self) -> Option<SeatId> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let seat = state.next_seat;
        state.next_seat += 1;
        state.seats.insert(seat, Seat::Free { since: Instant::now() });
        Some(seat)
    }

    /// Takes the seat of a session away that nobody works on, and tells whether it did: the session is dropped.
    pub(super) fn remove_seat(&self, seat: SeatId) -> bool {
        let mut state = self.lock();
        let free = state.is_free(seat);
        if free {
            state.seats.remove(&seat);
        }
        drop(state);
        self.wake.notify_all();
        free
    }

    /// Since nobody has worked on this session; none while somebody does, or once its seat has gone.
    pub(super) fn seat_idle(&self, seat: SeatId) -> Option<Duration> {
        match self.lock().seats.get(&seat) {
            Some(Seat::Free { since }) => Some(since.elapsed()),
            _ => None,
        }
    }

    /// Takes the job of `ticket` out, if it still waits: its inputs need not wait for its turn. Tells whether it did.
    pub(super) fn forget(&self, ticket: &Arc<Ticket>) -> bool {
        let gone = self.lock().jobs.remove(|job| Arc::ptr_eq(&job.ticket, ticket));
        !gone.is_empty()
    }

    /// Takes no more jobs, and drops those that wait: their callers see that the executor is gone.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let jobs = state.jobs.drain();
        drop(state);
        self.wake.notify_all();
        drop(jobs);
    }

    /// Takes no more jobs, and gives those that wait to `to`, before any other of `to`. What was idle here is idle for as
    /// long there. False, and nothing happens, if it is closed.
    pub(super) fn hand_over(&self, to: &Self) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.closed = true;
        let (jobs, used) = (state.jobs.drain(), state.used);
        drop(state);
        self.wake.notify_all();
        let mut dropped = Vec::new();
        let mut state = to.lock();
        let newer = state.jobs.drain();
        for run in jobs.chain(newer) {
            let arrived = run.job.queued.saturating_duration_since(to.epoch);
            // Nobody pushes there yet, and it has as many places: none is refused.
            if let Pushed::Full(job) | Pushed::InsteadOf(job) = state.jobs.push(Waiting { arrived, ..run }) {
                dropped.push(job);
            }
        }
        state.used = used;
        drop(state);
        to.wake.notify_one();
        true
    }

    /// Closes the queue if there has been no work for `least`, and tells whether it did.
    pub(super) fn close_if_idle(&self, least: Duration) -> bool {
        let mut state = self.lock();
        let idle = !state.closed && !state.works() && state.jobs.is_empty() && state.used.elapsed() >= least;
        state.closed |= idle;
        drop(state);
        if idle {
            self.wake.notify_all();
        }
        idle
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Since the last run ended; none while there is work.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.lock();
        (!state.works() && state.jobs.is_empty()).then(|| state.used.elapsed())
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("settings", &self.settings).finish_non_exhaustive()
    }
}
