//! What is loaded, comes or goes.

use std::collections::BTreeMap;

/// Names one session; the caller chooses it, never the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What a session takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes that nobody else has: these count against the budget.
    pub own: u64,
    /// Bytes of files that it maps.
    pub mapped: u64,
}

/// What a loaded session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It works, or work waits for it.
    Working,
    /// Its last work, or its load, ended then.
    Idle {
        /// When.
        since: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Loading,
    Loaded {
        at: u64,
        does: Use,
    },
    /// It was evicted, or replaced and at its last work. Its bytes are still there.
    Leaving,
}

/// Why one is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Room,
    Idle,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) need: Need,
    pub(super) phase: Phase,
    pub(super) pinned: bool,
    /// It was named in a command that has not been answered.
    pub(super) chosen: Option<Why>,
}

impl Session {
    /// When it may go, as far as its age decides; none for what comes, goes or is pinned.
    pub(super) fn stays_until(&self, stay_ns: u64) -> Option<u64> {
        match self.phase {
            Phase::Loaded { at, .. } if !self.pinned => Some(at.saturating_add(stay_ns)),
            _ => None,
        }
    }

    /// Since when nobody has used it, if it may go now.
    pub(super) fn evictable(&self, now: u64, stay_ns: u64) -> Option<u64> {
        let Phase::Loaded { does: Use::Idle { since }, .. } = self.phase else { return None };
        self.stays_until(stay_ns).is_some_and(|until| until <= now).then_some(since)
    }
}

/// All sessions of a device that take memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(pub(super) BTreeMap<SessionId, Session>);

impl Sessions {
    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> Need {
        self.sum(|_| true)
    }

    /// Bytes and number of those that are about to be gone.
    pub(super) fn leaving(&self) -> (u64, usize) {
        let leaving = |session: &&Session| session.phase == Phase::Leaving;
        (self.sum(|session| session.phase == Phase::Leaving).own, self.0.values().filter(leaving).count())
    }

    pub(super) fn is_loading(&self) -> bool {
        self.0.values().any(|session| session.phase == Phase::Loading)
    }

    fn sum(&self, which: impl Fn(&Session) -> bool) -> Need {
        self.0.values().filter(|session| which(session)).fold(Need::default(), |sum, session| Need {
            own: sum.own.saturating_add(session.need.own),
            mapped: sum.mapped.saturating_add(session.need.mapped),
        })
    }

    /// Those that may go now, used longest ago first.
    pub(super) fn evictable(&self, now: u64, stay_ns: u64) -> Vec<(SessionId, Session)> {
        let mut all: Vec<_> =
            self.0.iter().filter_map(|(id, session)| Some((session.evictable(now, stay_ns)?, *id, *session))).collect();
        all.sort_unstable_by_key(|(since, id, _)| (*since, *id));
        all.into_iter().map(|(_, id, session)| (id, session)).collect()
    }
}
