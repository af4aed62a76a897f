#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_types::{Line, ModelId, Money};
use proptest::prelude::*;

use super::*;

fn tenant(n: u8) -> TenantId {
    TenantId::from_bytes([n; 16])
}

fn shared() -> Name {
    "shared".parse().unwrap()
}

/// For all tenants, any model, from `from` until `until`.
fn entry(from: i64, until: Option<i64>) -> NewPrice {
    NewPrice {
        tenant: None,
        model: None,
        pool: shared(),
        meter: Meter::InputTokens,
        amount: "0.02".to_owned(),
        per: 1_000_000,
        currency: "USD".to_owned(),
        from,
        until,
    }
}

/// The book with one entry more.
fn with(book: &PriceBook, entry: &NewPrice) -> Result<PriceBook, PriceError> {
    let id = 1 + i64::try_from(book.prices().len()).unwrap();
    let price = Price { id, ..book.check(entry, "USD", 77)? };
    Ok(PriceBook::new([book.prices(), &[price]].concat()))
}

fn book(entries: &[NewPrice]) -> PriceBook {
    entries.iter().fold(PriceBook::default(), |book, entry| with(&book, entry).unwrap())
}

fn check_amount(amount: &str, per: u64, expect: Result<i64, &str>) {
    let entry = NewPrice { amount: amount.to_owned(), per, ..entry(0, None) };
    let price = PriceBook::default().check(&entry, "USD", 0).map(|price| price.pico_per_unit);
    match (price, expect) {
        (Ok(price), Ok(expect)) => assert_eq!(price, expect),
        (Err(error), Err(expect)) => {
            let text = error.to_string();
            assert!(text.contains(expect) && text.len() < 250 && !text.contains('\u{1b}'), "{text}");
        }
        (price, expect) => panic!("{amount} per {per}: {price:?}, expected {expect:?}"),
    }
}

#[test]
fn amounts_are_whole_in_pico_per_unit() {
    check_amount("0.02", 1_000_000, Ok(20_000));
    check_amount("0.000001", 1_000_000, Ok(1));
    check_amount("3", 1_000, Ok(3_000_000_000));
    check_amount("0.000000000001", 1, Ok(1));
    check_amount("0", 1, Ok(0));
    check_amount("9223372.036854775807", 1, Ok(i64::MAX));
    check_amount("9223372.036854775808", 1, Err("is not a whole number of pico-units"));
    check_amount("0.0000001", 1_000_000, Err("0.0000001 per 1000000 is not a whole number"));
    check_amount("0.0000000001", 1_000, Err("is not a whole number"));
    for bad in
        ["-1", "-0", "+1", "1e-6", "NaN", "inf", "", " 1", "0.0000000000001", "1,5", "\u{1b}[2J", &"9".repeat(9_000)]
    {
        check_amount(bad, 1_000, Err("is not a price"));
    }
    for per in [0, 2, 10, 100, 1_000_000_000, u64::MAX] {
        check_amount("1", per, Err("it must be 1, 1000 or 1000000"));
    }
}

#[test]
fn other_bad_entries_are_refused() {
    let check =
        |entry: NewPrice, expect: PriceError| assert_eq!(PriceBook::default().check(&entry, "USD", 0), Err(expect));
    check(
        NewPrice { currency: "EUR".to_owned(), ..entry(0, None) },
        PriceError::Currency { given: "EUR".to_owned(), ours: "USD".to_owned() },
    );
    check(entry(5, Some(5)), PriceError::Empty);
    check(entry(5, Some(4)), PriceError::Empty);
    for bad in ["", "A", "a/b/c", "/a", "a/", "a b"] {
        check(NewPrice { model: Some(bad.to_owned()), ..entry(0, None) }, PriceError::Model(bad.to_owned()));
    }
    let times = [
        (Meter::InferenceMicros, None),
        (Meter::InferenceMicros, Some("minilm")),
        (Meter::GuestCpuMicros, None),
        (Meter::GuestCpuMicros, Some("acme/own")),
    ];
    for (meter, model) in times {
        check(NewPrice { meter, model: model.map(str::to_owned), ..entry(0, None) }, PriceError::Unpriced(meter));
    }
    let own = NewPrice { meter: Meter::InferenceMicros, model: Some("acme/own".to_owned()), ..entry(0, None) };
    assert!(PriceBook::default().check(&own, "USD", 0).is_ok());
}

#[test]
fn periods_are_half_open_and_do_not_overlap() {
    let open = book(&[entry(10, None)]);
    assert!(with(&open, &entry(20, None)).is_ok(), "the next price ends the one before");
    assert!(with(&open, &entry(20, Some(30))).is_ok());
    assert!(with(&open, &entry(0, Some(10))).is_ok(), "it may end where the other begins");
    let overlaps = |book: &PriceBook, from, until, id| {
        assert_eq!(with(book, &entry(from, until)).unwrap_err(), PriceError::Overlaps { with: id });
    };
    overlaps(&open, 10, None, 1);
    overlaps(&open, 10, Some(11), 1);
    overlaps(&open, 0, Some(11), 1);
    overlaps(&open, 0, None, 1);
    let bounded = book(&[entry(10, Some(20))]);
    assert!(with(&bounded, &entry(20, None)).is_ok());
    overlaps(&bounded, 19, None, 1);
    overlaps(&bounded, 12, Some(13), 1);
    overlaps(&bounded, 0, Some(100), 1);
    let other = |change: fn(&mut NewPrice)| {
        let mut entry = entry(10, Some(20));
        change(&mut entry);
        assert!(with(&bounded, &entry).is_ok(), "another thing has its own periods: {entry:?}");
    };
    other(|entry| entry.tenant = Some(tenant(1)));
    other(|entry| entry.model = Some("minilm".to_owned()));
    other(|entry| entry.pool = "reserved".parse().unwrap());
    other(|entry| entry.meter = Meter::OutputTokens);
}

#[test]
fn the_price_as_of_the_calls_start_applies() {
    let book = book(&[entry(10, None), entry(20, Some(30)), entry(40, None)]);
    let at = |at| book.price(tenant(1), Some("minilm"), &shared(), Meter::InputTokens, at).map(|price| price.id);
    let found: Vec<_> = [9, 10, 19, 20, 29, 30, 39, 40, i64::MAX].into_iter().map(at).collect();
    // After 30 nothing applies: the first price ended when the second began.
    assert_eq!(found, [None, Some(1), Some(1), Some(2), Some(2), None, None, Some(3), Some(3)]);
    assert_eq!(book.price(tenant(1), None, &"other".parse().unwrap(), Meter::InputTokens, 10), None);
}

#[test]
fn a_tenants_own_price_comes_first_then_a_models() {
    let of = |tenant: Option<TenantId>, model: Option<&str>| NewPrice {
        tenant,
        model: model.map(str::to_owned),
        ..entry(0, None)
    };
    let book =
        book(&[of(None, None), of(None, Some("minilm")), of(Some(tenant(1)), None), of(Some(tenant(1)), Some("bge"))]);
    let price = |n, model| book.price(tenant(n), model, &shared(), Meter::InputTokens, 5).unwrap().id;
    assert_eq!((price(2, Some("minilm")), price(2, Some("bge")), price(2, None)), (2, 1, 1));
    assert_eq!((price(1, Some("minilm")), price(1, Some("bge")), price(1, None)), (3, 4, 3));
}

#[test]
fn amounts_stop_at_the_bounds_of_a_line() {
    let model = ModelId::from_bytes([1; 16]);
    let entries = [NewPrice { model: Some("minilm".to_owned()), amount: "1".to_owned(), per: 1, ..entry(0, None) }];
    let tariff = Tariff {
        book: Arc::new(book(&entries)),
        tenant: tenant(1),
        pool: shared(),
        at: 5,
        models: Arc::new(BTreeMap::from([(model, "minilm".to_owned())])),
    };
    let amount = |quantity| tariff.amount(Meter::InputTokens, Some(model), quantity);
    assert_eq!(amount(3), Some((1, 3_000_000_000_000)));
    assert_eq!(amount(-3), Some((1, -3_000_000_000_000)));
    assert_eq!((amount(i64::MAX), amount(i64::MIN)), (Some((1, i64::MAX)), Some((1, i64::MIN))));
    assert_eq!(tariff.amount(Meter::InputTokens, None, 3), None, "a model without a name has only prices for any");
    let line = |quantity| Line { meter: Meter::InputTokens, model: Some(model), quantity };
    assert_eq!(tariff.cost(&[line(1), line(2)]), "3".parse().unwrap());
    assert_eq!(tariff.cost(&[line(u64::MAX), line(1)]), Money::from_pico(i128::from(i64::MAX) + 1_000_000_000_000));
}

/// Whether `price` is in force at `at`: it has begun, has not ended, and no later one of the same thing has begun.
fn applies(price: &Price, book: &PriceBook, at: i64) -> bool {
    let same = |other: &&Price| {
        (other.tenant, &other.model, &other.pool, other.meter) == (price.tenant, &price.model, &price.pool, price.meter)
    };
    price.from <= at
        && price.until.is_none_or(|until| at < until)
        && !book.prices().iter().filter(same).any(|other| other.from > price.from && other.from <= at)
}

fn some_entry() -> impl Strategy<Value = NewPrice> {
    let models = vec![None, Some("minilm"), Some("bge"), Some("acme/own")];
    let meters = vec![Meter::InputTokens, Meter::OutputTokens];
    let until = prop::option::of(1..40i64);
    (0..3u8, prop::sample::select(models), prop::sample::select(meters), 0..100i64, until).prop_map(
        |(owner, model, meter, from, length)| NewPrice {
            tenant: (owner > 0).then(|| tenant(owner)),
            model: model.map(str::to_owned),
            meter,
            ..entry(from, length.map(|length| from + length))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Entries are taken or refused at random; whatever stands then never overlaps, and every look-up finds what a scan
    /// of all prices in the order of precedence finds.
    #[test]
    fn look_ups_equal_a_linear_scan(entries in prop::collection::vec(some_entry(), 0..40)) {
        let mut book = PriceBook::default();
        for entry in &entries {
            match with(&book, entry) {
                Ok(longer) => {
                    // What is in the book keeps its price until the new one begins, and after it has ended.
                    for at in 0..entry.from {
                        for price in book.prices() {
                            prop_assert_eq!(applies(price, &book, at), applies(price, &longer, at));
                        }
                    }
                    book = longer;
                }
                Err(PriceError::Overlaps { with }) => prop_assert!(book.prices().iter().any(|price| price.id == with)),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
        for at in (-1..150).step_by(3) {
            for asking in [tenant(1), tenant(2), tenant(3)] {
                for model in [None, Some("minilm"), Some("bge"), Some("acme/own"), Some("zzz")] {
                    for meter in [Meter::InputTokens, Meter::OutputTokens, Meter::Rows] {
                        let precedence = [(Some(asking), model), (Some(asking), None), (None, model), (None, None)];
                        let scan = precedence.iter().find_map(|&(owner, model)| {
                            let mut found = book.prices().iter().filter(|price| {
                                (price.tenant, price.model.as_deref(), price.meter) == (owner, model, meter)
                                    && applies(price, &book, at)
                            });
                            let first = found.next();
                            assert!(found.next().is_none(), "two prices apply at once");
                            first
                        });
                        prop_assert_eq!(book.price(asking, model, &shared(), meter, at), scan);
                    }
                }
            }
        }
    }
}
