//! Prices, leases, credit and corrections.

use std::collections::BTreeMap;

use mayfly_ledger::{Difference, Grant, Lease, NewPrice, PriceBook, PriceError, Repricing};
use mayfly_types::{LevelId, LevelLimits, Money, Period, SpendCap};

use super::*;

fn pico(value: i128) -> Money {
    Money::from_pico(value)
}

/// `pico` for one input token of any model, from `from` on.
fn price(pico: u32, from: i64) -> NewPrice {
    NewPrice {
        tenant: None,
        model: None,
        pool: "shared".parse().unwrap(),
        meter: Meter::InputTokens,
        amount: format!("0.{pico:012}"),
        per: 1,
        currency: "USD".to_owned(),
        from,
        until: None,
    }
}

/// Input tokens of model 1 at a price of 3 pico-units, whose id is 1.
fn tokens(quantity: i64) -> RowLine {
    let (price, amount) = (Some(1), Some(quantity * 3));
    RowLine { meter: Meter::InputTokens, model: Some(model(1)), quantity, price, amount }
}

async fn settled(journal: &Arc<dyn Journal>, call: &Arc<Call>, quantity: i64) -> Position {
    append(journal, [row(Kind::Settle, call, call.opened_at + 1, vec![tokens(quantity)])]).await.unwrap()
}

#[tokio::test]
async fn prices_are_added_never_changed_and_checked_against_the_stored_book() {
    let (folder, store) = open();
    let prices = store.prices();
    assert!(prices.add_price(price(3, 0), AT).await.is_err(), "no currency yet");
    for bad in ["", "usd", "US", "DOLLAR", "U$D"] {
        assert!(prices.fix_currency(bad).await.is_err(), "{bad}");
    }
    prices.fix_currency("USD").await.unwrap();
    prices.fix_currency("USD").await.unwrap();
    let first = prices.add_price(price(3, AT), AT).await.unwrap().unwrap();
    assert_eq!((first.id, first.pico_per_unit, first.from, first.created_at), (1, 3, AT, AT));
    let mut own = NewPrice { tenant: Some(tenant(2)), model: Some("p/m".to_owned()), ..price(5, AT) };
    own.until = Some(AT + HOUR);
    let own = prices.add_price(own, AT + 5).await.unwrap().unwrap();
    let euros = NewPrice { currency: "EUR".to_owned(), ..price(3, AT) };
    assert!(matches!(prices.add_price(euros, AT).await.unwrap(), Err(PriceError::Currency { .. })));
    assert!(matches!(prices.add_price(price(4, AT), AT).await.unwrap(), Err(PriceError::Overlaps { with: 1 })));
    assert_eq!(prices.prices().await.unwrap(), [first.clone(), own.clone()]);
    store.close().await;

    let store = Store::open(folder.path()).unwrap();
    let prices = store.prices();
    assert_eq!(prices.prices().await.unwrap(), [first, own]);
    let changed = prices.fix_currency("EUR").await.unwrap_err();
    let JournalError::Failed { detail } = changed else { panic!("{changed}") };
    assert!(detail.contains("USD") && detail.contains("EUR"), "{detail}");
}

#[tokio::test]
async fn parallel_entries_of_one_price_leave_one() {
    let (_folder, store) = open();
    store.prices().fix_currency("USD").await.unwrap();
    let add = |_| {
        let prices = store.prices();
        tokio::spawn(async move { prices.add_price(price(3, AT), AT).await.unwrap().is_ok() })
    };
    let mut added = 0;
    for task in (0..20).map(add).collect::<Vec<_>>() {
        added += u32::from(task.await.unwrap());
    }
    assert_eq!((added, store.prices().prices().await.unwrap().len()), (1, 1));
}

#[tokio::test]
async fn a_lease_is_what_a_level_spent_in_its_period() {
    let (_folder, store) = open();
    model::priced(&store).await;
    let (journal, leases) = (store.journal(), store.leases());
    let month_start = AT - 24 * HOUR - AT % HOUR - 3 * HOUR;
    settled(&journal, &call(1, month_start - 1), 1_000).await;
    settled(&journal, &call(1, month_start), 100).await;
    settled(&journal, &call(1, AT), 10).await;
    settled(&journal, &call(2, AT), 5).await;
    let last = append(&journal, [ended(&call(1, AT), Outcome::Completed, &[(Meter::Rows, 1, 9)])]).await.unwrap();
    let check = async |level: LevelId, per: Option<Period>, start: i64, spent: i128| {
        let spend = per.map(|per| SpendCap { amount: pico(1), per });
        let limits = LevelLimits { spend, prepaid: spend.is_none(), ..LevelLimits::default() };
        let lease = leases.lease(level, &limits, AT).await.unwrap();
        assert_eq!(lease, Lease { position: last, period_start: start, spent: pico(spent), credit: None });
    };
    let hour = AT - AT % HOUR;
    check(LevelId::Tenant(tenant(1)), Some(Period::Month), month_start, 330).await;
    check(LevelId::Tenant(tenant(1)), None, month_start, 330).await;
    check(LevelId::Tenant(tenant(1)), Some(Period::Day), hour - 3 * HOUR, 30).await;
    check(LevelId::Project(ProjectId::from_bytes([51; 16])), Some(Period::Hour), hour, 30).await;
    check(LevelId::Deployment(DeploymentId::from_bytes([102; 16])), Some(Period::Hour), hour, 15).await;
    check(LevelId::Key(KeyId::from_bytes([5; 16])), Some(Period::Month), month_start, 345).await;
    check(LevelId::Key(KeyId::from_bytes([6; 16])), Some(Period::Month), month_start, 0).await;
}

#[tokio::test]
async fn credit_counts_from_the_first_grant() {
    let (_folder, store) = open();
    model::priced(&store).await;
    let (journal, leases) = (store.journal(), store.leases());
    let level = LevelId::Tenant(tenant(1));
    let grant = |amount: i128, note: &str| Grant { level, amount: pico(amount), note: note.to_owned(), at: AT };
    settled(&journal, &call(1, AT), 100).await;
    assert_eq!(journal.credit(level).await.unwrap(), None);
    let position = journal.grant(grant(1_000, "first")).await.unwrap();
    assert_eq!(position, Position(2));
    settled(&journal, &call(1, AT), 50).await;
    settled(&journal, &call(2, AT), 999).await;
    journal.grant(grant(-200, "taken back")).await.unwrap();
    let credit = journal.credit(level).await.unwrap().unwrap();
    assert_eq!((credit.granted, credit.spent), (pico(800), pico(150)));
    assert_eq!(credit.grants, [grant(1_000, "first"), grant(-200, "taken back")]);
    let limits = LevelLimits { prepaid: true, ..LevelLimits::default() };
    let lease = leases.lease(level, &limits, AT).await.unwrap();
    assert_eq!((lease.credit, lease.spent, lease.position), (Some(pico(650)), pico(450), Position(5)));
    let long = Grant { note: "x".repeat(201), ..grant(1, "") };
    assert!(journal.grant(long).await.is_err());
    assert!(journal.grant(grant(i128::MAX, "too much")).await.is_err());
    assert_clean(&journal).await;
}

#[tokio::test]
async fn a_back_dated_price_is_corrected_once() {
    let (_folder, store) = open();
    let (journal, prices) = (store.journal(), store.prices());
    prices.fix_currency("USD").await.unwrap();
    prices.add_price(price(3, 0), 1).await.unwrap().unwrap();
    let (early, late, other, free) = (call(1, AT - HOUR), call(1, AT), call(2, AT), call(1, AT));
    for (call, quantity) in [(&early, 10), (&late, 20), (&other, 30)] {
        settled(&journal, call, quantity).await;
    }
    append(&journal, [row(Kind::Void, &free, AT, vec![])]).await.unwrap();
    let rows = unpriced(&[(Meter::Rows, 1, 4)]);
    append(&journal, [row(Kind::Settle, &call(1, AT), AT, rows)]).await.unwrap();
    let open_call = call(1, AT);
    let progress = row(Kind::Progress, &open_call, AT, vec![tokens(7)]);
    append(&journal, [row(Kind::Open, &open_call, AT, vec![]), progress]).await.unwrap();
    prices.add_price(price(5, AT), AT + HOUR).await.unwrap().unwrap();

    let book = Arc::new(PriceBook::new(prices.prices().await.unwrap()));
    let repricing = |tenant: Option<TenantId>| Repricing {
        book: book.clone(),
        models: Arc::new(BTreeMap::from([(model(1), "m".to_owned())])),
        tenant,
        meter: Meter::InputTokens,
        from: AT - 2 * HOUR,
        until: AT + 2 * HOUR,
        at: AT + HOUR,
    };
    let difference = |calls, before, after| Difference { calls, before: pico(before), after: pico(after) };
    let all = repricing(None);
    let one = repricing(Some(tenant(1)));
    assert_eq!(journal.reprice(&all, false).await.unwrap(), difference(2, 150, 250));
    assert_eq!(journal.reprice(&one, false).await.unwrap(), difference(1, 60, 100));
    assert_eq!(journal.verify().await.unwrap().rows, 7, "nothing was written");
    let (a, b) = tokio::join!(journal.reprice(&one, true), journal.reprice(&one, true));
    let mut both = [a.unwrap(), b.unwrap()];
    both.sort_by_key(|difference| difference.calls);
    assert_eq!(both, [Difference::default(), difference(1, 60, 100)], "at the same time, yet once");
    assert_eq!(journal.reprice(&all, true).await.unwrap(), difference(1, 90, 150));
    assert_eq!(journal.reprice(&all, true).await.unwrap(), Difference::default());
    assert_eq!(journal.verify().await.unwrap().rows, 9);

    let lines = |record: Option<mayfly_ledger::CallRecord>| record.unwrap().latest.lines;
    let corrected = RowLine { price: Some(2), amount: Some(100), ..tokens(20) };
    assert_eq!(lines(journal.call(None, late.id).await.unwrap()), [corrected]);
    assert_eq!(lines(journal.call(None, early.id).await.unwrap()), [tokens(10)], "before the price begins");
    let usage = journal.usage(&UsageQuery { tenant: Some(tenant(1)), ..UsageQuery::default() }).await.unwrap();
    let tokens = usage.iter().find(|row| row.meter == Some(Meter::InputTokens)).unwrap();
    assert_eq!((tokens.quantity, tokens.cost), (30, Some(pico(130))), "quantities stand, money changes");
    assert_eq!((usage[0].meter, usage[0].quantity, usage[0].cost), (None, 4, None), "corrections are no calls");
    assert_clean(&journal).await;
}
