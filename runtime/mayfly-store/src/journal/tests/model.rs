//! The journal against a naive one in memory, over random calls.

use std::collections::BTreeMap;

use mayfly_ledger::UsageRow;
use mayfly_types::Money;

use super::*;

/// A small generator of numbers: the same seed gives the same test.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn number(&mut self, end: u64) -> i64 {
        i64::try_from(self.below(end)).unwrap()
    }

    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// All rows in a list; every question walks it.
#[derive(Default)]
pub(crate) struct Naive(pub(crate) Vec<Row>);

impl Naive {
    fn of(&self, id: RequestId) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(move |row| row.call.id == id)
    }

    fn is_ended(&self, id: RequestId) -> bool {
        self.of(id).any(|row| matches!(row.kind, Kind::Settle | Kind::Void))
    }

    /// Takes all rows, or none.
    pub(crate) fn take(&mut self, rows: &[Row]) -> bool {
        let before = self.0.len();
        let fits = rows.iter().all(|row| {
            let fits = self.takes(row);
            self.0.push(row.clone());
            fits
        });
        if !fits {
            self.0.truncate(before);
        }
        fits
    }

    fn takes(&self, row: &Row) -> bool {
        let id = row.call.id;
        let opened = self.of(id).any(|row| row.kind == Kind::Open);
        match row.kind {
            Kind::Open => !opened && !self.is_ended(id),
            Kind::Progress => opened && !self.is_ended(id),
            Kind::Settle | Kind::Void => !self.is_ended(id),
            Kind::Correct => self.is_ended(id),
        }
    }

    /// The sums of a query by tenant and end user, without models.
    pub(crate) fn usage(&self, query: &UsageQuery) -> Vec<UsageRow> {
        type Key = (Vec<String>, Option<Meter>);
        let mut sums: BTreeMap<Key, (i64, Option<i128>)> = BTreeMap::new();
        for row in self.0.iter().filter(|row| !matches!(row.kind, Kind::Open | Kind::Progress)) {
            let call = &row.call;
            let hour = call.opened_at.div_euclid(HOUR) * HOUR;
            if query.tenant.is_some_and(|tenant| tenant != call.tenant)
                || query.key.is_some_and(|key| key != call.key)
                || query.since.is_some_and(|since| hour + HOUR <= since)
                || query.until.is_some_and(|until| hour >= until)
            {
                continue;
            }
            let group = |group: &GroupBy| match group {
                GroupBy::Tenant => call.tenant.to_string(),
                GroupBy::Key => call.key.to_string(),
                GroupBy::EndUser => call.end_user.as_deref().unwrap_or_default().to_owned(),
                other => panic!("{other:?} is not asked for here"),
            };
            let group: Vec<String> = query.group_by.iter().map(group).collect();
            if row.kind != Kind::Correct {
                sums.entry((group.clone(), None)).or_default().0 += 1;
            }
            for line in &row.lines {
                let sum = sums.entry((group.clone(), Some(line.meter))).or_default();
                sum.0 += line.quantity;
                if let Some(amount) = line.amount {
                    sum.1 = Some(sum.1.unwrap_or(0) + i128::from(amount));
                }
            }
        }
        let row = |((group, meter), sum): (Key, (i64, Option<i128>))| UsageRow {
            group,
            meter,
            quantity: sum.0,
            cost: sum.1.map(Money::from_pico),
        };
        sums.into_iter().map(row).collect()
    }

    /// Each call is as its rows say.
    pub(crate) async fn check_calls(&self, journal: &Arc<dyn Journal>, calls: &[Arc<Call>]) {
        for call in calls {
            let record = journal.call(Some(call.tenant), call.id).await.unwrap();
            let rows: Vec<&Row> = self.of(call.id).collect();
            let Some(last) = rows.iter().rev().find(|row| row.kind != Kind::Correct) else {
                assert_eq!(record, None);
                continue;
            };
            let record = record.unwrap();
            assert_eq!(record.ended, self.is_ended(call.id));
            let total = |lines: &mut dyn Iterator<Item = &RowLine>| -> (i64, i64) {
                lines.fold((0, 0), |sum, line| (sum.0 + line.quantity, sum.1 + line.amount.unwrap_or(0)))
            };
            let corrections = rows.iter().filter(|row| row.kind == Kind::Correct);
            let mut all = last.lines.iter().chain(corrections.flat_map(|row| &row.lines));
            assert_eq!(total(&mut record.latest.lines.iter()), total(&mut all));
            let (mut found, mut wanted) = (record.latest, (*last).clone());
            (found.lines, wanted.lines) = (vec![], vec![]);
            assert_eq!(found, wanted);
        }
    }
}

fn random_call(random: &mut Random) -> Arc<Call> {
    let mut call =
        Arc::unwrap_or_clone(call(u8::try_from(random.below(4)).unwrap(), AT + random.number(72) * HOUR / 7));
    call.key = KeyId::from_bytes([u8::try_from(random.below(3)).unwrap(); 16]);
    call.end_user = random.one(&[None, Some("ada"), Some("bob")]).map(Into::into);
    Arc::new(call)
}

fn random_lines(random: &mut Random) -> Vec<RowLine> {
    let mut lines = Vec::new();
    for meter in Meter::ALL.into_iter().filter(|_| random.below(3) == 0).collect::<Vec<_>>() {
        let quantity = random.number(1_000_000);
        let price = random.one(&[None, Some(1), Some(2)]);
        // As the table of `priced` has it.
        let amount = price.map(|price| quantity * if price == 1 { 3 } else { 900_000_000_000 });
        lines.push(RowLine { meter, model: Some(model(random.one(&[1, 2]))), quantity, price, amount });
    }
    lines
}

/// Rows of new calls and of `calls`, which may not fit.
pub(crate) fn random_append(random: &mut Random, calls: &mut Vec<Arc<Call>>) -> Vec<Row> {
    let mut rows = Vec::new();
    for _ in 0..=random.below(3) {
        if calls.is_empty() || random.below(3) == 0 {
            calls.push(random_call(random));
        }
        let call = calls[usize::try_from(random.below(calls.len() as u64)).unwrap()].clone();
        let kind = random.one(&[Kind::Open, Kind::Progress, Kind::Settle, Kind::Settle, Kind::Void, Kind::Correct]);
        let lines = if matches!(kind, Kind::Open | Kind::Void) { vec![] } else { random_lines(random) };
        rows.push(row(kind, &call, call.opened_at + random.number(HOUR as u64), lines));
    }
    rows
}

/// Prices 1 and 2: 3 and 900,000,000,000 pico-units.
pub(crate) async fn priced(store: &Store) {
    let sql = "INSERT INTO price (id, pool, meter, pico, begins_at, created_at)
               VALUES (1, 'shared', 1, 3, 0, 0), (2, 'shared', 1, 900000000000, 0, 0)";
    store.db.write(move |connection| Ok(connection.execute(sql, [])?)).await.unwrap();
}

#[tokio::test]
async fn random_calls_as_a_naive_journal_tells_them() {
    for seed in 1..=6 {
        let (_folder, store) = open();
        priced(&store).await;
        let journal = store.journal();
        let mut random = Random(seed * 0x9e37_79b9);
        let mut naive = Naive::default();
        let mut calls: Vec<Arc<Call>> = Vec::new();
        for _ in 0..150 {
            let rows = random_append(&mut random, &mut calls);
            let fits = naive.take(&rows);
            let expected = fits.then(|| Position(i64::try_from(naive.0.len()).unwrap()));
            assert_eq!(append(&journal, rows).await.ok(), expected, "seed {seed}");
        }
        naive.check_calls(&journal, &calls).await;
        for _ in 0..20 {
            let groups = random.one(&[
                &[][..],
                &[GroupBy::Tenant],
                &[GroupBy::EndUser, GroupBy::Key],
                &[GroupBy::Key, GroupBy::Tenant],
            ]);
            let query = UsageQuery {
                tenant: random.one(&[None, Some(tenant(1))]),
                key: random.one(&[None, Some(KeyId::from_bytes([2; 16]))]),
                since: random.one(&[None, Some(AT + 3 * HOUR)]),
                until: random.one(&[None, Some(AT + 7 * HOUR + 5)]),
                group_by: groups.to_vec(),
                ..UsageQuery::default()
            };
            assert_eq!(journal.usage(&query).await.unwrap(), naive.usage(&query), "seed {seed}, {query:?}");
        }
        assert_clean(&journal).await;
    }
}
