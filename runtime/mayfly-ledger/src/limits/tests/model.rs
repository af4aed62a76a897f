//! Random lives against a model that keeps no sums: it recounts everything from the calls that are open, a list of what
//! went into each bucket, and a toy ledger.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::{period_start, random::Random};

/// Everything that went in and out, each with its time and the limit that was in force until then.
#[derive(Debug)]
struct NaiveBucket {
    id: u64,
    limit: u64,
    events: Vec<(u64, u64, i128)>,
}

const MINUTE: i128 = 60_000_000_000;

impl NaiveBucket {
    fn level(&self, now: u64) -> i128 {
        let (mut level, mut last) = (0, 0);
        for &(at, limit, change) in self.events.iter().chain(&[(now, self.limit, 0)]) {
            level = (level - i128::from(limit) * i128::from(at - last)).max(0);
            level = (level + change * MINUTE).max(0);
            last = at;
        }
        level
    }

    fn remaining(&self, now: u64) -> u64 {
        u64::try_from((i128::from(self.limit) * MINUTE - self.level(now)).max(0) / MINUTE).unwrap()
    }

    fn fits(&self, quantity: u64, now: u64) -> bool {
        self.level(now) + i128::from(quantity) * MINUTE <= i128::from(self.limit) * MINUTE
    }

    fn put(&mut self, quantity: i128, now: u64) {
        self.events.push((now, self.limit, quantity));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Requests,
    Tokens,
    Wakeups,
}

struct Call {
    entered: Entered,
    levels: Levels,
    opened_at: i64,
    reserved: Ask,
    woke: bool,
    /// Tokens by the bucket they went into.
    tokens: HashMap<u64, u64>,
    /// Wake-ups likewise.
    wakeups: Vec<u64>,
    /// Its row in the ledger, once it is durable.
    row: Option<Position>,
}

impl Call {
    fn is_at(&self, level: LevelId) -> bool {
        self.levels.0.iter().any(|(id, _)| *id == level)
    }
}

struct Row {
    levels: [LevelId; 4],
    opened_at: i64,
    cost: i128,
    /// Whether the limits have been told.
    told: bool,
}

#[derive(Default)]
struct World {
    limits: Limits,
    now: Now,
    current: BTreeMap<LevelId, Arc<LevelLimits>>,
    /// As they were last brought.
    installed: HashMap<LevelId, Arc<LevelLimits>>,
    buckets: HashMap<(LevelId, Kind), NaiveBucket>,
    buckets_made: u64,
    calls: Vec<Call>,
    ledger: Vec<Row>,
    /// Answers of the ledger that are on their way.
    leases: Vec<(LevelId, Lease)>,
    /// How often money was forgotten, and as of when it is known again.
    forgotten: u64,
    known: HashMap<(LevelId, i64), u64>,
    refusals: u64,
    admissions: u64,
}

impl Default for Now {
    fn default() -> Self {
        Self { monotonic: 0, wall: 5 * HOUR }
    }
}

/// What one level says to an amount: it must fit, must not, or may do either because a row is durable and its call has
/// not left yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fits,
    Refused,
    Either,
}

impl World {
    fn levels(&self, random: &mut Random) -> Levels {
        let tenant = u8::try_from(random.below(2)).unwrap();
        let of = |nth: usize, n: u8| ids(n)[nth];
        let key = u8::try_from(random.below(2)).unwrap();
        let ids = [of(0, tenant), of(1, tenant), of(2, 2 * tenant + key), of(3, 2 * tenant + key)];
        Levels(ids.map(|id| (id, self.current.get(&id).cloned().unwrap_or_default())))
    }

    fn change_limits(&mut self, random: &mut Random) {
        let levels = self.levels(random);
        let (id, _) = levels.0[usize::try_from(random.below(4)).unwrap()];
        let amount = Money::from_pico(i128::from(50 + random.below(2_000)));
        let per = if random.one_in(4) { Period::Day } else { Period::Hour };
        let limits = LevelLimits {
            concurrency: some(random, 4, 6).map(|limit| u32::try_from(limit).unwrap()),
            requests_per_minute: some(random, 3, 60),
            tokens_per_minute: some(random, 2, 2_000),
            wakeups_per_minute: some(random, 4, 20),
            spend: random.one_in(2).then_some(SpendCap { amount, per }),
            prepaid: false,
            request_cost_max: None,
        };
        self.current.insert(id, Arc::new(limits));
    }

    fn install(&mut self, id: LevelId, limits: &Arc<LevelLimits>) {
        let before = self.installed.insert(id, limits.clone()).unwrap_or_default();
        if before.spend.map(|cap| cap.per) != limits.spend.map(|cap| cap.per) {
            self.known.retain(|(known, _), _| *known != id);
        }
        let all = [
            (Kind::Requests, limits.requests_per_minute),
            (Kind::Tokens, limits.tokens_per_minute),
            (Kind::Wakeups, limits.wakeups_per_minute),
        ];
        for (kind, limit) in all {
            let Some(limit) = limit else {
                self.buckets.remove(&(id, kind));
                continue;
            };
            self.buckets_made += 1;
            let new = || NaiveBucket { id: self.buckets_made, limit, events: vec![(self.now.monotonic, limit, 0)] };
            let bucket = self.buckets.entry((id, kind)).or_insert_with(new);
            bucket.put(0, self.now.monotonic);
            bucket.limit = limit;
        }
    }

    /// Does as the caller of an admission does: asks what is unknown. The ledger reads at some time after.
    fn ask(&mut self, levels: &Levels) {
        let unknown = self.limits.unknown(levels, self.now);
        for (id, limits) in levels.0.clone().into_iter().filter(|(_, limits)| limits.counts_money()) {
            self.install(id, &limits);
            let start = self.start(id, self.now.wall);
            if unknown.contains(&id) {
                self.known.remove(&(id, start));
                // One answer at a time for each level, as the caller of an admission has it.
                if self.leases.iter().all(|(waiting, _)| *waiting != id) {
                    self.leases.push((id, self.read(id, start)));
                }
            } else {
                self.known.insert((id, start), self.forgotten);
            }
        }
    }

    fn start(&self, id: LevelId, at: i64) -> i64 {
        let per = self.installed.get(&id).and_then(|limits| limits.spend).map_or(Period::Month, |cap| cap.per);
        period_start(per, at)
    }

    fn read(&self, id: LevelId, start: i64) -> Lease {
        let spent = self.spent(id, start, |_| true);
        let position = Position(i64::try_from(self.ledger.len()).unwrap());
        Lease { position, period_start: start, spent: Money::from_pico(spent), credit: None }
    }

    fn spent(&self, id: LevelId, start: i64, counts: impl Fn(&Row) -> bool) -> i128 {
        let of = |row: &&Row| row.levels.contains(&id) && self.start(id, row.opened_at) == start && counts(row);
        self.ledger.iter().filter(of).map(|row| row.cost).sum()
    }

    fn money(&self, id: LevelId, more: i128, opened_at: i64) -> Verdict {
        let Some(cap) = self.installed.get(&id).and_then(|limits| limits.spend) else { return Verdict::Fits };
        if more == 0 {
            return Verdict::Fits;
        }
        let start = self.start(id, opened_at);
        let of = |call: &&Call| call.is_at(id) && self.start(id, call.opened_at) == start;
        let held: i128 = self.calls.iter().filter(of).map(|call| call.reserved.cost.pico()).sum();
        let fits = |spent: i128| spent + held + more <= cap.amount.pico();
        if self.known.get(&(id, start)) != Some(&self.forgotten) {
            return Verdict::Either;
        }
        match (fits(self.spent(id, start, |_| true)), fits(self.spent(id, start, |row| row.told))) {
            (true, _) => Verdict::Fits,
            (false, true) => Verdict::Either,
            (false, false) => Verdict::Refused,
        }
    }

    fn rate(&self, id: LevelId, kind: Kind, quantity: u64) -> bool {
        let bucket = self.buckets.get(&(id, kind));
        quantity == 0 || bucket.is_none_or(|bucket| bucket.fits(quantity, self.now.monotonic))
    }

    fn check(&mut self, verdicts: &[Verdict], refusal: Option<&Refusal>, seed: u64) {
        let admitted = refusal.is_none();
        *if admitted { &mut self.admissions } else { &mut self.refusals } += 1;
        let expect = if verdicts.contains(&Verdict::Refused) {
            Verdict::Refused
        } else if verdicts.contains(&Verdict::Either) {
            return;
        } else {
            Verdict::Fits
        };
        assert_eq!(admitted, expect == Verdict::Fits, "seed {seed}: {verdicts:?} {refusal:?}");
    }

    fn enter(&mut self, random: &mut Random, seed: u64) {
        let levels = self.levels(random);
        let wakes = random.one_in(3);
        self.ask(&levels);
        if random.one_in(2) {
            self.deliver_all();
            self.ask(&levels);
        }
        levels.0.clone().iter().for_each(|(id, limits)| self.install(*id, limits));
        let verdicts = self.door(&levels, wakes);
        let mut entered = self.limits.enter(&levels, wakes, self.now);
        self.check(&verdicts, entered.as_ref().err(), seed);
        if let Err(Refusal { kind: RefusalKind::Rate, retry_after_ms: Some(wait), .. }) = entered
            && random.one_in(2)
        {
            self.now.monotonic += wait * 1_000_000;
            entered = self.limits.enter(&levels, wakes, self.now);
            assert!(entered.is_ok(), "seed {seed}: a lone retry after {wait} ms: {entered:?}");
        }
        let Ok(entered) = entered else { return };
        let mut wakeups = Vec::new();
        for (id, _) in &levels.0 {
            for (kind, quantity) in [(Kind::Requests, 1), (Kind::Wakeups, i128::from(wakes))] {
                if let Some(bucket) = self.buckets.get_mut(&(*id, kind)) {
                    bucket.put(quantity, self.now.monotonic);
                    wakeups.extend((kind == Kind::Wakeups && wakes).then_some(bucket.id));
                }
            }
        }
        let (opened_at, reserved) = (self.now.wall, nothing());
        self.calls.push(Call {
            entered,
            levels,
            opened_at,
            reserved,
            woke: wakes,
            tokens: HashMap::new(),
            wakeups,
            row: None,
        });
    }

    fn door(&self, levels: &Levels, wakes: bool) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for (id, limits) in &levels.0 {
            let open = self.calls.iter().filter(|call| call.is_at(*id)).count();
            let fits = limits.concurrency.is_none_or(|limit| open < usize::try_from(limit).unwrap())
                && self.rate(*id, Kind::Requests, 1)
                && self.rate(*id, Kind::Wakeups, u64::from(wakes));
            verdicts.push(if fits { Verdict::Fits } else { Verdict::Refused });
            verdicts.push(self.money(*id, 1, self.now.wall));
        }
        verdicts
    }

    fn reserve(&mut self, random: &mut Random, seed: u64) {
        let Some(nth) = self.pick(random) else { return };
        let more = Ask { tokens: random.below(400), cost: Money::from_pico(i128::from(random.below(300))) };
        if self.calls[nth].row.is_some() {
            return;
        }
        let mut verdicts = Vec::new();
        for (id, _) in &self.calls[nth].levels.0 {
            let fits = self.rate(*id, Kind::Tokens, more.tokens);
            verdicts.push(if fits { Verdict::Fits } else { Verdict::Refused });
            verdicts.push(self.money(*id, more.cost.pico(), self.calls[nth].opened_at));
        }
        let call = &self.calls[nth];
        let reserved = self.limits.reserve(&call.levels, &call.entered, more, self.now);
        self.check(&verdicts, reserved.as_ref().err(), seed);
        if reserved.is_ok() {
            let to = Ask {
                tokens: self.calls[nth].reserved.tokens + more.tokens,
                cost: self.calls[nth].reserved.cost.saturating_add(more.cost),
            };
            self.shift(nth, to);
        }
    }

    /// The tokens of a call become those of `to`: into the buckets of now, or back out of those they went into.
    fn shift(&mut self, nth: usize, to: Ask) {
        let call = &mut self.calls[nth];
        for (id, _) in &call.levels.0 {
            let Some(bucket) = self.buckets.get_mut(&(*id, Kind::Tokens)) else { continue };
            let mine = call.tokens.entry(bucket.id).or_default();
            let more = to.tokens.saturating_sub(call.reserved.tokens);
            let back = call.reserved.tokens.saturating_sub(to.tokens).min(*mine);
            *mine = *mine + more - back;
            bucket.put(i128::from(more) - i128::from(back), self.now.monotonic);
        }
        call.reserved = to;
    }

    fn correct(&mut self, random: &mut Random) {
        let Some(nth) = self.pick(random) else { return };
        let from = self.calls[nth].reserved;
        if self.calls[nth].row.is_some() {
            return;
        }
        // Mostly less than was reserved, sometimes more.
        let to = Ask {
            tokens: random.below(from.tokens + 1 + from.tokens / 8),
            cost: Money::from_pico(i128::from(random.below(u64::try_from(from.cost.pico()).unwrap() + 1))),
        };
        let call = &self.calls[nth];
        self.limits.correct(&call.levels, &call.entered, from, to, self.now);
        self.shift(nth, to);
    }

    /// First the row, then the leaving; what comes between is up to chance.
    fn end(&mut self, random: &mut Random) {
        let Some(nth) = self.pick(random) else { return };
        let is_void = random.one_in(5);
        if self.calls[nth].row.is_none() && !is_void {
            let call = &mut self.calls[nth];
            let levels = call.levels.0.each_ref().map(|(id, _)| *id);
            let row = Row { levels, opened_at: call.opened_at, cost: call.reserved.cost.pico(), told: false };
            self.ledger.push(row);
            call.row = Some(Position(i64::try_from(self.ledger.len()).unwrap()));
            if random.one_in(2) {
                return;
            }
        }
        let reserved = self.calls[nth].reserved;
        let owed = if self.calls[nth].row.is_some() { reserved } else { nothing() };
        self.shift(nth, owed);
        let Call { entered, levels, row, woke, wakeups, .. } = self.calls.swap_remove(nth);
        let did_wake = woke && random.one_in(2);
        if !did_wake {
            let now = self.now.monotonic;
            self.buckets
                .values_mut()
                .filter(|bucket| wakeups.contains(&bucket.id))
                .for_each(|bucket| bucket.put(-1, now));
        }
        self.limits.leave(&levels, entered, reserved, owed, row, did_wake, self.now);
        if let Some(Position(position)) = row {
            self.ledger[usize::try_from(position - 1).unwrap()].told = true;
        }
    }

    fn pick(&self, random: &mut Random) -> Option<usize> {
        random.place(self.calls.len())
    }

    fn deliver(&mut self, random: &mut Random) {
        if let Some(nth) = random.place(self.leases.len()) {
            let (id, lease) = self.leases.swap_remove(nth);
            self.limits.load(id, &lease, self.now);
        }
    }

    fn deliver_all(&mut self) {
        for (id, lease) in std::mem::take(&mut self.leases) {
            self.limits.load(id, &lease, self.now);
        }
    }

    /// Rows are corrected behind the back of the limits.
    fn repair(&mut self, random: &mut Random) {
        let levels = self.levels(random).0.map(|(id, _)| id);
        let cost = i128::from(random.below(100)) - 50;
        self.ledger.push(Row { levels, opened_at: self.now.wall, cost, told: true });
        self.limits.forget_money();
        self.forgotten += 1;
    }

    fn pass_time(&mut self, random: &mut Random) {
        self.now.monotonic += random.below(10 * SECOND);
        if random.one_in(6) {
            let hours = i64::try_from(random.below(4)).unwrap();
            self.now.wall = (4 + hours) * HOUR + i64::try_from(random.below(HOUR.unsigned_abs())).unwrap();
        }
        if random.one_in(10) {
            self.limits.sweep(self.now);
        }
    }

    fn check_standing(&self, seed: u64) {
        for (id, limits) in &self.installed {
            let nobody = |n: u8| ids(200 + n);
            let levels = [*id, nobody(1)[1], nobody(2)[2], nobody(3)[3]];
            let mut levels = Levels(levels.map(|id| (id, Arc::default())));
            levels.0[0].1 = limits.clone();
            let standing = self.limits.standing(&levels, self.now);
            for (kind, room) in [(Kind::Requests, standing.requests), (Kind::Tokens, standing.tokens)] {
                let expect = self.buckets.get(&(*id, kind)).map(|bucket| bucket.remaining(self.now.monotonic));
                assert_eq!(room.map(|room| room.remaining), expect, "seed {seed}: {kind:?} of {id:?}");
            }
            let open = self.calls.iter().filter(|call| call.is_at(*id)).count();
            assert_eq!(usize::try_from(self.limits.open(*id)).unwrap(), open, "seed {seed}");
        }
    }
}

/// A limit, one time in so many.
fn some(random: &mut Random, one_in: u64, most: u64) -> Option<u64> {
    let value = 1 + random.below(most);
    random.one_in(one_in).then_some(value)
}

fn live(seed: u64, steps: u32) -> World {
    let (mut random, mut world) = (Random(seed), World::default());
    for _ in 0..8 {
        world.change_limits(&mut random);
    }
    for _ in 0..steps {
        match random.below(40) {
            0..10 => world.enter(&mut random, seed),
            10..20 => world.reserve(&mut random, seed),
            20..25 => world.correct(&mut random),
            25..32 => world.end(&mut random),
            32..35 => world.deliver(&mut random),
            35..38 => world.pass_time(&mut random),
            38 => world.change_limits(&mut random),
            _ => world.repair(&mut random),
        }
        world.check_standing(seed);
    }
    world
}

#[test]
fn random_lives_equal_a_recount() {
    let (mut admissions, mut refusals, mut rows) = (0, 0, 0);
    for seed in 0..80 {
        let mut world = live(seed, 300);
        (admissions, refusals) = (admissions + world.admissions, refusals + world.refusals);
        rows += world.ledger.len();
        // All calls end; an hour of silence later nothing is left.
        let mut random = Random(seed);
        while !world.calls.is_empty() {
            world.end(&mut random);
        }
        world.now.monotonic += 3_600 * SECOND;
        world.limits.sweep(world.now);
        assert_eq!((world.limits.len(), world.limits.calls.len()), (0, 0), "seed {seed}");
    }
    // The lives must have been worth it.
    assert!(admissions > 3_000 && refusals > 2_000 && rows > 2_000, "{admissions} {refusals} {rows}");
}
