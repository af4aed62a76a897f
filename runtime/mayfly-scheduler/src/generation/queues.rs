//! Who waits for a slot, and who is next: owners by least served tokens, each owner's sequences in order of arrival.
//!
//! An owner that comes back from having nothing here starts level with the least served one: rest is not saved up. One
//! that others were preferred to [`PASSED_OVER_MAX`] times is next whatever it was served, so nobody waits for ever.

use std::collections::{BTreeMap, VecDeque};

use super::submission::{Owner, SequenceId, Submission};

/// How many sequences of others may be admitted while an owner waits, before it is next.
pub(super) const PASSED_OVER_MAX: u32 = 64;

#[derive(Clone, Debug, Default)]
struct Account {
    /// Prompt tokens run and new tokens accepted.
    served: u64,
    waiting: VecDeque<Waiting>,
    /// Sequences that hold a slot.
    live: u32,
    /// Sequences of others admitted since one of its own was.
    passed_over: u32,
    /// When it last had a prefill step and a decode step, in turns.
    prefilled: u64,
    decoded: u64,
}

impl Account {
    fn is_active(&self) -> bool {
        self.live > 0 || !self.waiting.is_empty()
    }
}

#[derive(Clone, Debug)]
struct Waiting {
    arrival: u64,
    submission: Submission,
}

/// A waiting sequence that may be next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) owner: Owner,
    place: usize,
    /// Its owner was passed over often enough: if there is no room for it, nobody else is admitted.
    pub(super) overdue: bool,
}

/// The waiting sequences and the accounts of their owners.
#[derive(Clone, Debug, Default)]
pub(super) struct Queues {
    accounts: BTreeMap<Owner, Account>,
    owner_of: BTreeMap<SequenceId, Owner>,
    arrivals: u64,
}

impl Queues {
    /// Sequences that wait.
    pub(super) fn waiting(&self) -> u32 {
        u32::try_from(self.owner_of.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn contains(&self, id: SequenceId) -> bool {
        self.owner_of.contains_key(&id)
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &Submission> {
        self.accounts.values().flat_map(|account| account.waiting.iter().map(|waiting| &waiting.submission))
    }

    pub(super) fn push(&mut self, submission: Submission) {
        let least = self.least_served();
        let account = self.accounts.entry(submission.owner).or_default();
        if !account.is_active() {
            account.served = account.served.max(least);
        }
        if account.waiting.is_empty() {
            account.passed_over = 0;
        }
        self.arrivals += 1;
        self.owner_of.insert(submission.id, submission.owner);
        account.waiting.push_back(Waiting { arrival: self.arrivals, submission });
    }

    /// Takes a waiting sequence out of its queue, wherever in it.
    pub(super) fn remove(&mut self, id: SequenceId) -> bool {
        let Some(owner) = self.owner_of.remove(&id) else { return false };
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.waiting.retain(|waiting| waiting.submission.id != id);
        }
        self.forget_idle();
        true
    }

    /// The first sequence of each owner that `may` be admitted, who is next first.
    pub(super) fn candidates(&self, may: impl Fn(&Submission) -> bool) -> Vec<Candidate> {
        let mut found: Vec<_> = self
            .accounts
            .iter()
            .filter_map(|(owner, account)| {
                let place = account.waiting.iter().position(|waiting| may(&waiting.submission))?;
                let overdue = account.passed_over >= PASSED_OVER_MAX;
                let longest = if overdue { u32::MAX - account.passed_over } else { u32::MAX };
                let rank = (longest, account.served, account.waiting[place].arrival);
                Some((rank, Candidate { owner: *owner, place, overdue }))
            })
            .collect();
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// What `candidate` asks for.
    pub(super) fn submission(&self, candidate: Candidate) -> &Submission {
        &self.accounts[&candidate.owner].waiting[candidate.place].submission
    }

    /// `candidate` gets a slot and `fresh` tokens of its prompt will be run.
    pub(super) fn admit(&mut self, candidate: Candidate, fresh: u32) {
        for (owner, account) in &mut self.accounts {
            if *owner != candidate.owner && !account.waiting.is_empty() {
                account.passed_over = account.passed_over.saturating_add(1);
            }
        }
        let account = self.accounts.get_mut(&candidate.owner).expect("a candidate's owner waits");
        let waiting = account.waiting.remove(candidate.place).expect("a candidate waits");
        account.passed_over = 0;
        account.live += 1;
        account.served = account.served.saturating_add(u64::from(fresh));
        self.owner_of.remove(&waiting.submission.id);
    }

    /// A live sequence of `owner` is over.
    pub(super) fn ended(&mut self, owner: Owner) {
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.live = account.live.saturating_sub(1);
        }
        self.forget_idle();
    }

    /// `owner` was served one new token.
    pub(super) fn served(&mut self, owner: Owner) {
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.served = account.served.saturating_add(1);
        }
    }

    /// When `owner` last had a prefill step.
    pub(super) fn prefilled(&self, owner: Owner) -> u64 {
        self.accounts.get(&owner).map_or(0, |account| account.prefilled)
    }

    /// When `owner` last had a decode step.
    pub(super) fn decoded(&self, owner: Owner) -> u64 {
        self.accounts.get(&owner).map_or(0, |account| account.decoded)
    }

    pub(super) fn prefills(&mut self, owner: Owner, turn: u64) {
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.prefilled = turn;
        }
    }

    pub(super) fn decodes(&mut self, owner: Owner, turn: u64) {
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.decoded = turn;
        }
    }

    /// The least that any owner with something here was served; zero where there is none.
    fn least_served(&self) -> u64 {
        self.accounts.values().filter(|account| account.is_active()).map(|account| account.served).min().unwrap_or(0)
    }

    /// An owner without anything here is remembered only while it was served more than the least served one: what it
    /// would lose by coming back.
    fn forget_idle(&mut self) {
        let nobody = !self.accounts.values().any(Account::is_active);
        let least = self.least_served();
        self.accounts.retain(|_, account| account.is_active() || (!nobody && account.served > least));
    }
}
