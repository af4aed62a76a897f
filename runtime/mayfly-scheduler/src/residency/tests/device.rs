//! A device that does what it is told, and checks each command against a model of its own that knows no queues.

use std::collections::{BTreeMap, BTreeSet};

use crate::residency::{Command, Fit, Need, Refused, Residency, SessionId, Settings, Use, WaiterId};

pub(super) fn settings() -> Settings {
    Settings { bytes_max: 100, sessions_max: 8, waiting_max: 16, stay_ns: 10, idle_ns: 1000, passes_max: 2 }
}

pub(super) const fn own(own: u64) -> Need {
    Need { own, mapped: 0 }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State {
    Loading,
    Loaded { at: u64, does: Use },
    Leaving,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) bytes: u64,
    pub(super) state: State,
    pub(super) pinned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Answer {
    Loaded,
    Failed,
    Refused,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) core: Residency,
    pub(super) settings: Settings,
    pub(super) now: u64,
    next_id: u64,
    /// What is there.
    pub(super) known: BTreeMap<SessionId, Known>,
    /// Asked for and not begun, in order: its need, whether it stands by itself, and how many asked later went first
    /// while somebody waited.
    pub(super) queue: Vec<(SessionId, u64, bool, u32)>,
    pub(super) waits: BTreeMap<WaiterId, SessionId>,
    pub(super) answers: BTreeMap<WaiterId, Answer>,
    pinned: BTreeSet<SessionId>,
    /// Once a measure was above its prediction there may be too much, and nobody could know.
    pub(super) surprised: bool,
}

impl Device {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            core: Residency::new(settings.clone()),
            settings,
            now: 0,
            next_id: 0,
            known: BTreeMap::new(),
            queue: Vec::new(),
            waits: BTreeMap::new(),
            answers: BTreeMap::new(),
            pinned: BTreeSet::new(),
            surprised: false,
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn ask(&mut self, bytes: u64, until: u64) -> Result<(SessionId, WaiterId, Fit), Refused> {
        let (id, waiter) = (SessionId(self.id()), WaiterId(self.id()));
        let fit = self.core.ask(self.now, id, own(bytes), waiter, until)?;
        self.queue.push((id, bytes, false, 0));
        self.waits.insert(waiter, id);
        Ok((id, waiter, fit))
    }

    pub(super) fn join(&mut self, id: SessionId, until: u64) -> Option<WaiterId> {
        let waiter = WaiterId(self.id());
        self.core.join(id, waiter, until).ok()?;
        self.waits.insert(waiter, id);
        Some(waiter)
    }

    pub(super) fn want(&mut self, bytes: u64, evicts: bool) -> Option<SessionId> {
        let id = SessionId(self.id());
        self.core.want(id, own(bytes), evicts).ok()?;
        self.queue.push((id, bytes, true, 0));
        Some(id)
    }

    pub(super) fn leave(&mut self, waiter: WaiterId) {
        let id = self.waits.remove(&waiter);
        let forgotten = self.core.leave(waiter);
        let goes = |id: &SessionId| self.queue.iter().any(|(other, _, stands, _)| other == id && !stands);
        let last = id.filter(|id| !self.waits.values().any(|other| other == id) && goes(id));
        assert_eq!(forgotten, last, "the last one who waits takes its request along");
        self.queue.retain(|(id, ..)| Some(*id) != forgotten);
    }

    pub(super) fn pin(&mut self, id: SessionId, pinned: bool) {
        self.core.pin(id, pinned);
        if let Some(known) = self.known.get_mut(&id) {
            known.pinned = pinned;
        }
        if pinned {
            self.pinned.insert(id)
        } else {
            self.pinned.remove(&id)
        };
    }

    pub(super) fn does(&mut self, id: SessionId, work: bool) {
        let now = self.now;
        if let Some(Known { state: State::Loaded { does, .. }, .. }) = self.known.get_mut(&id) {
            *does = match (work, *does) {
                (true, _) => Use::Working,
                (false, Use::Working) => Use::Idle { since: now },
                (false, idle) => idle,
            };
        }
    }

    pub(super) fn is_queued(&self, id: SessionId) -> bool {
        self.queue.iter().any(|(other, ..)| *other == id)
    }

    pub(super) fn loading(&self) -> Option<SessionId> {
        self.known.iter().find(|(_, known)| known.state == State::Loading).map(|(id, _)| *id)
    }

    /// The current load ends; it took `measured`.
    pub(super) fn load_ends(&mut self, measured: Option<u64>) {
        let Some(id) = self.loading() else { return };
        let answered = if let Some(bytes) = measured {
            let known = self.known.get_mut(&id).unwrap();
            self.surprised |= bytes > known.bytes;
            known.bytes = bytes;
            known.state = State::Loaded { at: self.now, does: Use::Idle { since: self.now } };
            self.core.loaded(self.now, id, own(bytes))
        } else {
            self.known.remove(&id);
            self.core.failed(id)
        };
        let answer = if measured.is_some() { Answer::Loaded } else { Answer::Failed };
        let expected: Vec<_> =
            self.waits.iter().filter(|(_, other)| **other == id).map(|(waiter, _)| *waiter).collect();
        assert_eq!(answered, expected, "all who waited for it, and nobody else");
        answered.into_iter().for_each(|waiter| self.answered(waiter, answer));
    }

    fn answered(&mut self, waiter: WaiterId, answer: Answer) {
        assert!(self.waits.remove(&waiter).is_some(), "who is answered waits");
        assert!(self.answers.insert(waiter, answer).is_none(), "answered twice");
    }

    /// What was told to go is gone.
    pub(super) fn unloads_end(&mut self) {
        let gone: Vec<_> =
            self.known.iter().filter(|(_, known)| known.state == State::Leaving).map(|(id, _)| *id).collect();
        for id in gone {
            self.known.remove(&id);
            self.core.unloaded(id);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.known.values().map(|known| known.bytes).sum()
    }

    /// Asks and does until there is nothing to do. `kept`: what is told to go gets work first.
    pub(super) fn settle(&mut self, kept: impl Fn(SessionId) -> bool) {
        for (id, known) in &self.known {
            if let State::Loaded { does, .. } = known.state {
                self.core.observe(*id, does);
            }
        }
        for round in 0.. {
            assert!(round < 1000, "it never comes to an end");
            let commands = self.core.next(self.now);
            if commands.is_empty() {
                break;
            }
            self.check_evictions(&commands);
            for command in commands {
                match command {
                    Command::Load { id } => self.begins(id),
                    Command::Evict { id } if kept(id) => {
                        self.does(id, true);
                        self.core.kept(id);
                    }
                    Command::Evict { id } => {
                        self.known.get_mut(&id).unwrap().state = State::Leaving;
                        self.core.evicted(id);
                    }
                    Command::Refuse { waiter, .. } => {
                        assert!(self.is_queued(self.waits[&waiter]), "its load has not begun");
                        self.answered(waiter, Answer::Refused);
                    }
                    Command::Forget { id } => {
                        assert!(!self.waits.values().any(|other| *other == id));
                        self.queue.retain(|(other, ..)| *other != id);
                    }
                }
            }
        }
    }

    fn begins(&mut self, id: SessionId) {
        assert_eq!(self.loading(), None, "one load at a time");
        let place = self.queue.iter().position(|(other, ..)| *other == id).expect("it was asked for");
        let (_, bytes, ..) = self.queue.remove(place);
        let waited_for = |id: SessionId| self.waits.values().any(|other| *other == id);
        let others_wait = self.queue.iter().any(|(other, ..)| waited_for(*other));
        assert!(waited_for(id) || !others_wait, "who waits goes before who does not");
        for (other, _, _, passed) in self.queue.iter_mut().take(place).filter(|(other, ..)| waited_for(*other)) {
            *passed += 1;
            assert!(*passed <= self.settings.passes_max, "{other:?} was passed too often");
        }
        assert!(self.bytes() + bytes <= self.settings.bytes_max, "over the budget");
        let pinned = self.pinned.contains(&id);
        self.known.insert(id, Known { bytes, state: State::Loading, pinned });
        assert!(self.known.len() <= self.settings.sessions_max as usize, "too many");
    }

    /// Those that go may go, and none that may go was used before them and stays.
    fn check_evictions(&self, commands: &[Command]) {
        let evicted: BTreeSet<_> =
            commands.iter().filter_map(|c| if let Command::Evict { id } = c { Some(*id) } else { None }).collect();
        let may_go = |known: &Known| match known.state {
            State::Loaded { at, does: Use::Idle { since } }
                if !known.pinned && at + self.settings.stay_ns <= self.now =>
            {
                Some(since)
            }
            _ => None,
        };
        let latest = evicted.iter().map(|id| may_go(&self.known[id]).expect("it may go")).max();
        for (id, known) in &self.known {
            if let (Some(latest), Some(since)) = (latest, may_go(known)) {
                assert!(evicted.contains(id) || since >= latest, "{id:?} was used before what goes");
            }
        }
    }
}
