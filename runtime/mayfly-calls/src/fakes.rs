//! What tests of the call path stand on: a ledger in memory, its money as leases, callers and deployments.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use mayfly_ledger::{
    AnswerScope, Append, CallRecord, Channel, Credit, Difference, Grant, Journal, JournalError, KeptAnswer, Kind,
    Lease, Leases, Position, Price, PriceBook, Repricing, Row, UsageQuery, UsageRow, Verification, period_start,
};
use mayfly_registry::{Deployment, HandlerRecord, Key, KeyScope, Project, Resolved, Revision, RevisionSpec, Tenant};
use mayfly_types::{
    DeploymentId, Digest, GuestLimits, KeyId, LevelId, LevelLimits, Meter, ModelId, Money, Period, ProjectId,
    RequestId, RevisionId, ScaleSpec, TenantId,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Context;

/// A ledger in memory that fails and waits when told to.
#[derive(Debug)]
pub(crate) struct Memory {
    rows: Mutex<Vec<Row>>,
    answers: Mutex<HashMap<AnswerScope, KeptAnswer>>,
    appends: AtomicUsize,
    /// These appends fail, counted from 0.
    failing: Range<usize>,
    /// Appends wait for a permit each.
    pub(crate) gate: Semaphore,
}

impl Memory {
    pub(crate) fn new(failing: Range<usize>, permits: usize) -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            answers: Mutex::default(),
            appends: AtomicUsize::new(0),
            failing,
            gate: Semaphore::new(permits),
        })
    }

    /// One that always works.
    pub(crate) fn working() -> Arc<Self> {
        Self::new(0..0, Semaphore::MAX_PERMITS)
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.rows.lock().unwrap().clone()
    }

    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.rows().iter().map(|row| row.kind).collect()
    }

    /// The rows that end calls.
    pub(crate) fn ends(&self) -> Vec<Row> {
        self.rows().into_iter().filter(|row| matches!(row.kind, Kind::Settle | Kind::Void)).collect()
    }

    /// Tokens of the newest row.
    pub(crate) fn billed(&self) -> i64 {
        self.rows().last().map_or(0, tokens)
    }

    /// What all ended calls owe.
    pub(crate) fn spent(&self) -> Money {
        let amounts = self.ends().into_iter().flat_map(|row| row.lines).filter_map(|line| line.amount);
        Money::from_pico(amounts.map(i128::from).sum())
    }
}

pub(crate) fn tokens(row: &Row) -> i64 {
    row.lines.iter().filter(|line| line.meter == Meter::OutputTokens).map(|line| line.quantity).sum()
}

#[async_trait]
impl Journal for Memory {
    async fn append(&self, append: Append) -> Result<Position, JournalError> {
        self.gate.acquire().await.unwrap().forget();
        if self.failing.contains(&self.appends.fetch_add(1, Ordering::SeqCst)) {
            return Err(JournalError::Failed { detail: "full".to_owned() });
        }
        let mut rows = self.rows.lock().unwrap();
        rows.extend(append.rows);
        if let Some(answer) = append.answer {
            self.answers.lock().unwrap().insert(answer.scope, answer);
        }
        Ok(Position(i64::try_from(rows.len()).unwrap()))
    }
    async fn answer(&self, scope: AnswerScope, oldest: i64) -> Result<Option<KeptAnswer>, JournalError> {
        let answers = self.answers.lock().unwrap();
        Ok(answers.get(&scope).filter(|answer| answer.at >= oldest).cloned())
    }
    async fn call(&self, _: Option<TenantId>, _: RequestId) -> Result<Option<CallRecord>, JournalError> {
        unreachable!("no call asks")
    }
    async fn usage(&self, _: &UsageQuery) -> Result<Vec<UsageRow>, JournalError> {
        unreachable!("no call asks")
    }
    async fn recover(&self, _: i64) -> Result<u64, JournalError> {
        unreachable!("no call asks")
    }
    async fn forget_answers(&self, _: i64, _: u64) -> Result<u64, JournalError> {
        unreachable!("no call asks")
    }
    async fn grant(&self, _: Grant) -> Result<Position, JournalError> {
        unreachable!("no call asks")
    }
    async fn credit(&self, _: LevelId) -> Result<Option<Credit>, JournalError> {
        unreachable!("no call asks")
    }
    async fn reprice(&self, _: &Repricing, _: bool) -> Result<Difference, JournalError> {
        unreachable!("no call asks")
    }
    async fn verify(&self) -> Result<Verification, JournalError> {
        unreachable!("no call asks")
    }
}

/// Money as the ledger in memory has it.
#[derive(Debug)]
pub(crate) struct MemoryLeases {
    pub(crate) journal: Arc<Memory>,
    /// Credit granted to every level that is asked for.
    pub(crate) granted: Mutex<Option<Money>>,
    /// Reads so far.
    pub(crate) reads: AtomicUsize,
    /// Reads wait for a permit each.
    pub(crate) gate: Semaphore,
    /// Reads fail.
    pub(crate) failing: bool,
}

impl MemoryLeases {
    pub(crate) fn of(journal: &Arc<Memory>) -> Arc<Self> {
        Arc::new(Self::gated(journal, Semaphore::MAX_PERMITS))
    }

    pub(crate) fn gated(journal: &Arc<Memory>, permits: usize) -> Self {
        Self {
            journal: journal.clone(),
            granted: Mutex::new(None),
            reads: AtomicUsize::new(0),
            gate: Semaphore::new(permits),
            failing: false,
        }
    }
}

#[async_trait]
impl Leases for MemoryLeases {
    async fn lease(&self, level: LevelId, limits: &LevelLimits, at: i64) -> Result<Lease, JournalError> {
        self.gate.acquire().await.unwrap().forget();
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.failing {
            return Err(JournalError::Failed { detail: "/secret/path".to_owned() });
        }
        let rows = self.journal.rows();
        let here = |row: &&Row| match level {
            LevelId::Tenant(id) => row.call.tenant == id,
            LevelId::Project(id) => row.call.project == id,
            LevelId::Deployment(id) => row.call.requested == id,
            LevelId::Key(id) => row.call.key == id,
        };
        let ends = rows.iter().filter(|row| row.kind == Kind::Settle).filter(here);
        let spent: i128 = ends.flat_map(|row| &row.lines).filter_map(|line| line.amount).map(i128::from).sum();
        let granted = *self.granted.lock().unwrap();
        Ok(Lease {
            position: Position(i64::try_from(rows.len()).unwrap()),
            period_start: period_start(limits.spend.map_or(Period::Month, |cap| cap.per), at),
            spent: Money::from_pico(spent),
            credit: granted.map(|granted| Money::from_pico(granted.pico() - spent)),
        })
    }
}

/// The model that every fake call works on.
pub(crate) fn model() -> ModelId {
    ModelId::from_bytes([1; 16])
}

/// An output token costs 0.001.
pub(crate) fn book() -> PriceBook {
    let price = Price {
        id: 1,
        tenant: None,
        model: None,
        pool: "shared".parse().unwrap(),
        meter: Meter::OutputTokens,
        pico_per_unit: 1_000_000_000,
        from: 0,
        until: None,
        created_at: 0,
    };
    PriceBook::new(vec![price])
}

/// The tenant, project and deployment of a fake call, with limits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub(crate) tenant: LevelLimits,
    pub(crate) project: LevelLimits,
    pub(crate) deployment: LevelLimits,
    pub(crate) key: LevelLimits,
    pub(crate) guest: GuestLimits,
    pub(crate) scale: ScaleSpec,
}

impl Place {
    /// A call to it. Two calls are of the same tenant, project, deployment and key.
    pub(crate) fn call(&self) -> Context {
        let (tenant, project) = (TenantId::from_bytes([2; 16]), ProjectId::from_bytes([3; 16]));
        let deployment = DeploymentId::from_bytes([1; 16]);
        let handler = HandlerRecord { digest: Digest::of(b"handler"), builtin: None };
        let spec = RevisionSpec {
            handler,
            models: Default::default(),
            config: Default::default(),
            limits: self.guest.clone(),
            filter: Default::default(),
            share_prefixes: false,
            scale: self.scale,
        };
        let resolved = Resolved {
            tenant: Tenant { id: tenant, name: "acme".parse().unwrap(), limits: self.tenant.clone(), created_at: 0 },
            project: Project {
                id: project,
                tenant,
                name: "shop".parse().unwrap(),
                limits: self.project.clone(),
                created_at: 0,
            },
            deployment: Deployment {
                id: deployment,
                project,
                name: "chat".parse().unwrap(),
                active: None,
                limits: self.deployment.clone(),
                created_at: 0,
            },
            revision: Revision { id: RevisionId::from_bytes([4; 16]), deployment, number: 1, spec, created_at: 0 },
            levels: [
                (LevelId::Tenant(tenant), Arc::new(self.tenant.clone())),
                (LevelId::Project(project), Arc::new(self.project.clone())),
                (LevelId::Deployment(deployment), Arc::new(self.deployment.clone())),
            ],
            limits: Arc::new(self.guest.clone()),
            grants: Arc::default(),
            price_names: Arc::new([(model(), "tiny".to_owned())].into()),
        };
        let key = Key {
            id: KeyId::from_bytes([5; 16]),
            tenant: Some(tenant),
            project: Some(project),
            label: String::new(),
            prefix: String::new(),
            hash: [0; 32],
            scopes: vec![KeyScope::Call],
            deployments: Vec::new(),
            slot: None,
            limits: Arc::new(self.key.clone()),
            created_at: 0,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        };
        Context {
            request_id: RequestId::new(),
            key: Arc::new(key),
            resolved: Arc::new(resolved),
            channel: Channel::Api,
            received: Instant::now(),
            cancel: CancellationToken::new(),
            trailers: false,
            end_user: None,
            idempotency: None,
            dry_run: false,
            cost_max: None,
            trace: None,
        }
    }
}
