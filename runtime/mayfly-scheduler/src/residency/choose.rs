//! What to do next: who is refused, what goes, what comes.

use super::Refused;
use super::requests::Request;
use super::sessions::{Need, Phase, Session, SessionId, Use, Why};
use super::state::{Command, Residency};

/// What one load needs to begin.
enum Way {
    /// Nothing.
    Free,
    /// These go, used longest ago first.
    Evict(Vec<SessionId>),
    /// What is on its way out is enough.
    Soon,
    /// More than may go now.
    Blocked,
}

impl Residency {
    /// What to do now. Ask again once it is done, until there is nothing.
    pub fn next(&mut self, now: u64) -> Vec<Command> {
        let mut commands = self.refuse(now);
        commands.extend(self.idle(now));
        if commands.is_empty() && !self.sessions.is_loading() {
            commands = self.shrink(now);
            if commands.is_empty() {
                commands = self.begin(now);
            }
        }
        commands
    }

    fn refuse(&mut self, now: u64) -> Vec<Command> {
        let mut commands = Vec::new();
        for waiter in self.requests.overdue(now) {
            let forgotten = self.requests.leave(waiter);
            self.counts.refused += 1;
            commands.push(Command::Refuse { waiter, why: Refused::NoRoom });
            commands.extend(forgotten.map(|id| Command::Forget { id }));
        }
        commands
    }

    /// What nobody has used for long.
    fn idle(&mut self, now: u64) -> Vec<Command> {
        let all = self.sessions.evictable(now, self.settings.stay_ns);
        let old = |session: &Session| idle_until(session, self.settings.idle_ns).is_some_and(|until| until <= now);
        let ids: Vec<_> = all.into_iter().filter(|(_, session)| old(session)).map(|(id, _)| id).collect();
        self.evict(ids, Why::Idle)
    }

    /// What was measured may be more than was predicted: then something goes, if it may.
    fn shrink(&mut self, now: u64) -> Vec<Command> {
        let Need { own, .. } = self.sessions.bytes();
        let over = own.saturating_sub(self.sessions.leaving().0).saturating_sub(self.settings.bytes_max);
        if over == 0 {
            return Vec::new();
        }
        let (ids, _) = self.oldest(now, over, 0);
        self.evict(ids, Why::Room)
    }

    /// The next load, or what has to go for it.
    fn begin(&mut self, now: u64) -> Vec<Command> {
        let waited_for = |request: &Request| self.requests.is_waited_for(request.id);
        let somebody_waits = self.requests.queue.iter().any(waited_for);
        let mut passed: Vec<SessionId> = Vec::new();
        for (at, request) in self.requests.queue.iter().enumerate() {
            let waits = waited_for(request);
            if somebody_waits && !waits {
                continue;
            }
            match self.way(now, request, waits || request.evicts) {
                Way::Free => return self.load_at(at, &passed),
                Way::Evict(ids) => return self.evict(ids, Why::Room),
                Way::Soon => return Vec::new(),
                // What becomes free from now on is its own.
                Way::Blocked if waits && request.passed >= self.settings.passes_max => return Vec::new(),
                Way::Blocked => passed.push(request.id),
            }
        }
        Vec::new()
    }

    fn load_at(&mut self, at: usize, passed: &[SessionId]) -> Vec<Command> {
        let Request { id, need, pinned, .. } = self.requests.queue.remove(at);
        for request in self.requests.queue.iter_mut().filter(|request| passed.contains(&request.id)) {
            request.passed = request.passed.saturating_add(1);
        }
        self.sessions.0.insert(id, Session { need, phase: Phase::Loading, pinned, chosen: None });
        vec![Command::Load { id }]
    }

    fn way(&self, now: u64, request: &Request, evicts: bool) -> Way {
        let (bytes, sessions) = self.lacking(request.need);
        if bytes == 0 && sessions == 0 {
            return Way::Free;
        }
        let (leaving_bytes, leaving) = self.sessions.leaving();
        let (bytes, sessions) = (bytes.saturating_sub(leaving_bytes), sessions.saturating_sub(leaving));
        if bytes == 0 && sessions == 0 {
            return Way::Soon;
        }
        if !evicts {
            return Way::Blocked;
        }
        let (ids, enough) = self.oldest(now, bytes, sessions);
        if enough { Way::Evict(ids) } else { Way::Blocked }
    }

    /// Those used longest ago that free so much, and whether they do.
    fn oldest(&self, now: u64, mut bytes: u64, mut sessions: usize) -> (Vec<SessionId>, bool) {
        let mut ids = Vec::new();
        for (id, session) in self.sessions.evictable(now, self.settings.stay_ns) {
            if bytes == 0 && sessions == 0 {
                break;
            }
            bytes = bytes.saturating_sub(session.need.own);
            sessions = sessions.saturating_sub(1);
            ids.push(id);
        }
        (ids, bytes == 0 && sessions == 0)
    }

    /// They count as working until the caller has said how it went, so that nobody is named twice.
    fn evict(&mut self, ids: Vec<SessionId>, why: Why) -> Vec<Command> {
        for id in &ids {
            self.observe(*id, Use::Working);
            if let Some(session) = self.sessions.0.get_mut(id) {
                session.chosen = Some(why);
            }
        }
        ids.into_iter().map(|id| Command::Evict { id }).collect()
    }

    /// When [`Residency::next`] may have something to do though nothing happens: the end of an idle time, of a stay or
    /// of a wait. While [`Residency::is_blocked`], work that ends may let something go as well.
    #[must_use]
    pub fn next_due(&self, now: u64) -> Option<u64> {
        let Self { settings, sessions, requests, .. } = self;
        let idle = sessions.0.values().filter_map(|session| {
            let stays = session.stays_until(settings.stay_ns)?;
            Some(idle_until(session, settings.idle_ns)?.max(stays))
        });
        let stays = sessions.0.values().filter_map(|session| session.stays_until(settings.stay_ns));
        let stays = stays.filter(|until| self.is_blocked() && *until > now);
        let queued = |id: SessionId| requests.contains(id);
        let waits = requests.waiters.values().filter(|waiter| queued(waiter.id)).map(|waiter| waiter.until);
        idle.chain(stays).chain(waits).min()
    }
}

fn idle_until(session: &Session, idle_ns: u64) -> Option<u64> {
    match session.phase {
        Phase::Loaded { does: Use::Idle { since }, .. } => Some(since.saturating_add(idle_ns)),
        _ => None,
    }
}
