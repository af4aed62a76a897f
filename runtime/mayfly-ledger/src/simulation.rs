//! Thousands of calls with every fault there is, through accounts, limits and a toy ledger. What is owed is counted a
//! second time beside them, by the prices as a person would read them off a list.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use mayfly_types::{
    DeploymentId, HoldId, KeyId, LevelId, LevelLimits, Line, Meter, ModelId, Money, Period, ProjectId, RequestId,
    RevisionId, SpendCap, TenantId,
};

use crate::random::Random;
use crate::{
    Account, Ask, Call, Channel, CountedBy, Entered, Kind, Lease, Levels, Limits, NewPrice, Now, Outcome, Position,
    Price, PriceBook, Row, Tariff,
};

const HOUR: i64 = 3_600_000_000;
/// Of an answer.
const FRAME_BYTES: usize = 64;
/// When prices change.
const NOON: i64 = 12 * HOUR;
/// Of each tenant, per hour.
const CAP: i128 = 800_000;

fn tenant(n: u8) -> TenantId {
    TenantId::from_bytes([n; 16])
}

/// What a person reads off the price list: tenant 1 pays less for output.
fn pico(tenant_: TenantId, meter: Meter, opened_at: i64) -> i128 {
    match meter {
        Meter::InputTokens => {
            if opened_at < NOON {
                20
            } else {
                25
            }
        }
        Meter::OutputTokens => {
            if tenant_ == tenant(1) {
                50
            } else {
                60
            }
        }
        _ => 0,
    }
}

fn book() -> PriceBook {
    let entry = |tenant, meter, amount: &str, from| NewPrice {
        tenant,
        model: None,
        pool: "shared".parse().unwrap(),
        meter,
        amount: amount.to_owned(),
        per: 1_000,
        currency: "USD".to_owned(),
        from,
        until: None,
    };
    let entries = [
        entry(None, Meter::InputTokens, "0.00000002", 0),
        entry(None, Meter::InputTokens, "0.000000025", NOON),
        entry(None, Meter::OutputTokens, "0.00000006", 0),
        entry(Some(tenant(1)), Meter::OutputTokens, "0.00000005", 0),
    ];
    let add = |book: PriceBook, entry: &NewPrice| {
        let id = 1 + i64::try_from(book.prices().len()).unwrap();
        PriceBook::new([book.prices(), &[Price { id, ..book.check(entry, "USD", 0).unwrap() }]].concat())
    };
    entries.iter().fold(PriceBook::default(), add)
}

/// Rows in their order; a row's position is how many there are with it.
#[derive(Default)]
struct Ledger(Vec<Row>);

impl Ledger {
    fn append(&mut self, rows: Vec<Row>) -> Position {
        self.0.extend(rows);
        self.end()
    }

    fn end(&self) -> Position {
        Position(i64::try_from(self.0.len()).unwrap())
    }

    fn spent(&self, tenant: TenantId, hour: i64) -> i128 {
        let rows = self.0.iter().filter(|row| row.kind == Kind::Settle && row.call.tenant == tenant);
        let lines = rows.filter(|row| row.call.opened_at / HOUR == hour).flat_map(|row| &row.lines);
        lines.filter_map(|line| line.amount).map(i128::from).sum()
    }

    /// Ends what is open, as the next start does.
    fn recover(&mut self, at: i64) {
        let mut open = BTreeMap::new();
        for row in &self.0 {
            match row.kind {
                Kind::Open | Kind::Progress => drop(open.insert(row.call.id, row.clone())),
                Kind::Settle | Kind::Void | Kind::Correct => drop(open.remove(&row.call.id)),
            }
        }
        let end = |row: Row| Row { kind: Kind::Settle, outcome: Some(Outcome::HostCrash), at, ..row };
        self.0.extend(open.into_values().map(end));
    }
}

struct Live {
    account: Account,
    entered: Entered,
    levels: Levels,
    /// What the limits have been told.
    reserved: Ask,
    holds: Vec<(HoldId, [Line; 2])>,
    /// Counted by itself: input and output tokens.
    input: u64,
    output: u64,
    /// The same, as of each frame that was made and has not left.
    made: VecDeque<(u64, u64)>,
    /// Bytes of the answer that left.
    left: u64,
    /// As of the last frame that left, none if none did.
    delivered: Option<(u64, u64)>,
}

struct World {
    limits: Limits,
    ledger: Ledger,
    book: Arc<PriceBook>,
    now: Now,
    live: Vec<Live>,
    calls: u128,
    /// What each call has to cost by the second count; none: it must have no row.
    expected: HashMap<RequestId, Option<i128>>,
    outcomes: HashMap<&'static str, u32>,
    refused: u32,
}

impl World {
    fn enter(&mut self, random: &mut Random) {
        let tenant = tenant(u8::try_from(1 + random.below(2)).unwrap());
        let n = tenant.to_bytes()[0];
        let spend = Some(SpendCap { amount: Money::from_pico(CAP), per: Period::Hour });
        let levels = Levels([
            (LevelId::Tenant(tenant), Arc::new(LevelLimits { spend, ..LevelLimits::default() })),
            (LevelId::Project(ProjectId::from_bytes([n; 16])), Arc::default()),
            (LevelId::Deployment(DeploymentId::from_bytes([n; 16])), Arc::default()),
            (
                LevelId::Key(KeyId::from_bytes([n; 16])),
                Arc::new(LevelLimits {
                    concurrency: Some(16),
                    tokens_per_minute: Some(200_000),
                    ..LevelLimits::default()
                }),
            ),
        ]);
        let hour = self.now.wall / HOUR;
        for level in self.limits.unknown(&levels, self.now) {
            let spent = Money::from_pico(self.ledger.spent(tenant, hour));
            let lease = Lease { position: self.ledger.end(), period_start: hour * HOUR, spent, credit: None };
            self.limits.load(level, &lease, self.now);
        }
        let Ok(entered) = self.limits.enter(&levels, false, self.now) else {
            self.refused += 1;
            return;
        };
        self.calls += 1;
        let id = RequestId::from_bytes(self.calls.to_be_bytes());
        let call = Call {
            id,
            parent: None,
            root: id,
            attempt: 1,
            tenant,
            payer: tenant,
            project: ProjectId::from_bytes([n; 16]),
            requested: DeploymentId::from_bytes([n; 16]),
            served: DeploymentId::from_bytes([n; 16]),
            revision: RevisionId::from_bytes([n; 16]),
            deployment_name: "chat".parse().unwrap(),
            key: KeyId::from_bytes([n; 16]),
            end_user: None,
            channel: Channel::Api,
            counted_by: CountedBy::Host,
            opened_at: self.now.wall,
        };
        let tariff = Tariff {
            book: self.book.clone(),
            tenant,
            pool: "shared".parse().unwrap(),
            at: self.now.wall,
            models: Arc::default(),
        };
        let cost_max = random
            .one_in(4)
            .then_some(crate::CostMax { amount: Money::from_pico(60_000), of: "key limit request_cost_max" });
        self.live.push(Live {
            account: Account::new(Arc::new(call), tariff, cost_max),
            entered,
            levels,
            reserved: Ask::default(),
            holds: Vec::new(),
            input: 0,
            made: VecDeque::new(),
            left: 0,
            output: 0,
            delivered: None,
        });
    }

    fn hold(&mut self, random: &mut Random) {
        let Some(nth) = random.place(self.live.len()) else { return };
        let live = &mut self.live[nth];
        let model = Some(ModelId::from_bytes([1; 16]));
        let line = |meter, quantity| Line { meter, model, quantity };
        let lines = [line(Meter::InputTokens, random.below(400)), line(Meter::OutputTokens, random.below(900))];
        let Ok(hold) = live.account.hold(&lines) else {
            self.refused += 1;
            return;
        };
        let exposure = live.account.exposure();
        let more = Ask {
            tokens: exposure.tokens - live.reserved.tokens,
            cost: exposure.cost.saturating_sub(live.reserved.cost),
        };
        if self.limits.reserve(&live.levels, &live.entered, more, self.now).is_ok() {
            live.reserved = exposure;
            live.holds.push((hold, lines));
        } else {
            live.account.release(hold);
            assert_eq!(live.account.exposure(), live.reserved, "a refused hold leaves nothing");
            self.refused += 1;
        }
    }

    /// Some of a hold is used, the rest goes back.
    fn work(&mut self, random: &mut Random) {
        let Some(nth) = random.place(self.live.len()) else { return };
        let live = &mut self.live[nth];
        let Some((hold, [input, output])) = live.holds.pop() else { return };
        let output = Line { quantity: random.below(output.quantity + 1), ..output };
        live.account.charge(hold, &[input, output]);
        live.account.release(hold);
        (live.input, live.output) = (live.input + input.quantity, live.output + output.quantity);
        let exposure = live.account.exposure();
        self.limits.correct(&live.levels, &live.entered, live.reserved, exposure, self.now);
        live.reserved = exposure;
    }

    fn frame(&mut self, random: &mut Random) {
        let Some(nth) = random.place(self.live.len()) else { return };
        let live = &mut self.live[nth];
        // The handler makes frames ahead of the one that leaves, and works on.
        if live.made.is_empty() || random.one_in(2) {
            live.account.answers(0, FRAME_BYTES);
            live.made.push_back((live.input, live.output));
            return;
        }
        live.left += u64::try_from(FRAME_BYTES).unwrap();
        let rows = live.account.before_frame(self.now.wall, 200, live.left);
        self.ledger.append(rows);
        live.delivered = live.made.pop_front();
    }

    fn end(&mut self, random: &mut Random) {
        let Some(nth) = random.place(self.live.len()) else { return };
        let outcomes = [
            Outcome::Completed,
            Outcome::Completed,
            Outcome::ClientLeft,
            Outcome::Deadline,
            Outcome::GuestFault,
            Outcome::Refused,
            Outcome::HostFault,
        ];
        let outcome = outcomes[random.place(outcomes.len()).unwrap()];
        let Live { mut account, entered, levels, reserved, input, output, .. } = self.live.swap_remove(nth);
        let row = account.end(self.now.wall, 200, outcome, "none").unwrap();
        assert_eq!(account.end(self.now.wall, 200, outcome, "none"), None);
        let owed = if outcome.is_owed() { account.usage() } else { Ask::default() };
        let position = self.ledger.append(vec![row]);
        self.limits.leave(&levels, entered, reserved, owed, Some(position), false, self.now);
        let cost = if outcome.is_owed() { price(account.call(), input, output) } else { 0 };
        self.expected.insert(account.call().id, Some(cost));
        *self.outcomes.entry(outcome.as_str()).or_default() += 1;
    }

    /// All memory is gone; what was not durable is not owed.
    fn crash(&mut self) {
        for live in std::mem::take(&mut self.live) {
            let cost = live.delivered.map(|(input, output)| price(live.account.call(), input, output));
            self.expected.insert(live.account.call().id, cost);
            *self.outcomes.entry("host_crash").or_default() += 1;
        }
        self.limits = Limits::default();
        self.ledger.recover(self.now.wall);
    }
}

fn price(call: &Call, input: u64, output: u64) -> i128 {
    pico(call.tenant, Meter::InputTokens, call.opened_at) * i128::from(input)
        + pico(call.tenant, Meter::OutputTokens, call.opened_at) * i128::from(output)
}

fn live(seed: u64) -> World {
    let mut random = Random(seed);
    let mut world = World {
        limits: Limits::default(),
        ledger: Ledger::default(),
        book: Arc::new(book()),
        now: Now { monotonic: 0, wall: NOON - 2 * HOUR },
        live: Vec::new(),
        calls: 0,
        expected: HashMap::new(),
        outcomes: HashMap::new(),
        refused: 0,
    };
    for step in 0..6_000u64 {
        match random.below(20) {
            0..4 => world.enter(&mut random),
            4..9 => world.hold(&mut random),
            9..14 => world.work(&mut random),
            14..16 => world.frame(&mut random),
            _ => world.end(&mut random),
        }
        world.now.monotonic += 1_000_000 * random.below(200);
        world.now.wall += i64::try_from(random.below(4_000_000)).unwrap();
        if random.one_in(700) {
            world.crash();
        }
        if step % 1_000 == 999 {
            // The clock is set back an hour.
            world.now.wall -= HOUR;
        }
    }
    while !world.live.is_empty() {
        world.end(&mut random);
    }
    world
}

/// Every call that opened has one ending; every ending costs what the second count says; sums are equal; no hour of any
/// tenant costs a pico more than its cap.
fn check(world: &World, seed: u64) {
    let mut endings: HashMap<RequestId, Vec<&Row>> = HashMap::new();
    for row in world.ledger.0.iter().filter(|row| matches!(row.kind, Kind::Settle | Kind::Void)) {
        endings.entry(row.call.id).or_default().push(row);
    }
    let mut total = 0;
    for (call, expected) in &world.expected {
        let ends = endings.remove(call).unwrap_or_default();
        assert_eq!(ends.len(), usize::from(expected.is_some()), "seed {seed}: {call} has one ending if it has a row");
        let billed: i128 = ends.iter().flat_map(|row| &row.lines).filter_map(|line| line.amount).map(i128::from).sum();
        assert_eq!(billed, expected.unwrap_or(0), "seed {seed}: {call} {ends:?}");
        total += billed;
    }
    assert!(endings.is_empty(), "seed {seed}: endings without a call");
    let hours = 0..=(world.ledger.0.iter().map(|row| row.call.opened_at / HOUR).max().unwrap_or(0));
    let spent = hours.flat_map(|hour| [1, 2].map(|n| world.ledger.spent(tenant(n), hour)));
    let sums: Vec<_> = spent.collect();
    assert_eq!(sums.iter().sum::<i128>(), total, "seed {seed}");
    assert!(sums.iter().all(|&sum| sum <= CAP), "seed {seed}: {sums:?}");
    assert!(sums.iter().any(|&sum| sum > CAP * 9 / 10), "seed {seed}: a cap was reached {sums:?}");
}

#[test]
fn a_day_of_faults_adds_up() {
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut calls, mut refused) = (0, 0);
    for seed in 0..12 {
        let world = live(seed);
        check(&world, seed);
        (calls, refused) = (calls + world.calls, refused + world.refused);
        for (outcome, count) in world.outcomes {
            *outcomes.entry(outcome).or_default() += count;
        }
    }
    assert_eq!(outcomes.len(), 7, "{outcomes:?}");
    assert!(calls > 5_000 && refused > 500 && outcomes["host_crash"] > 50, "{calls} {refused} {outcomes:?}");
}
