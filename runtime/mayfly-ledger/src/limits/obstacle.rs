//! What can be in a call's way, in order, and in words.

use mayfly_types::{LevelId, Money, Refusal, RefusalKind, SpendCap};

/// Why one level has no room.
#[derive(Debug, Clone, Copy)]
pub(super) enum Obstacle {
    /// A bucket has no room for `requested` before `wait` nanoseconds have passed.
    Rate {
        name: &'static str,
        limit: u64,
        used: u64,
        requested: u64,
        wait: u64,
    },
    /// As many calls are open as may be.
    Concurrency {
        limit: u32,
        open: u32,
    },
    /// The ledger has not been asked yet.
    UnknownMoney,
    /// `requested` is none for a call that is only let in.
    Spend {
        cap: SpendCap,
        spent: Money,
        held: Money,
        requested: Option<Money>,
    },
    Credit {
        left: Option<Money>,
        held: Money,
        requested: Option<Money>,
    },
    /// More than an empty bucket holds.
    TooMany {
        name: &'static str,
        limit: u64,
        requested: u64,
    },
    /// More than a whole cap.
    TooDear {
        cap: SpendCap,
        requested: Money,
    },
}

impl Obstacle {
    /// Whether it is in the way for longer. What no wait moves comes first, so that nobody is told to wait in vain.
    pub(super) fn is_worse_than(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    const fn rank(&self) -> (u8, u64) {
        match self {
            Self::TooMany { .. } | Self::TooDear { .. } => (4, 0),
            Self::Spend { .. } | Self::Credit { .. } => (3, 0),
            Self::UnknownMoney => (2, 0),
            Self::Concurrency { .. } => (1, 0),
            Self::Rate { wait, .. } => (0, *wait),
        }
    }

    pub(super) fn refusal(self, level: LevelId) -> Refusal {
        let kind = match self {
            Self::Rate { .. } | Self::Concurrency { .. } | Self::UnknownMoney => RefusalKind::Rate,
            Self::Spend { .. } | Self::Credit { .. } => RefusalKind::Money,
            Self::TooMany { .. } | Self::TooDear { .. } => RefusalKind::NeverFits,
        };
        let retry_after_ms = match self {
            Self::Rate { wait, .. } => Some(wait.div_ceil(1_000_000)),
            _ => None,
        };
        Refusal { kind, message: format!("{} {}", level.kind(), self.text()), retry_after_ms }
    }

    /// The rest of a sentence that begins with the level.
    fn text(self) -> String {
        match self {
            Self::Rate { name, limit, used, requested, wait } => {
                let ms = wait.div_ceil(1_000_000);
                let (seconds, ms) = (ms / 1_000, ms % 1_000);
                format!("limit {name} = {limit}: {used} used, {requested} requested; retry in {seconds}.{ms:03} s")
            }
            Self::Concurrency { limit, open } => {
                format!("limit concurrency = {limit}: {open} used, 1 requested; retry when an open call has ended")
            }
            Self::UnknownMoney => "money is still being read from the ledger; retry".to_owned(),
            Self::Spend { cap, spent, held, requested } => {
                let SpendCap { amount, per } = cap;
                let requested = asked(requested);
                format!(
                    "limit spend = {amount} per {per}: {spent} spent, {held} held{requested}; wait for the next {per} \
                     or have the limit raised"
                )
            }
            Self::Credit { left: None, held: _, requested } => {
                format!("limit prepaid: no credit was granted{}; have credit granted", asked(requested))
            }
            Self::Credit { left: Some(left), held, requested } => {
                let requested = asked(requested);
                format!("limit prepaid: {left} of credit left, {held} of it held{requested}; have credit granted")
            }
            Self::TooMany { name, limit, requested } => {
                format!("limit {name} = {limit}: {requested} requested, which can never fit; ask for less at once")
            }
            Self::TooDear { cap: SpendCap { amount, per }, requested } => {
                format!(
                    "limit spend = {amount} per {per}: {requested} requested, which can never fit; ask for less at once"
                )
            }
        }
    }
}

fn asked(requested: Option<Money>) -> String {
    requested.map_or_else(String::new, |requested| format!(", {requested} requested"))
}
