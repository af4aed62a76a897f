//! The queue: owners by least served, each owner's runs in the order they came.
//!
//! Fairness is start-time fair queueing: the level is what the owner whose turn it last was had been served before that
//! turn. Who comes (back) below it starts there, so rest is not saved up; who is above it is remembered, so leaving for
//! a moment wins nothing. An owner that others were preferred to [`PASSED_OVER_MAX`] times is next whatever it was
//! served, so nobody waits for ever.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::time::Duration;

use super::settings::Settings;
use super::take::{Size, Take};
use super::waiting::{Owner, Waiting};

/// How many batches may begin with somebody else while an owner waits, before it is next.
pub(super) const PASSED_OVER_MAX: u32 = 16;

#[derive(Debug)]
struct Account<T> {
    /// The cost of what was taken.
    served: u64,
    waiting: VecDeque<Waiting<T>>,
    /// Batches without any run of it that were taken while it waited.
    passed_over: u32,
}

impl<T> Account<T> {
    fn rank(&self) -> (u32, u64, Duration) {
        let longest = if self.passed_over >= PASSED_OVER_MAX { u32::MAX - self.passed_over } else { u32::MAX };
        (longest, self.served, self.waiting.front().map_or(Duration::MAX, |first| first.arrived))
    }
}

/// What became of a push.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<T> {
    /// It waits.
    Waits,
    /// It waits, and the newest run of the owner who had most is refused for it.
    InsteadOf(T),
    /// As many wait as may, and its owner has at least as many as anybody.
    Full(T),
}

/// The runs that wait for one graph.
#[derive(Debug)]
pub struct Batcher<T> {
    settings: Settings,
    accounts: BTreeMap<Owner, Account<T>>,
    len: usize,
    level: u64,
}

impl<T> Batcher<T> {
    /// An empty queue.
    pub fn new(settings: Settings) -> Self {
        Self { settings, accounts: BTreeMap::new(), len: 0, level: 0 }
    }

    /// Runs that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Runs that wait and can share no run of the graph with any other.
    pub fn alone(&self) -> usize {
        self.accounts.values().flat_map(|account| &account.waiting).filter(|run| run.shape.is_none()).count()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether another run would be one too many.
    pub fn is_full(&self) -> bool {
        self.len >= self.settings.runs_max
    }

    /// Adds a run.
    ///
    /// At the limit an owner with fewer runs than another takes the place of that one's newest run, so that nobody can
    /// keep others out by filling the queue.
    pub fn push(&mut self, run: Waiting<T>) -> Pushed<T> {
        let mut displaced = None;
        if self.is_full() {
            let own = self.accounts.get(&run.owner).map_or(0, |account| account.waiting.len());
            let most = self.accounts.iter().max_by_key(|(_, account)| account.waiting.len());
            match most.map(|(owner, account)| (*owner, account.waiting.len())) {
                Some((owner, most)) if most > own + 1 => displaced = self.pop_newest(owner),
                _ => return Pushed::Full(run.job),
            }
        }
        let level = self.level;
        let account = self.accounts.entry(run.owner).or_insert_with(|| Account {
            served: level,
            waiting: VecDeque::new(),
            passed_over: 0,
        });
        if account.waiting.is_empty() {
            account.served = account.served.max(level);
            account.passed_over = 0;
        }
        account.waiting.push_back(run);
        self.len += 1;
        displaced.map_or(Pushed::Waits, Pushed::InsteadOf)
    }

    /// What to run now, for one of `sharers` sessions that share what waits. What is `dead` by then goes to `dropped` and
    /// is not run.
    pub fn take(
        &mut self,
        now: Duration,
        sharers: NonZeroUsize,
        dead: impl Fn(&T) -> bool,
        dropped: &mut Vec<T>,
    ) -> Take<T> {
        self.drop_dead(&dead, dropped);
        let settings = self.share(sharers);
        let first = self.accounts.iter().filter(|(_, account)| !account.waiting.is_empty());
        let Some((&owner, account)) = first.min_by_key(|(owner, account)| (account.rank(), **owner)) else {
            return Take::Nothing;
        };
        let seed = account.waiting.front().expect("it has something waiting");
        let in_turn = account.passed_over < PASSED_OVER_MAX;
        let level = if in_turn { self.level.max(account.served) } else { self.level };
        let Some(mut size) = seed.shape.as_ref().map(Size::of) else {
            return Take::Run(self.pick(&[(owner, 0)], level));
        };
        let mut picked = vec![(owner, 0)];
        self.fill(&mut picked, &mut size, &settings);
        let company = now.saturating_sub(seed.arrived) < settings.delay;
        if company && picked.len() == self.len && size.has_room(&settings) {
            return Take::WaitUntil(seed.arrived + self.settings.delay);
        }
        Take::Run(self.pick(&picked, level))
    }

    /// Takes out every run that `is` true of, wherever it waits.
    pub fn remove(&mut self, is: impl Fn(&T) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        self.drop_dead(&is, &mut gone);
        gone
    }

    /// Empties the queue; owner by owner, each in its order.
    pub fn drain(&mut self) -> impl Iterator<Item = Waiting<T>> + use<T> {
        self.len = 0;
        std::mem::take(&mut self.accounts).into_values().flat_map(|account| account.waiting)
    }

    /// The limits of one run where `sharers` share what waits.
    fn share(&self, sharers: NonZeroUsize) -> Settings {
        if sharers.get() == 1 {
            return self.settings;
        }
        let waiting = self.accounts.values().flat_map(|account| &account.waiting);
        let rows: u64 = waiting.filter_map(|run| run.shape.as_ref()).map(|shape| u64::from(shape.rows)).sum();
        let share = u32::try_from(rows.div_ceil(sharers.get() as u64)).unwrap_or(u32::MAX);
        Settings { rows_max: self.settings.rows_max.min(share), ..self.settings }
    }

    /// Adds what fits beside the seed: always of the owner that is behind, its runs in their order.
    fn fill(&self, picked: &mut Vec<(Owner, usize)>, size: &mut Size, settings: &Settings) {
        // Where each owner's next candidate may be, and what it will have been served.
        let mut next: BTreeMap<Owner, (usize, u64)> = self
            .accounts
            .iter()
            .filter(|(_, account)| !account.waiting.is_empty())
            .map(|(&owner, account)| (owner, (0, account.served)))
            .collect();
        if let Some((owner, place)) = picked.first()
            && let (Some(cursor), Some(account)) = (next.get_mut(owner), self.accounts.get(owner))
        {
            *cursor = (place + 1, cursor.1.saturating_add(account.waiting[*place].cost));
        }
        while let Some((&owner, &(from, served))) = next.iter().min_by_key(|(owner, (_, served))| (*served, **owner)) {
            if !size.has_room(settings) {
                return;
            }
            let waiting = &self.accounts[&owner].waiting;
            let found = (from..waiting.len()).find_map(|place| {
                let grown = size.with(waiting[place].shape.as_ref()?, settings)?;
                Some((place, grown))
            });
            match found {
                Some((place, grown)) => {
                    *size = grown;
                    picked.push((owner, place));
                    next.insert(owner, (place + 1, served.saturating_add(waiting[place].cost)));
                }
                None => drop(next.remove(&owner)),
            }
        }
    }

    /// Takes the runs at these places out and charges their owners.
    fn pick(&mut self, picked: &[(Owner, usize)], level: u64) -> Vec<T> {
        self.level = level;
        let mut jobs = Vec::with_capacity(picked.len());
        let mut taken: BTreeMap<Owner, usize> = BTreeMap::new();
        for (owner, place) in picked {
            // Places of one owner only grow, and each run taken out moves those behind it up by one.
            let before = taken.entry(*owner).or_default();
            let account = self.accounts.get_mut(owner).expect("it was picked from");
            let run = account.waiting.remove(place - *before).expect("it was picked from");
            *before += 1;
            account.served = account.served.saturating_add(run.cost);
            account.passed_over = 0;
            jobs.push(run.job);
        }
        self.len -= jobs.len();
        for (owner, account) in &mut self.accounts {
            if !taken.contains_key(owner) && !account.waiting.is_empty() {
                account.passed_over = account.passed_over.saturating_add(1);
            }
        }
        self.forget_idle();
        jobs
    }

    fn pop_newest(&mut self, owner: Owner) -> Option<T> {
        let run = self.accounts.get_mut(&owner)?.waiting.pop_back()?;
        self.len -= 1;
        Some(run.job)
    }

    fn drop_dead(&mut self, dead: &impl Fn(&T) -> bool, dropped: &mut Vec<T>) {
        let before = dropped.len();
        for account in self.accounts.values_mut() {
            if account.waiting.iter().any(|run| dead(&run.job)) {
                let (gone, live): (VecDeque<_>, VecDeque<_>) =
                    std::mem::take(&mut account.waiting).into_iter().partition(|run| dead(&run.job));
                account.waiting = live;
                dropped.extend(gone.into_iter().map(|run| run.job));
            }
        }
        if dropped.len() > before {
            self.len -= dropped.len() - before;
            self.forget_idle();
        }
    }

    /// An owner without anything here is remembered only while others wait and it is above the level: what it would lose
    /// by coming back.
    fn forget_idle(&mut self) {
        let (nobody, level) = (self.len == 0, self.level);
        self.accounts.retain(|_, account| !account.waiting.is_empty() || (!nobody && account.served > level));
        if nobody {
            self.level = 0;
        }
    }
}
