//! Follows the store's changes and tells whether something read earlier still holds.
//!
//! Nothing is thrown out of the caches when a change arrives. Each cached value knows the version up to which it is
//! known to hold; who takes it out looks whether one of the few changes since then touches it. So a load that was
//! under way while its record changed can never leave a stale value behind.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::REVOCATION_BOUND_MS;
use crate::{Change, ChangeKind, Records, RecordsError, Tools};

/// Changes remembered. A value not looked at for longer is simply read again.
const CHANGES_KEPT_MAX: usize = 4_096;
/// Changes asked for at once.
const CHANGES_READ: u32 = 1_000;

#[derive(Debug)]
pub(super) struct Follower {
    records: Arc<dyn Records>,
    /// Told of each change of a deployment.
    tools: Arc<dyn Tools>,
    started: Instant,
    /// When the last successful question began, in milliseconds since `started`.
    asked_ms: AtomicU64,
    /// The same as in the log, readable without its lock.
    version: AtomicI64,
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    /// The newest change that is known.
    version: i64,
    /// Changes up to this one are forgotten.
    floor: i64,
    /// All known ones after `floor`, oldest first.
    changes: VecDeque<Change>,
}

impl Follower {
    pub(super) async fn start(records: Arc<dyn Records>, tools: Arc<dyn Tools>) -> Result<Self, RecordsError> {
        let version = records.version().await?;
        Ok(Self {
            records,
            tools,
            started: Instant::now(),
            asked_ms: AtomicU64::new(0),
            version: AtomicI64::new(version),
            log: Mutex::new(Log { version, floor: version, changes: VecDeque::new() }),
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Everything the store said up to this version is known here.
    pub(super) fn version(&self) -> i64 {
        self.version.load(Ordering::Acquire)
    }

    /// Asks the store what changed.
    pub(super) async fn refresh(&self) -> Result<(), RecordsError> {
        let began = self.now_ms();
        loop {
            let changes = self.records.changes_since(self.version(), CHANGES_READ).await?;
            let complete = changes.len() < CHANGES_READ as usize;
            self.learn(changes);
            if complete {
                break;
            }
        }
        self.asked_ms.fetch_max(began, Ordering::AcqRel);
        Ok(())
    }

    fn learn(&self, changes: Vec<Change>) {
        let mut deployments = Vec::new();
        let mut log = self.log();
        for change in changes {
            // Two refreshes may overlap: what one has learnt the other passes over.
            if change.version > log.version {
                log.version = change.version;
                if let ChangeKind::Deployment(id) = change.kind {
                    deployments.push(id);
                }
                log.changes.push_back(change);
            }
        }
        while log.changes.len() > CHANGES_KEPT_MAX {
            if let Some(oldest) = log.changes.pop_front() {
                log.floor = oldest.version;
            }
        }
        self.version.store(log.version, Ordering::Release);
        drop(log);
        for deployment in deployments {
            self.tools.changed(deployment);
        }
    }

    /// Asks the store if the last answer is older than the bound: the task that asks may have been held up.
    pub(super) async fn ensure_recent(&self) -> Result<(), RecordsError> {
        let age = self.now_ms().saturating_sub(self.asked_ms.load(Ordering::Acquire));
        if Duration::from_millis(age) < Duration::from_millis(REVOCATION_BOUND_MS) {
            return Ok(());
        }
        self.refresh().await
    }

    /// If nothing after `seen` touches a value, the version up to which it holds now.
    pub(super) fn still_holds(&self, seen: i64, touched_by: impl Fn(&ChangeKind) -> bool) -> Option<i64> {
        if seen >= self.version() {
            return Some(seen);
        }
        let log = self.log();
        let known = seen >= log.floor;
        let touched =
            || log.changes.iter().rev().take_while(|change| change.version > seen).any(|c| touched_by(&c.kind));
        (known && !touched()).then_some(log.version)
    }
}
