#![expect(clippy::unwrap_used, reason = "tests")]

use mayfly_types::{DeploymentId, KeyId, Period, ProjectId, RefusalKind, SpendCap, TenantId};

use super::*;

mod model;
mod money;
mod rates;

const SECOND: u64 = 1_000_000_000;
const HOUR: i64 = 3_600_000_000;

pub(crate) fn ids(n: u8) -> [LevelId; 4] {
    [
        LevelId::Tenant(TenantId::from_bytes([n; 16])),
        LevelId::Project(ProjectId::from_bytes([n; 16])),
        LevelId::Deployment(DeploymentId::from_bytes([n; 16])),
        LevelId::Key(KeyId::from_bytes([n; 16])),
    ]
}

/// From tenant to key.
fn levels(limits: [LevelLimits; 4]) -> Levels {
    let mut limits = limits.into_iter();
    Levels(ids(1).map(|id| (id, Arc::new(limits.next().unwrap()))))
}

fn tenant_only(limits: LevelLimits) -> Levels {
    levels([limits, LevelLimits::default(), LevelLimits::default(), LevelLimits::default()])
}

fn tenant() -> LevelId {
    ids(1)[0]
}

/// Both clocks, from the same zero.
fn at(monotonic: u64) -> Now {
    Now { monotonic, wall: i64::try_from(monotonic / 1_000).unwrap() }
}

fn tokens(tokens: u64) -> Ask {
    Ask { tokens, cost: Money::ZERO }
}

fn pico(pico: i128) -> Ask {
    Ask { tokens: 0, cost: Money::from_pico(pico) }
}

fn nothing() -> Ask {
    Ask::default()
}

fn cap(amount: i128, per: Period) -> LevelLimits {
    LevelLimits { spend: Some(SpendCap { amount: Money::from_pico(amount), per }), ..LevelLimits::default() }
}

fn lease(position: i64, period_start: i64, spent: i128) -> Lease {
    Lease { position: Position(position), period_start, spent: Money::from_pico(spent), credit: None }
}

fn check_refusal(refusal: &Refusal, kind: RefusalKind, retry_after_ms: Option<u64>, message: &str) {
    assert_eq!((refusal.kind, refusal.retry_after_ms, refusal.message.as_str()), (kind, retry_after_ms, message));
}
