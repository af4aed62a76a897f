//! Limits of tenant, project, deployment and key, as calls meet them: one lock around the ledger's pure [`Limits`], a
//! clock, and the money of levels loaded from the ledger when it is limited.
//!
//! What a call takes is a [`Ticket`]: dropping it gives everything back.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use mayfly_ledger::{Ask, Entered, JournalError, Leases, Levels, Limits, Now, Position, Standing};
use mayfly_types::{LevelId, LevelLimits, Money, Refusal};

use crate::open::now;

/// How often a call loads money that was forgotten while it was loading, before it is turned away.
const LOADS_MAX: u32 = 8;

/// The limits of this node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    guarded: Mutex<Guarded>,
    leases: Arc<dyn Leases>,
    /// The zero of the clock that never goes back.
    started: Instant,
}

#[derive(Debug, Default)]
struct Guarded {
    limits: Limits,
    /// Money being read from the ledger: whoever needs the same level waits for the same read.
    loads: HashMap<LevelId, Load>,
}

type Load = Shared<BoxFuture<'static, Result<(), JournalError>>>;

/// Why a call was not let in. There is no row of it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Denied {
    /// A limit has no room.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What was spent could not be read.
    #[error("what was spent could not be read")]
    Ledger(#[from] JournalError),
    /// What was spent was not read in time.
    #[error("what was spent could not be read in time; retry in a moment")]
    Late,
}

impl Admission {
    pub(crate) fn new(leases: Arc<dyn Leases>) -> Self {
        let guarded = Mutex::default();
        Self(Arc::new(Inner { guarded, leases, started: Instant::now() }))
    }

    /// Lets a call in at all levels or at none. Waits only if the money of a level is limited and not known yet.
    ///
    /// # Errors
    /// [`Denied`]; nothing is taken.
    pub(crate) async fn enter(&self, levels: Levels, wakes: bool, deadline: Instant) -> Result<Ticket, Denied> {
        let counts_money = counts_money(&levels);
        for _ in 0..LOADS_MAX {
            let loads = {
                let mut guarded = self.0.lock();
                let now = self.0.now();
                let unknown = if counts_money { guarded.limits.unknown(&levels, now) } else { Vec::new() };
                if unknown.is_empty() {
                    let entered = guarded.limits.enter(&levels, wakes, now)?;
                    drop(guarded);
                    return Ok(Ticket {
                        admission: self.clone(),
                        levels,
                        entered: Some(entered),
                        opened_at: now.wall,
                        reserved: Ask::default(),
                        woke: wakes,
                    });
                }
                self.loads(&mut guarded, &levels, &unknown, now)
            };
            let loaded = tokio::time::timeout_at(deadline.into(), futures::future::join_all(loads)).await;
            loaded.map_err(|_elapsed| Denied::Late)?.into_iter().collect::<Result<(), _>>()?;
        }
        Err(Denied::Late)
    }

    /// Reads of the money of `unknown`, begun here if nobody has.
    fn loads(&self, guarded: &mut Guarded, levels: &Levels, unknown: &[LevelId], now: Now) -> Vec<Load> {
        let of = |level: &LevelId| levels.0.iter().find(|(id, _)| id == level).map(|(_, limits)| limits.clone());
        let wanted = unknown.iter().filter_map(|level| Some((*level, of(level)?)));
        wanted
            .map(|(level, limits)| {
                let begin = || self.load(level, limits, now.wall);
                guarded.loads.entry(level).or_insert_with(begin).clone()
            })
            .collect()
    }

    /// Reads one level's money. Whoever waits for it drives it; left by all, it goes on with the next who asks.
    fn load(&self, level: LevelId, limits: Arc<LevelLimits>, at: i64) -> Load {
        let (leases, inner) = (self.0.leases.clone(), Arc::downgrade(&self.0));
        let read = async move {
            let lease = AssertUnwindSafe(leases.lease(level, &limits, at)).catch_unwind().await;
            let detail = "reading what a level has spent panicked".to_owned();
            let lease = lease.unwrap_or(Err(JournalError::Failed { detail }));
            if let Some(inner) = inner.upgrade() {
                let mut guarded = inner.lock();
                // However it ended, the next who asks begins a new one.
                guarded.loads.remove(&level);
                if let Ok(lease) = &lease {
                    guarded.limits.load(level, lease, inner.now());
                }
            }
            lease.map(|_| ())
        };
        read.boxed().shared()
    }

    /// Credit was granted or prices were corrected: money is read again before the next call enters. A read that is
    /// on its way does not count for that; `Limits` knows.
    pub(crate) fn forget_money(&self) {
        self.0.lock().limits.forget_money();
    }

    /// Forgets levels at rest.
    pub(crate) fn sweep(&self) {
        let mut guarded = self.0.lock();
        let now = self.0.now();
        guarded.limits.sweep(now);
    }

    /// Calls open at one level.
    pub(crate) fn open_at(&self, level: LevelId) -> u32 {
        self.0.lock().limits.open(level)
    }

    /// How near the limits are that callers are told of; none if there are none.
    pub(crate) fn standing(&self, levels: &Levels) -> Option<Standing> {
        let told = |limits: &LevelLimits| limits.requests_per_minute.is_some() || limits.tokens_per_minute.is_some();
        if !levels.0.iter().any(|(_, limits)| told(limits)) {
            return None;
        }
        let guarded = self.0.lock();
        Some(guarded.limits.standing(levels, self.0.now()))
    }
}

/// Whether a level's money is limited.
fn counts_money(levels: &Levels) -> bool {
    levels.0.iter().any(|(_, limits)| limits.counts_money())
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let monotonic = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now { monotonic, wall: now() }
    }
}

/// What one call has taken of its levels' limits. Dropped without [`Ticket::leave`], nothing is owed.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Admission,
    levels: Levels,
    /// Taken out at the end.
    entered: Option<Entered>,
    /// The ledger's opening time too: both then mean the same period.
    opened_at: i64,
    reserved: Ask,
    /// Whether the call woke something; until that is known, whether it was let in as one that does.
    woke: bool,
}

impl Ticket {
    /// When the call was let in, microseconds since the Unix epoch.
    pub(crate) fn opened_at(&self) -> i64 {
        self.opened_at
    }

    /// Reserves what `to` is beyond what is reserved, at all levels or at none.
    pub(crate) fn reserve(&mut self, to: Ask) -> Result<(), Refusal> {
        let more = self.beyond(to);
        let Some(entered) = self.entered.as_ref().filter(|_| more != Ask::default()) else { return Ok(()) };
        let inner = &self.admission.0;
        let mut guarded = inner.lock();
        let now = inner.now();
        guarded.limits.reserve(&self.levels, entered, more, now)?;
        self.reserved = added(self.reserved, more);
        Ok(())
    }

    /// Whether `to` could be reserved now. Nothing is.
    pub(crate) fn probe(&self, to: Ask) -> Result<(), Refusal> {
        let more = self.beyond(to);
        let Some(entered) = &self.entered else { return Ok(()) };
        let inner = &self.admission.0;
        let mut guarded = inner.lock();
        let now = inner.now();
        guarded.limits.reserve(&self.levels, entered, more, now)?;
        guarded.limits.correct(&self.levels, entered, added(self.reserved, more), self.reserved, now);
        Ok(())
    }

    /// Replaces what is reserved by what it has come to.
    pub(crate) fn correct(&mut self, to: Ask) {
        let Some(entered) = self.entered.as_ref().filter(|_| to != self.reserved) else { return };
        let inner = &self.admission.0;
        let mut guarded = inner.lock();
        let now = inner.now();
        guarded.limits.correct(&self.levels, entered, self.reserved, to, now);
        drop(guarded);
        self.reserved = to;
    }

    /// Whether the call woke code or a model; said before it leaves.
    pub(crate) fn woke(&mut self, woke: bool) {
        self.woke = woke;
    }

    /// The call has ended and its row is durable at `at`.
    pub(crate) fn leave(mut self, owed: Ask, at: Position) {
        self.depart(owed, Some(at));
    }

    /// How near the limits are that callers are told of; none if there are none.
    pub(crate) fn standing(&self) -> Option<Standing> {
        self.admission.standing(&self.levels)
    }

    fn beyond(&self, to: Ask) -> Ask {
        let cost = to.cost.pico().saturating_sub(self.reserved.cost.pico()).max(0);
        Ask { tokens: to.tokens.saturating_sub(self.reserved.tokens), cost: Money::from_pico(cost) }
    }

    fn depart(&mut self, owed: Ask, at: Option<Position>) {
        let Some(entered) = self.entered.take() else { return };
        let inner = &self.admission.0;
        let mut guarded = inner.lock();
        let now = inner.now();
        guarded.limits.leave(&self.levels, entered, self.reserved, owed, at, self.woke, now);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.depart(Ask::default(), None);
    }
}

fn added(one: Ask, other: Ask) -> Ask {
    let cost = one.cost.pico().saturating_add(other.cost.pico());
    Ask { tokens: one.tokens.saturating_add(other.tokens), cost: Money::from_pico(cost) }
}
