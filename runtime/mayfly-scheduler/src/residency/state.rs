//! The state machine: events in.

use super::fit::{Fit, Refused};
use super::requests::{Request, Requests, Waiter, WaiterId};
use super::sessions::{Need, Phase, Session, SessionId, Sessions, Use, Why};
use super::settings::Settings;

/// Decides what is loaded on one device. Times are nanoseconds of one clock that never goes back.
#[derive(Clone, Debug)]
pub struct Residency {
    pub(super) settings: Settings,
    pub(super) sessions: Sessions,
    pub(super) requests: Requests,
    pub(super) counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) evicted_for_room: u64,
    pub(super) evicted_idle: u64,
    pub(super) refused: u64,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Load it; then [`Residency::loaded`] or [`Residency::failed`].
    Load {
        /// Which.
        id: SessionId,
    },
    /// Have it go if it has no work: [`Residency::evicted`] or [`Residency::kept`].
    Evict {
        /// Which.
        id: SessionId,
    },
    /// Tell it that it waits in vain. It is forgotten here.
    Refuse {
        /// Who.
        waiter: WaiterId,
        /// Why.
        why: Refused,
    },
    /// Nobody waits for it any more: a load that was asked for and will not begin.
    Forget {
        /// Which.
        id: SessionId,
    },
}

/// Gauges and counters of a [`Residency`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// What all sessions take, those that come and go included.
    pub bytes: Need,
    /// Of them, the bytes of their own that are pinned.
    pub pinned: u64,
    /// `bytes_max`.
    pub bytes_max: u64,
    /// Loads that have not begun.
    pub queued: u32,
    /// Callers that wait for a load.
    pub waiting: u32,
    /// Sessions that went to make room.
    pub evicted_for_room: u64,
    /// Sessions that went because nobody used them.
    pub evicted_idle: u64,
    /// Loads that were refused, at once or after a wait.
    pub refused: u64,
}

impl Residency {
    /// A device with nothing on it.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, sessions: Sessions::default(), requests: Requests::default(), counts: Counts::default() }
    }

    /// Somebody wants a new session and waits for it until `until`, unless its load has begun by then.
    ///
    /// # Errors
    /// [`Refused`], and nothing has changed.
    pub fn ask(&mut self, now: u64, id: SessionId, need: Need, waiter: WaiterId, until: u64) -> Result<Fit, Refused> {
        let asked = self.fit(need).and_then(|fit| {
            self.check_waiting()?;
            match self.room_at(now, need) {
                Some(at) if at <= until => Ok(fit),
                _ => Err(Refused::NoRoom),
            }
        });
        match asked {
            Ok(_) => {
                let request = Request { id, need, pinned: false, passed: 0, stands: false, evicts: true };
                self.requests.queue.push(request);
                self.requests.waiters.insert(waiter, Waiter { id, until });
            }
            Err(_) => self.counts.refused += 1,
        }
        asked
    }

    /// Somebody waits for a session that was asked for already.
    ///
    /// # Errors
    /// [`Refused::Full`], and nothing has changed.
    pub fn join(&mut self, id: SessionId, waiter: WaiterId, until: u64) -> Result<(), Refused> {
        let joined = self.check_waiting();
        match joined {
            Ok(()) => drop(self.requests.waiters.insert(waiter, Waiter { id, until })),
            Err(_) => self.counts.refused += 1,
        }
        joined
    }

    fn check_waiting(&self) -> Result<(), Refused> {
        let limit = self.settings.waiting_max.max(1);
        if self.requests.waiters.len() < limit as usize { Ok(()) } else { Err(Refused::Full { limit }) }
    }

    /// A session that nobody waits for, yet: it begins when no caller waits for another. `evicts`: others may go for it
    /// though nobody waits.
    ///
    /// # Errors
    /// [`Refused::NeverFits`], and nothing has changed.
    pub fn want(&mut self, id: SessionId, need: Need, evicts: bool) -> Result<Fit, Refused> {
        let fit = self.fit(need)?;
        self.requests.queue.push(Request { id, need, pinned: false, passed: 0, stands: true, evicts });
        Ok(fit)
    }

    /// Who waited does so no more. Gives the session that nobody wants any more and that will not be loaded, if so.
    pub fn leave(&mut self, waiter: WaiterId) -> Option<SessionId> {
        self.requests.leave(waiter)
    }

    /// A session that was wanted and has not begun is wanted no more. Whether it was so.
    pub fn forget(&mut self, id: SessionId) -> bool {
        let before = self.requests.queue.len();
        self.requests.queue.retain(|request| request.id != id);
        self.requests.queue.len() < before
    }

    /// A session, or one to come, is kept whatever happens; or no longer.
    pub fn pin(&mut self, id: SessionId, pinned: bool) {
        if let Some(session) = self.sessions.0.get_mut(&id) {
            session.pinned = pinned;
        }
        for request in self.requests.queue.iter_mut().filter(|request| request.id == id) {
            request.pinned = pinned;
        }
    }

    /// Whether a session is kept whatever happens.
    #[must_use]
    pub fn is_pinned(&self, id: SessionId) -> bool {
        self.sessions.0.get(&id).is_some_and(|session| session.pinned)
    }

    /// What a loaded session does. What is not observed is taken to go on as it was.
    pub fn observe(&mut self, id: SessionId, seen: Use) {
        if let Some(Session { phase: Phase::Loaded { does, .. }, .. }) = self.sessions.0.get_mut(&id) {
            *does = seen;
        }
    }

    /// A load went well; it took `measured`. Gives all who waited for it.
    pub fn loaded(&mut self, now: u64, id: SessionId, measured: Need) -> Vec<WaiterId> {
        if let Some(session) = self.sessions.0.get_mut(&id) {
            session.need = measured;
            session.phase = Phase::Loaded { at: now, does: Use::Idle { since: now } };
        }
        self.requests.answer(id)
    }

    /// A load went wrong, and nothing of it is left. Gives all who waited for it.
    pub fn failed(&mut self, id: SessionId) -> Vec<WaiterId> {
        self.sessions.0.remove(&id);
        self.requests.answer(id)
    }

    /// A session is at its end: it was evicted, replaced or is closed. It counts until [`Residency::unloaded`].
    pub fn evicted(&mut self, id: SessionId) {
        let Some(session) = self.sessions.0.get_mut(&id) else { return };
        session.phase = Phase::Leaving;
        match session.chosen.take() {
            Some(Why::Room) => self.counts.evicted_for_room += 1,
            Some(Why::Idle) => self.counts.evicted_idle += 1,
            None => {}
        }
    }

    /// A session that was to go has work.
    pub fn kept(&mut self, id: SessionId) {
        self.observe(id, Use::Working);
        if let Some(session) = self.sessions.0.get_mut(&id) {
            session.chosen = None;
        }
    }

    /// A session's memory is back with the system.
    pub fn unloaded(&mut self, id: SessionId) {
        self.sessions.0.remove(&id);
    }

    /// Whether loads wait for room: then what is loaded should be observed often.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.sessions.is_loading() && !self.requests.queue.is_empty()
    }

    /// Gauges and counters.
    #[must_use]
    pub fn load(&self) -> Load {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let pinned = self.sessions.0.values().filter(|session| session.pinned).map(|session| session.need.own);
        Load {
            bytes: self.sessions.bytes(),
            pinned: pinned.fold(0, u64::saturating_add),
            bytes_max: self.settings.bytes_max,
            queued: count(self.requests.queue.len()),
            waiting: count(self.requests.waiters.len()),
            evicted_for_room: self.counts.evicted_for_room,
            evicted_idle: self.counts.evicted_idle,
            refused: self.counts.refused,
        }
    }
}
