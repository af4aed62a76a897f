//! The ledger without HTTP: how fast calls are held and settled, and what a large one costs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mayfly_ledger::{
    Account, Append, Call, Channel, CountedBy, GroupBy, Journal, Levels, Limits, NewPrice, Now, Outcome, PriceBook,
    Tariff, UsageQuery,
};
use mayfly_store::Store;
use mayfly_types::{
    DeploymentId, KeyId, LevelId, LevelLimits, Line, Meter, ModelId, ProjectId, RequestId, RevisionId, TenantId,
};
use tokio::sync::Notify;

use crate::Bench;
use crate::measure::Samples;
use crate::row::Row;

pub(crate) const SETTLE: &str = "hold_and_settle_per_second";
pub(crate) const ADDED_P50: &str = "limits_and_ledger_added_p50";
pub(crate) const ADDED_P99: &str = "limits_and_ledger_added_p99";
pub(crate) const MONTH: &str = "month_of_one_tenant";
pub(crate) const VERIFY: &str = "ledger_verify_per_second";
pub(crate) const BYTES: &str = "ledger_bytes_per_row";

const CALLERS: usize = 16;
/// Time between two calls of the `added` rows, whoever makes them: about as many as the server answers on sixteen
/// connections.
const BETWEEN: Duration = Duration::from_micros(160);

/// One tenant's way to one deployment, with prices and with limits at every level.
#[derive(Debug, Clone)]
struct Scene {
    tenant: TenantId,
    project: ProjectId,
    deployment: DeploymentId,
    revision: RevisionId,
    key: KeyId,
    model: ModelId,
    tariff: Tariff,
    levels: Levels,
}

impl Scene {
    /// `book` as the store has it: a walk over the ledger looks up each price.
    fn new(book: Arc<PriceBook>) -> anyhow::Result<Self> {
        let (tenant, project, deployment, key) = (TenantId::new(), ProjectId::new(), DeploymentId::new(), KeyId::new());
        let model = ModelId::new();
        let pool: mayfly_types::Name = "shared".parse()?;
        let models = Arc::new([(model, "minilm".to_owned())].into());
        // High enough never to refuse, so that what is measured is a call that passes.
        let limits = Arc::new(LevelLimits {
            concurrency: Some(1_000),
            requests_per_minute: Some(1_000_000_000),
            tokens_per_minute: Some(1_000_000_000_000),
            wakeups_per_minute: Some(1_000_000),
            ..LevelLimits::default()
        });
        let levels =
            [LevelId::Tenant(tenant), LevelId::Project(project), LevelId::Deployment(deployment), LevelId::Key(key)];
        Ok(Self {
            tenant,
            project,
            deployment,
            revision: RevisionId::new(),
            key,
            model,
            tariff: Tariff { book, tenant, pool, at: 1, models },
            levels: Levels(levels.map(|level| (level, Arc::clone(&limits)))),
        })
    }

    fn call(&self, opened_at: i64) -> Arc<Call> {
        let id = RequestId::new();
        Arc::new(Call {
            id,
            parent: None,
            root: id,
            attempt: 1,
            tenant: self.tenant,
            payer: self.tenant,
            project: self.project,
            requested: self.deployment,
            served: self.deployment,
            revision: self.revision,
            deployment_name: "embed".parse().expect("a name"),
            key: self.key,
            end_user: None,
            channel: Channel::Api,
            counted_by: CountedBy::Host,
            opened_at,
        })
    }

    /// The account of an ordinary call that has done its work.
    fn worked(&self, opened_at: i64) -> (Account, mayfly_types::HoldId) {
        let mut account = Account::new(self.call(opened_at), self.tariff.clone(), None);
        let line = |meter, model, quantity| Line { meter, model, quantity };
        let input = [line(Meter::InputTokens, Some(self.model), 8)];
        let hold = account.hold(&input).expect("nothing is in its way");
        account.charge(hold, &input);
        account
            .record(&[line(Meter::InferenceMicros, Some(self.model), 3_900), line(Meter::GuestCpuMicros, None, 450)]);
        (account, hold)
    }
}

/// Puts the one price into the store's book.
async fn price(store: &Store) -> anyhow::Result<Arc<PriceBook>> {
    let entry = NewPrice {
        tenant: None,
        model: None,
        pool: "shared".parse()?,
        meter: Meter::InputTokens,
        amount: "0.02".to_owned(),
        per: 1_000_000,
        currency: "USD".to_owned(),
        from: 0,
        until: None,
    };
    store.prices().fix_currency("USD").await?;
    store.prices().add_price(entry, wall()).await??;
    Ok(Arc::new(PriceBook::new(store.prices().prices().await?)))
}

fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Sixteen callers, each: enter at four levels, hold, charge, settle durably, leave.
pub(crate) fn settle(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (rate, latencies) = callers(if bench.quick { 3 } else { 10 }, None)?;
    Ok(vec![Row {
        name: SETTLE,
        ours: Some(rate),
        peer: None,
        unit: "/s",
        ratio: None,
        target: "at least 20,000 /s",
        pass: rate >= 20_000.0,
        note: format!(
            "{CALLERS} callers in a closed loop, four limits at four levels, each settled durably; of one call p50 {:.3} ms, p99 {:.3} ms",
            latencies.median_ms(),
            latencies.quantile_ms(0.99)
        ),
    }])
}

/// The same with calls that come one after the other, as on connections: what limits and ledger add to one.
pub(crate) fn added(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (rate, latencies) = callers(if bench.quick { 3 } else { 10 }, Some(BETWEEN))?;
    let row = |name, ours: f64, target, most: f64| Row {
        name,
        ours: Some(ours),
        peer: None,
        unit: "ms",
        ratio: None,
        target,
        pass: ours < most,
        note: format!("{CALLERS} callers in turn, evenly: {rate:.0} calls/s"),
    };
    Ok(vec![
        row(ADDED_P50, latencies.median_ms(), "under 0.1 ms", 0.1),
        row(ADDED_P99, latencies.quantile_ms(0.99), "under 1 ms", 1.0),
    ])
}

/// Calls per second of sixteen callers, and what each took.
fn callers(seconds: u64, between: Option<Duration>) -> anyhow::Result<(f64, Samples)> {
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let latencies = runtime.block_on(async {
        let store = Store::open(folder.path())?;
        let journal = store.journal();
        let scene = Scene::new(price(&store).await?)?;
        let limits = Arc::new(Mutex::new(Limits::default()));
        let begun = Instant::now();
        let over = Arc::new(AtomicBool::new(false));
        let turns: Vec<_> = (0..CALLERS).map(|_| Arc::new(Notify::new())).collect();
        let callers: Vec<_> = turns
            .iter()
            .map(|turn| {
                let (scene, journal, limits) = (scene.clone(), Arc::clone(&journal), Arc::clone(&limits));
                let (over, turn) = (Arc::clone(&over), Arc::clone(turn));
                tokio::spawn(async move {
                    let mut latencies = Samples::default();
                    while !over.load(Ordering::Relaxed) {
                        if between.is_some() {
                            turn.notified().await;
                        }
                        let began = Instant::now();
                        one_call(&scene, &*journal, &limits, begun).await?;
                        latencies.push(began.elapsed());
                    }
                    anyhow::Ok(latencies)
                })
            })
            .collect();
        match between {
            None => tokio::time::sleep(Duration::from_secs(seconds)).await,
            // A thread of its own: the runtime's timers come in whole milliseconds, and all callers with them.
            Some(between) => tokio::task::block_in_place(|| {
                for turn in turns.iter().cycle().take_while(|_| begun.elapsed() < Duration::from_secs(seconds)) {
                    turn.notify_one();
                    std::thread::sleep(between);
                }
            }),
        }
        over.store(true, Ordering::Relaxed);
        turns.iter().for_each(|turn| turn.notify_one());
        let mut all = Samples::default();
        for caller in callers {
            all.extend(caller.await??);
        }
        anyhow::Ok(all)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds' work")]
    let rate = latencies.len() as f64 / seconds as f64;
    Ok((rate, latencies))
}

async fn one_call(scene: &Scene, journal: &dyn Journal, limits: &Mutex<Limits>, begun: Instant) -> anyhow::Result<()> {
    let now = || Now { monotonic: u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), wall: wall() };
    let guard = || limits.lock().unwrap_or_else(PoisonError::into_inner);
    let entered = guard().enter(&scene.levels, false, now())?;
    let (mut account, hold) = scene.worked(wall());
    let held = account.exposure();
    guard().reserve(&scene.levels, &entered, held, now())?;
    account.release(hold);
    let row = account.end(wall(), 200, Outcome::Completed, "instance").expect("it ends once");
    let owed = account.usage();
    let position = journal.append(Append { rows: vec![row], answer: None }).await?;
    guard().leave(&scene.levels, entered, held, owed, Some(position), false, now());
    Ok(())
}

/// A large ledger: bytes of a row, a month's sums, a walk over all of it.
pub(crate) fn large(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    // Fewer rows in fewer hours: there would be more rollups than rows.
    let (rows, days): (u64, i64) = if bench.quick { (200_000, 1) } else { (10_000_000, 30) };
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(folder.path())?;
        let journal = store.journal();
        // Ten tenants with ten deployments each, over thirty days.
        let book = price(&store).await?;
        let scenes: Vec<Scene> = (0..100).map(|_| Scene::new(Arc::clone(&book))).collect::<anyhow::Result<_>>()?;
        let tenants: Vec<TenantId> = scenes.iter().step_by(10).map(|scene| scene.tenant).collect();
        let scenes: Vec<Scene> =
            scenes.into_iter().enumerate().map(|(n, scene)| Scene { tenant: tenants[n / 10], ..scene }).collect();
        let month = days * 24 * 3600 * 1_000_000_i64;
        let start = wall() - month;
        let step = month / i64::try_from(rows)?;
        let mut written = 0;
        while written < rows {
            let mut append = Append::default();
            for n in written..(written + 2_000).min(rows) {
                let scene = &scenes[usize::try_from(n * 7 % 100)?];
                let at = start + i64::try_from(n)? * step;
                let (mut account, _) = scene.worked(at);
                append.rows.extend(account.end(at + 5_000, 200, Outcome::Completed, "instance"));
            }
            written += u64::try_from(append.rows.len())?;
            journal.append(append).await?;
        }
        store.close().await;
        let bytes = std::fs::metadata(folder.path().join("mayfly.db"))?.len();
        drop(store);

        let store = Store::open(folder.path())?;
        let journal = store.journal();
        let query = UsageQuery { tenant: Some(tenants[3]), since: Some(start), ..UsageQuery::default() };
        let query = UsageQuery { group_by: vec![GroupBy::Deployment, GroupBy::Day], ..query };
        let mut sums = crate::measure::Samples::default();
        for _ in 0..5 {
            let began = Instant::now();
            let answer = journal.usage(&query).await?;
            anyhow::ensure!(!answer.is_empty(), "a month without sums");
            sums.push(began.elapsed());
        }
        let began = Instant::now();
        let report = journal.verify().await?;
        let took = began.elapsed().as_secs_f64();
        anyhow::ensure!(report.problems.is_empty() && report.rows == rows, "{report:?}");
        anyhow::Ok(large_rows(rows, days, bytes, sums.median_ms(), took))
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
fn large_rows(rows: u64, days: i64, bytes: u64, sums_ms: f64, verify_s: f64) -> Vec<Row> {
    let (per_row, rate) = (bytes as f64 / rows as f64, rows as f64 / verify_s);
    let row = |name, ours, unit, target, pass, note: String| Row {
        name,
        ours: Some(ours),
        peer: None,
        unit,
        ratio: None,
        target,
        pass,
        note,
    };
    // A small ledger says nothing of a large one's sums.
    let whole = rows >= 10_000_000;
    vec![
        row(
            MONTH,
            sums_ms,
            "ms",
            "under 1,000 ms at 10 million rows",
            whole && sums_ms < 1_000.0,
            format!(
                "p50 of 5, one of 10 tenants, by deployment and day, {rows} rows of {days} days{}",
                if whole { "" } else { "; too few rows to pass" }
            ),
        ),
        row(
            VERIFY,
            rate,
            "/s",
            "at least 500,000 rows/s",
            rate >= 500_000.0,
            format!("{rows} rows in {verify_s:.1} s"),
        ),
        row(
            BYTES,
            per_row,
            "B",
            "under 400 bytes",
            per_row < 400.0,
            format!("the whole file over {rows} rows of three lines each, indexes and rollups included"),
        ),
    ]
}
