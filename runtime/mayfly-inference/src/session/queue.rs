//! The bounded queue of one executor, and the right to work on its sessions.
//!
//! Each session has a seat here. The right to work on it is its seat's state under the queue's lock: who takes jobs takes a
//! seat with them and works alone on its session until it is free again. So runs on one session never overlap, and "idle"
//! has one meaning. Which jobs go together, which session takes them, and when one more would be worth its load, is decided
//! in [`mayfly_scheduler::batching`]. The first session is the team's wide one, those beside it are narrow.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mayfly_scheduler::batching::{Batcher, Crowd, Owner, Pushed, Settings, Take, Team, Turn, Waiting, Working};
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
enum Use {
    Free {
        since: Instant,
    },
    Taken {
        since: Instant,
        /// There was something in it for every narrow session.
        plenty: bool,
    },
}

/// A session's place.
#[derive(Debug)]
struct Seat {
    is: Use,
    /// Wakes the session's thread.
    wake: Arc<Condvar>,
}

impl Seat {
    fn free() -> Self {
        Self { is: Use::Free { since: Instant::now() }, wake: Arc::default() }
    }

    fn is_free(&self) -> bool {
        matches!(self.is, Use::Free { .. })
    }
}

/// Why one more session would be worth its load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Runs that cannot be joined have waited for each other though cores may be free.
    Waiting,
    /// Runs that can be joined are so many that sessions on fewer threads would do them sooner.
    Sharing,
}

/// Jobs that were taken with a session's right to work.
pub(super) struct Taken {
    pub(super) jobs: Vec<Job>,
    /// One more session would be worth its load.
    pub(super) crowded: Option<Why>,
}

pub(super) struct Queue {
    state: Mutex<State>,
    settings: Settings,
    team: Team,
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
        self.seats.get(&seat).is_some_and(Seat::is_free)
    }

    /// The first one that is free: those that came later are to idle out.
    fn first_free(&self) -> Option<SeatId> {
        self.seats.keys().copied().find(|seat| self.is_free(*seat))
    }

    fn works(&self) -> bool {
        self.seats.values().any(|seat| !seat.is_free())
    }

    fn working(&self) -> Working {
        let narrow = self.seats.range(FIRST + 1..);
        let (narrow, narrow_free) =
            narrow.fold((0, 0), |(all, free), (_, seat)| (all + 1, free + usize::from(seat.is_free())));
        Working { wide_free: self.is_free(FIRST), narrow_free, narrow_working: narrow - narrow_free }
    }

    fn is_plenty(&self, team: &Team) -> bool {
        team.is_plenty(self.jobs.len(), self.jobs.len() - self.jobs.alone())
    }

    /// Whose turn it is to take what waits, and how many share it.
    fn turn(&self, team: &Team) -> Option<(SeatId, NonZeroUsize)> {
        if self.closed || self.jobs.is_empty() {
            return None;
        }
        match team.turn(&self.working(), || self.is_plenty(team)) {
            Turn::Wide => Some((FIRST, NonZeroUsize::MIN)),
            // The first that is free: those that came later are to idle out.
            Turn::Narrow { sharers } => {
                let mut narrow = self.seats.range(FIRST + 1..);
                narrow.find(|(_, seat)| seat.is_free()).map(|(id, _)| (*id, sharers))
            }
            Turn::Nobody => None,
        }
    }

    /// Who is to be woken now.
    fn next_up(&self, team: &Team) -> Option<Arc<Condvar>> {
        let (seat, _) = self.turn(team)?;
        self.seats.get(&seat).map(|seat| Arc::clone(&seat.wake))
    }

    fn wake_all(&self) {
        self.seats.values().for_each(|seat| seat.wake.notify_all());
    }
}

fn wake(next: Option<Arc<Condvar>>) {
    if let Some(next) = next {
        next.notify_one();
    }
}

impl Queue {
    pub(super) fn new(settings: Settings, team: Team) -> Self {
        let epoch = Instant::now();
        let seats = BTreeMap::from([(FIRST, Seat::free())]);
        let crowd = Crowd::default();
        let state =
            State { jobs: Batcher::new(settings), seats, next_seat: FIRST + 1, crowd, closed: false, used: epoch };
        Self { state: Mutex::new(state), settings, team, epoch }
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
        let next = state.next_up(&self.team);
        drop(state);
        dead.into_iter().for_each(Job::dismiss);
        let displaced = match pushed {
            Pushed::Full(job) => return Err(Box::new((job, Refused::Full))),
            Pushed::Waits => None,
            Pushed::InsteadOf(other) => Some(other),
        };
        wake(next);
        Ok(displaced)
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
            if let Some((_, sharers)) = state.turn(&self.team).filter(|(up, _)| *up == seat) {
                let now = Instant::now();
                let mut dead = Vec::new();
                let at = now.duration_since(self.epoch);
                match state.jobs.take(at, sharers, |job| job.ticket.is_dead(), &mut dead) {
                    Take::Run(jobs) => {
                        let crowded = self.taken(&mut state, seat, now, &jobs, load);
                        let next = state.next_up(&self.team);
                        drop(state);
                        wake(next);
                        dead.into_iter().for_each(Job::dismiss);
                        return Some(Taken { jobs, crowded });
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
            // Whose turn it is may have changed since this one was woken.
            if until.is_none() {
                wake(state.next_up(&self.team));
            }
            let woken = state.seats.get(&seat).map(|seat| Arc::clone(&seat.wake))?;
            state = match until {
                Some(time) => woken.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
                None => woken.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// `jobs` were taken for the session of `seat`. Tells why one more would be worth the `load`, if it would.
    fn taken(&self, state: &mut State, seat: SeatId, now: Instant, jobs: &[Job], load: Duration) -> Option<Why> {
        let joined = jobs.iter().filter(|job| job.request.joint.is_some()).count();
        let plenty = self.team.is_plenty(jobs.len(), joined) && self.team.shares_joined(&state.working());
        if let Some(seat) = state.seats.get_mut(&seat) {
            seat.is = Use::Taken { since: now, plenty };
        }
        let left = if state.first_free().is_none() { state.jobs.alone() } else { 0 };
        state.crowd.taken(now.duration_since(self.epoch), u32::try_from(left).unwrap_or(u32::MAX));
        let worth = state.crowd.is_worth(load);
        if worth {
            state.crowd.reset();
        }
        worth.then_some(if plenty { Why::Sharing } else { Why::Waiting })
    }

    /// Takes the right to work on a session that is free, if nobody waits for one.
    pub(super) fn take_right(&self) -> Option<SeatId> {
        let mut state = self.lock();
        let id = state.first_free().filter(|_| !state.closed && state.jobs.is_empty())?;
        let seat = state.seats.get_mut(&id)?;
        seat.is = Use::Taken { since: Instant::now(), plenty: false };
        Some(id)
    }

    /// Gives the right to work back.
    pub(super) fn done(&self, seat: SeatId) {
        let mut state = self.lock();
        let now = Instant::now();
        let State { seats, crowd, .. } = &mut *state;
        if let Some(seat) = seats.get_mut(&seat) {
            if let Use::Taken { since, plenty } = seat.is {
                crowd.ran(now.saturating_duration_since(since), plenty);
            }
            seat.is = Use::Free { since: now };
        }
        state.used = now;
        if state.closed {
            state.wake_all();
        }
        let next = state.next_up(&self.team);
        drop(state);
        wake(next);
    }

    /// A seat for one more session; none once the queue is closed.
    pub(super) fn add_seat(&self) -> Option<SeatId> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let seat = state.next_seat;
        state.next_seat += 1;
        state.seats.insert(seat, Seat::free());
        Some(seat)
    }

    /// Takes the seat of a session away that nobody works on, and tells whether it did: the session is dropped.
    pub(super) fn remove_seat(&self, seat: SeatId) -> bool {
        let mut state = self.lock();
        let gone = if state.is_free(seat) { state.seats.remove(&seat) } else { None };
        let next = state.next_up(&self.team);
        drop(state);
        // Others may have waited for it to take its share.
        wake(next);
        if let Some(gone) = &gone {
            gone.wake.notify_all();
        }
        gone.is_some()
    }

    /// Since nobody has worked on this session; none while somebody does, or once its seat has gone.
    pub(super) fn seat_idle(&self, seat: SeatId) -> Option<Duration> {
        match self.lock().seats.get(&seat) {
            Some(Seat { is: Use::Free { since }, .. }) => Some(since.elapsed()),
            _ => None,
        }
    }

    /// Takes the job of `ticket` out, if it still waits: its inputs need not wait for its turn. Tells whether it did.
    pub(super) fn forget(&self, ticket: &Arc<Ticket>) -> bool {
        let mut state = self.lock();
        let gone = state.jobs.remove(|job| Arc::ptr_eq(&job.ticket, ticket));
        let next = state.next_up(&self.team);
        drop(state);
        wake(next);
        !gone.is_empty()
    }

    /// Takes no more jobs, and drops those that wait: their callers see that the executor is gone.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let jobs = state.jobs.drain();
        state.wake_all();
        drop(state);
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
        state.wake_all();
        drop(state);
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
        let next = state.next_up(&to.team);
        drop(state);
        wake(next);
        true
    }

    /// Closes the queue if there has been no work for `least`, and tells whether it did.
    pub(super) fn close_if_idle(&self, least: Duration) -> bool {
        let mut state = self.lock();
        let idle = !state.closed && !state.works() && state.jobs.is_empty() && state.used.elapsed() >= least;
        state.closed |= idle;
        if idle {
            state.wake_all();
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
