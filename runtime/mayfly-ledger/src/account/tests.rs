#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;

use mayfly_types::{DeploymentId, KeyId, ProjectId, RequestId, RevisionId, TenantId};
use proptest::prelude::*;

use super::*;
use crate::{Channel, CountedBy, Price, PriceBook};

fn call() -> Arc<Call> {
    let id = RequestId::from_bytes([7; 16]);
    let deployment = DeploymentId::from_bytes([1; 16]);
    Arc::new(Call {
        id,
        parent: None,
        root: id,
        attempt: 1,
        tenant: TenantId::from_bytes([2; 16]),
        payer: TenantId::from_bytes([2; 16]),
        project: ProjectId::from_bytes([3; 16]),
        requested: deployment,
        served: deployment,
        revision: RevisionId::from_bytes([4; 16]),
        deployment_name: "embedder".parse().unwrap(),
        key: KeyId::from_bytes([5; 16]),
        end_user: None,
        channel: Channel::Api,
        counted_by: CountedBy::Host,
        opened_at: 1_000,
    })
}

/// A tariff of these prices: per unit of a meter of any model, in pico-units.
fn tariff(prices: &[(Meter, i64)]) -> Tariff {
    let price = |(id, &(meter, pico_per_unit)): (i64, &(Meter, i64))| Price {
        id,
        tenant: None,
        model: None,
        pool: "shared".parse().unwrap(),
        meter,
        pico_per_unit,
        from: 0,
        until: None,
        created_at: 0,
    };
    Tariff {
        book: Arc::new(PriceBook::new((1..).zip(prices).map(price).collect())),
        tenant: call().tenant,
        pool: "shared".parse().unwrap(),
        at: call().opened_at,
        models: Arc::default(),
    }
}

fn account() -> Account {
    Account::new(call(), tariff(&[]), None)
}

fn line(meter: Meter, model: u8, quantity: u64) -> Line {
    Line { meter, model: Some(ModelId::from_bytes([model; 16])), quantity }
}

#[test]
fn a_short_call_is_one_row() {
    let mut account = account();
    let hold = account.hold(&[line(Meter::InputTokens, 1, 8)]).unwrap();
    account.charge(hold, &[line(Meter::InputTokens, 1, 8)]);
    account.release(hold);
    let row = account.end(1_500, 200, Outcome::Completed, "instance").unwrap();
    assert_eq!((row.kind, row.outcome, row.status), (Kind::Settle, Some(Outcome::Completed), 200));
    assert_eq!((row.lines.len(), row.lines[0].quantity, row.duration_micros), (1, 8, Some(500)));
    assert_eq!(account.end(1_600, 200, Outcome::Completed, "instance"), None);
}

#[test]
fn frames_write_only_what_grew() {
    let mut account = account();
    let kinds = |rows: Vec<Row>| rows.into_iter().map(|row| row.kind).collect::<Vec<_>>();
    assert_eq!(kinds(account.before_frame(1, 200, 0)), [Kind::Open, Kind::Progress]);
    assert_eq!(kinds(account.before_frame(2, 200, 0)), []);
    let hold = account.hold(&[line(Meter::OutputTokens, 1, 1)]).unwrap();
    assert_eq!(kinds(account.before_frame(3, 200, 0)), []);
    account.charge(hold, &[line(Meter::OutputTokens, 1, 1)]);
    assert_eq!(kinds(account.before_frame(4, 200, 0)), [Kind::Progress]);
    account.end(5, 200, Outcome::ClientLeft, "instance").unwrap();
    assert_eq!(kinds(account.before_frame(6, 200, 0)), []);
}

#[test]
fn what_was_done_for_later_bytes_is_not_in_the_rows_of_earlier_ones() {
    let mut account = account();
    let work = |account: &mut Account| account.record(&[line(Meter::Rows, 1, 2)]);
    let rows = |account: &mut Account, upto| -> Option<i64> {
        account.before_frame(1, 200, upto).last().map(|row| row.lines.iter().map(|line| line.quantity).sum())
    };
    assert_eq!(rows(&mut account, 0), Some(0), "the head, before any work");
    for _ in 0..3 {
        work(&mut account);
        account.answers(0, 64);
    }
    work(&mut account);
    assert_eq!(rows(&mut account, 64), Some(2), "the handler is three runs ahead");
    assert_eq!(rows(&mut account, 100), Some(4), "a frame that is cut in two is paid for with its first part");
    assert_eq!(rows(&mut account, 128), None);
    assert_eq!(rows(&mut account, 192), Some(6));
    let end = account.end(2, 200, Outcome::ClientLeft, "instance").unwrap();
    assert_eq!(end.lines[0].quantity, 8, "what was done is owed");
}

#[test]
fn what_is_not_owed_has_no_lines() {
    let mut account = account();
    account.record(&[line(Meter::Rows, 1, 3)]);
    let row = account.end(2_000, 500, Outcome::HostFault, "code").unwrap();
    assert_eq!((row.kind, row.lines), (Kind::Void, Vec::new()));
}

#[test]
fn work_past_the_hold_and_the_close_is_owed_but_no_more_is_held() {
    let mut account = account();
    let hold = account.hold(&[line(Meter::Rows, 1, 1)]).unwrap();
    account.close();
    account.charge(hold, &[line(Meter::Rows, 1, 5)]);
    assert_eq!(account.hold(&[]).unwrap_err().kind, RefusalKind::Closed);
    assert_eq!(account.used(), [line(Meter::Rows, 1, 5)]);
    assert_eq!(account.held(), []);
}

#[test]
fn sums_that_leave_an_i64_are_refused_and_hold_nothing() {
    let most = u64::try_from(i64::MAX).unwrap();
    let mut account = account();
    for lines in [
        vec![line(Meter::Rows, 1, most + 1)],
        vec![line(Meter::Rows, 1, u64::MAX)],
        vec![line(Meter::Rows, 1, most), line(Meter::Rows, 1, 1)],
    ] {
        assert_eq!(account.hold(&lines).unwrap_err().kind, RefusalKind::NeverFits);
        assert_eq!(account.held(), []);
    }
    let hold = account.hold(&[line(Meter::Rows, 1, most)]).unwrap();
    assert_eq!(account.hold(&[line(Meter::Rows, 1, 1)]).unwrap_err().kind, RefusalKind::NeverFits);
    account.charge(hold, &[line(Meter::Rows, 1, u64::MAX)]);
    account.charge(hold, &[line(Meter::Rows, 1, 1)]);
    assert_eq!(account.used(), [line(Meter::Rows, 1, most)]);
}

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

#[test]
fn rows_carry_price_and_amount() {
    let prices = [(Meter::InputTokens, 20_000), (Meter::OutputTokens, 60_000)];
    let mut account = Account::new(call(), tariff(&prices), None);
    let hold = account.hold(&[line(Meter::InputTokens, 1, 8), line(Meter::OutputTokens, 1, 100)]).unwrap();
    assert_eq!(account.exposure(), Ask { tokens: 108, cost: Money::from_pico(6_160_000) });
    account.charge(hold, &[line(Meter::InputTokens, 1, 8), line(Meter::OutputTokens, 1, 10)]);
    account.release(hold);
    account.record(&[line(Meter::GuestCpuMicros, 1, 5)]);
    assert_eq!((account.cost(), account.exposure().tokens), (Money::from_pico(760_000), 18));
    let row = account.end(1_500, 200, Outcome::Completed, "instance").unwrap();
    let lines: Vec<_> = row.lines.iter().map(|line| (line.meter, line.quantity, line.price, line.amount)).collect();
    assert_eq!(
        lines,
        [
            (Meter::InputTokens, 8, Some(1), Some(160_000)),
            (Meter::OutputTokens, 10, Some(2), Some(600_000)),
            (Meter::GuestCpuMicros, 5, None, None),
        ]
    );
}

#[test]
fn a_call_holds_no_more_than_it_may_cost() {
    let rows = |quantity| [line(Meter::Rows, 1, quantity), line(Meter::GuestCpuMicros, 1, 1_000)];
    let mut account = Account::new(
        call(),
        tariff(&[(Meter::Rows, 1_000_000_000)]),
        Some(CostMax { amount: money("0.01"), of: "key limit request_cost_max" }),
    );
    let first = account.hold(&rows(6)).unwrap();
    let refused = account.hold(&rows(5)).unwrap_err();
    assert_eq!((refused.kind, refused.retry_after_ms), (RefusalKind::Money, None));
    assert!(
        refused.message.contains("key limit request_cost_max = 0.01: 0.006 held and used, 0.005 requested"),
        "{}",
        refused.message
    );
    assert_eq!(account.exposure().cost, money("0.006"), "a refusal holds nothing");
    account.charge(first, &rows(2));
    account.release(first);
    let second = account.hold(&rows(8)).unwrap();
    account.charge(second, &rows(9));
    assert_eq!(account.cost(), money("0.011"), "work beyond a hold is owed");
    assert_eq!(account.hold(&rows(1)).unwrap_err().kind, RefusalKind::Money);
    assert!(account.hold(&[line(Meter::Elements, 1, 9)]).is_ok(), "what is free may go on");
}

#[test]
fn cached_tokens_are_not_counted_twice() {
    let prices = [(Meter::InputTokens, 10), (Meter::CachedInputTokens, 1), (Meter::OutputTokens, 100)];
    let mut account = Account::new(call(), tariff(&prices), None);
    let hold = account.hold(&[line(Meter::InputTokens, 1, 100), line(Meter::OutputTokens, 1, 50)]).unwrap();
    // 90 of the 100 prompt tokens were found in the cache: 10 input and 90 cached, not 100 input and 90 cached.
    let used =
        [line(Meter::InputTokens, 1, 10), line(Meter::CachedInputTokens, 1, 90), line(Meter::OutputTokens, 1, 50)];
    account.charge(hold, &used);
    account.release(hold);
    assert_eq!(account.exposure(), Ask { tokens: 150, cost: Money::from_pico(10 * 10 + 90 + 50 * 100) });
    let row = account.end(2_000, 200, Outcome::Completed, "none").unwrap();
    let sum: i64 = row.lines.iter().filter_map(|line| line.amount).sum();
    assert_eq!(i128::from(sum), account.cost().pico());
}

#[test]
fn a_quote_changes_nothing() {
    let account = Account::new(call(), tariff(&[(Meter::Rows, 7)]), None);
    let asked =
        [line(Meter::Rows, 1, 2), line(Meter::Rows, 1, 3), line(Meter::Elements, 1, 4), line(Meter::Rows, 2, 0)];
    let quoted: Vec<_> = account.quote(&asked).iter().map(|line| (line.meter, line.quantity, line.amount)).collect();
    assert_eq!(quoted, [(Meter::Rows, 5, Some(35)), (Meter::Elements, 4, None)]);
    let huge = account.quote(&[line(Meter::Rows, 1, u64::MAX), line(Meter::Rows, 1, 1)]);
    assert_eq!((huge[0].quantity, huge[0].amount), (i64::MAX, Some(i64::MAX)));
    assert_eq!((account.exposure(), account.used()), (Ask::default(), vec![]));
}

/// One step of a random life. `usize` picks one of the holds taken so far, live or not.
#[derive(Debug, Clone)]
enum Step {
    Hold(Vec<Line>),
    Charge(usize, Vec<Line>),
    Release(usize),
    Close,
    /// So many bytes of the answer are made.
    Answer(usize),
    /// The next of them leave.
    Frame,
    End(Outcome),
}

fn some_lines() -> impl Strategy<Value = Vec<Line>> {
    let one = (prop::sample::select(&Meter::ALL[..]), prop::option::of(0..3u8), 0..1_000u64);
    let one = one.prop_map(|(meter, model, quantity)| Line {
        meter,
        model: model.map(|m| ModelId::from_bytes([m; 16])),
        quantity,
    });
    prop::collection::vec(one, 0..4)
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => some_lines().prop_map(Step::Hold),
        6 => (any::<usize>(), some_lines()).prop_map(|(i, lines)| Step::Charge(i, lines)),
        4 => any::<usize>().prop_map(Step::Release),
        4 => (1..9_usize).prop_map(Step::Answer),
        4 => Just(Step::Frame),
        1 => Just(Step::Close),
        1 => prop::sample::select(&Outcome::ALL[..]).prop_map(Step::End),
    ]
}

type Naive = HashMap<(Meter, Option<ModelId>), i128>;

fn add(sums: &mut Naive, lines: &[Line], sign: i128) {
    for line in lines {
        *sums.entry((line.meter, line.model)).or_default() += sign * i128::from(line.quantity);
    }
    sums.retain(|_, sum| *sum != 0);
}

fn naive(lines: &[Line]) -> Naive {
    let mut sums = Naive::new();
    add(&mut sums, lines, 1);
    sums
}

fn of_row(row: &Row) -> Naive {
    row.lines.iter().map(|line| ((line.meter, line.model), i128::from(line.quantity))).collect()
}

proptest! {
    /// Against a model that only adds and subtracts: usage is never lost, holds never leak, rows are cumulative and
    /// only grow, the call ends exactly once and nothing follows the end.
    #[test]
    fn behaves_like_a_sum(steps in prop::collection::vec(some_step(), 0..60)) {
        let mut account = account();
        let mut used = Naive::new();
        let mut taken: Vec<(HoldId, Option<Naive>)> = Vec::new();
        let (mut closed, mut ended, mut opens, mut ends, mut last) = (false, false, 0, 0, Naive::new());
        // Pieces of the answer that were made, with the usage of their time, and how many have left.
        let (mut made, mut left): (Vec<(u64, Naive)>, usize) = (Vec::new(), 0);
        for (at, step) in (1_000..).zip(steps) {
            match step {
                Step::Hold(lines) => match account.hold(&lines) {
                    Ok(id) => {
                        prop_assert!(!closed && !ended, "no hold after the close or the end");
                        taken.push((id, Some(naive(&lines))));
                    }
                    Err(refusal) => {
                        prop_assert!(closed || ended, "nothing else refuses sums this small");
                        prop_assert_eq!(refusal.kind, RefusalKind::Closed);
                    }
                },
                Step::Charge(pick, lines) if !taken.is_empty() => {
                    let pick = pick % taken.len();
                    account.charge(taken[pick].0, &lines);
                    if !ended {
                        add(&mut used, &lines, 1);
                        if let Some(left) = &mut taken[pick].1 {
                            add(left, &lines, -1);
                            // What exceeds the hold is not negative credit for later.
                            left.retain(|_, sum| *sum > 0);
                        }
                    }
                }
                Step::Release(pick) if !taken.is_empty() => {
                    let pick = pick % taken.len();
                    account.release(taken[pick].0);
                    taken[pick].1 = None;
                }
                Step::Charge(..) | Step::Release(_) => {}
                Step::Close => {
                    account.close();
                    closed = true;
                }
                Step::Answer(bytes) => {
                    account.answers(0, bytes);
                    let end = made.last().map_or(0, |(end, _)| *end) + u64::try_from(bytes).unwrap();
                    made.push((end, used.clone()));
                }
                Step::Frame => {
                    let (upto, behind) = match made.get(left) {
                        Some(piece) => piece.clone(),
                        // Beyond all that was made.
                        None => (u64::MAX, used.clone()),
                    };
                    left += 1;
                    let rows = account.before_frame(at, 200, upto);
                    prop_assert!(!ended || rows.is_empty(), "nothing after the end");
                    prop_assert_eq!(rows.is_empty(), ended || (opens == 1 && behind == last));
                    for row in &rows {
                        match row.kind {
                            Kind::Open => opens += 1,
                            Kind::Progress => {
                                let now = of_row(row);
                                for (key, sum) in &last {
                                    prop_assert!(now.get(key).is_some_and(|new| new >= sum), "progress only grows");
                                }
                                prop_assert_eq!(&now, &behind);
                                last = now;
                            }
                            Kind::Settle | Kind::Void | Kind::Correct => {
                                prop_assert!(false, "a frame does not end a call");
                            }
                        }
                    }
                }
                Step::End(outcome) => {
                    let row = account.end(at, 200, outcome, "instance");
                    prop_assert_eq!(row.is_some(), !ended);
                    if let Some(row) = row {
                        ends += 1;
                        prop_assert_eq!(row.outcome, Some(outcome));
                        if outcome.is_owed() {
                            prop_assert_eq!(row.kind, Kind::Settle);
                            prop_assert_eq!(&of_row(&row), &used);
                        } else {
                            prop_assert_eq!(row.kind, Kind::Void);
                            prop_assert!(row.lines.is_empty());
                        }
                    }
                    ended = true;
                    taken.iter_mut().for_each(|(_, left)| *left = None);
                }
            }
            prop_assert_eq!(naive(&account.used()), used.clone());
            let mut held = Naive::new();
            for (key, sum) in taken.iter().filter_map(|(_, left)| left.as_ref()).flatten() {
                *held.entry(*key).or_default() += sum;
            }
            prop_assert_eq!(naive(&account.held()), held);
        }
        prop_assert!(opens <= 1 && ends <= 1);
        for (id, _) in &taken {
            account.release(*id);
        }
        prop_assert!(account.held().is_empty(), "every hold given back: nothing is held");
    }
}
