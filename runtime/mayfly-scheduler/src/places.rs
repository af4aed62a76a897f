//! Places for calls: which run, which wait in their deployment's line, which are refused at once.
//!
//! Pure: whoever owns [`Places`] guards it with a lock, tells it who arrives and who leaves at which time, and does what
//! [`Places::verdicts`] says. A deployment's line moves in the order of arrival, and only with its own calls: one that is
//! at its limit keeps nobody else waiting. On a node that fills up, whoever holds most is refused first.

mod line;
mod share;

use std::collections::HashMap;

use mayfly_types::{DeploymentId, TenantId};
use slab::Slab;

use self::line::Line;
pub use self::line::Pace;

/// What the node allows, whatever a deployment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Calls open at once, those that wait included.
    pub calls_max: u32,
    /// Calls of one deployment that run at once.
    pub running_per_deployment_max: u32,
    /// Calls of one deployment that wait at once.
    pub waiting_per_deployment_max: u32,
}

/// A call that wants a place.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Who pays.
    pub tenant: TenantId,
    /// Whose place.
    pub deployment: DeploymentId,
    /// Calls that its revision lets run at once; none: as many as the node allows, and none waits.
    pub running_max: Option<u32>,
    /// Calls that its revision lets wait; none: as many as may run.
    pub waiting_max: Option<u32>,
    /// It is of no use to anybody from then on, nanoseconds.
    pub deadline: u64,
}

/// A call that was let in, until [`Places::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallNumber(usize);

/// How a call was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It runs.
    Runs(CallNumber),
    /// It waits until a [`Verdict`] names it, or until it leaves.
    Waits(CallNumber),
}

/// What became of a call that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has a place.
    Start(CallNumber),
    /// It was its turn, but its deadline has passed. It has to leave.
    Expire(CallNumber),
}

/// Why a call was refused at once. Nothing is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The node has no place left.
    NodeFull {
        /// The limit.
        calls_max: u32,
    },
    /// The node has few places left, and this tenant or deployment holds its share of them already.
    Share {
        /// Calls that it holds.
        open: u32,
        /// Calls that the node allows.
        calls_max: u32,
    },
    /// As many calls of the deployment run and wait as may.
    LineFull {
        /// How many run at most.
        running_max: u32,
        /// How many wait at most.
        waiting_max: u32,
        /// In how many nanoseconds those that wait now will have begun, as far as that is known.
        estimate: Option<u64>,
    },
    /// Its deadline would pass before its turn.
    TooLate {
        /// How long it would have to wait, nanoseconds; an estimate.
        wait: u64,
    },
}

/// One open call.
#[derive(Debug)]
struct Open {
    tenant: TenantId,
    deployment: DeploymentId,
    deadline: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Since then, nanoseconds.
    Runs(u64),
    Waits,
    Expired,
}

/// All places of a node. Deployments and tenants without open calls take no memory.
#[derive(Debug)]
pub struct Places {
    bounds: Bounds,
    calls: Slab<Open>,
    lines: HashMap<DeploymentId, Line>,
    /// Open calls by tenant.
    tenants: HashMap<TenantId, u32>,
    verdicts: Vec<Verdict>,
    waiting: u32,
}

impl Places {
    /// Without calls.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            calls: Slab::new(),
            lines: HashMap::new(),
            tenants: HashMap::new(),
            verdicts: Vec::new(),
            waiting: 0,
        }
    }

    /// Gives a call a place, puts it at the end of its deployment's line, or refuses it. The limits of `wish` replace
    /// those that its deployment had.
    ///
    /// # Errors
    /// [`Refused`]; nothing is taken.
    pub fn arrive(&mut self, wish: &Wish, now: u64) -> Result<Entered, Refused> {
        self.let_on_node(wish)?;
        self.lines.entry(wish.deployment).or_default().limit(wish, &self.bounds);
        // A revision with more places than the last one lets those who wait begin first.
        self.advance(wish.deployment, now);
        let line = self.lines.entry(wish.deployment).or_default();
        let runs = line.has_place();
        if let Some(refused) = line.refusal(wish.deadline.saturating_sub(now)).filter(|_| !runs) {
            self.forget_if_idle(wish.deployment);
            return Err(refused);
        }
        let state = if runs { State::Runs(now) } else { State::Waits };
        let Wish { tenant, deployment, deadline, .. } = *wish;
        let number = CallNumber(self.calls.insert(Open { tenant, deployment, deadline, state }));
        *self.tenants.entry(tenant).or_default() += 1;
        if runs {
            line.running += 1;
            Ok(Entered::Runs(number))
        } else {
            line.waiting.push_back(number);
            self.waiting += 1;
            Ok(Entered::Waits(number))
        }
    }

    /// A call has ended, or whoever waited for its place has gone. Each number leaves once.
    pub fn leave(&mut self, number: CallNumber, now: u64) {
        let Some(Open { tenant, deployment, state, .. }) = self.calls.try_remove(number.0) else { return };
        if let Some(open) = self.tenants.get_mut(&tenant) {
            *open -= 1;
            if *open == 0 {
                self.tenants.remove(&tenant);
            }
        }
        if let Some(line) = self.lines.get_mut(&deployment) {
            match state {
                State::Runs(since) => {
                    line.running -= 1;
                    line.pace.took(now.saturating_sub(since));
                }
                State::Waits => {
                    line.waiting.retain(|waits| *waits != number);
                    self.waiting -= 1;
                }
                State::Expired => line.expired -= 1,
            }
        }
        self.advance(deployment, now);
        self.forget_if_idle(deployment);
    }

    /// What became of those who waited, since this was last asked. To be asked after each arrival and each leaving.
    pub fn verdicts(&mut self) -> impl Iterator<Item = Verdict> + '_ {
        self.verdicts.drain(..)
    }

    /// Open calls, those that wait included.
    pub fn open(&self) -> u32 {
        u32::try_from(self.calls.len()).unwrap_or(u32::MAX)
    }

    /// Calls that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Whether nothing is in memory.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.lines.is_empty() && self.tenants.is_empty()
    }

    fn let_on_node(&self, wish: &Wish) -> Result<(), Refused> {
        let (open, calls_max) = (self.open(), self.bounds.calls_max);
        let free = calls_max.saturating_sub(open);
        if free == 0 {
            return Err(Refused::NodeFull { calls_max });
        }
        let of_tenant = self.tenants.get(&wish.tenant).copied().unwrap_or(0);
        let of_deployment = self.lines.get(&wish.deployment).map_or(0, Line::open);
        for (open, share) in [(of_tenant, share::TENANT), (of_deployment, share::DEPLOYMENT)] {
            if !share::has_room(open, free, share) {
                return Err(Refused::Share { open, calls_max });
            }
        }
        Ok(())
    }

    /// Gives free places of a line to those first in it; who is too late gets none.
    fn advance(&mut self, deployment: DeploymentId, now: u64) {
        let Some(line) = self.lines.get_mut(&deployment) else { return };
        while line.running < line.running_max
            && let Some(number) = line.waiting.pop_front()
        {
            self.waiting -= 1;
            let call = &mut self.calls[number.0];
            if call.deadline > now {
                call.state = State::Runs(now);
                line.running += 1;
                self.verdicts.push(Verdict::Start(number));
            } else {
                call.state = State::Expired;
                line.expired += 1;
                self.verdicts.push(Verdict::Expire(number));
            }
        }
    }

    fn forget_if_idle(&mut self, deployment: DeploymentId) {
        if self.lines.get(&deployment).is_some_and(|line| line.open() == 0) {
            self.lines.remove(&deployment);
            if self.lines.len() < self.lines.capacity() / 4 {
                self.lines.shrink_to_fit();
                self.tenants.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests;
