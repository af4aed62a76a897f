//! The price book. The operator adds prices, which are never changed or removed; a tenant sees those for its calls.
//!
//! A price that begins in the past changes calls that have ended. The difference is shown first, and the price is
//! added only when the operator has said it back.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use http::StatusCode;
use mayfly_api::{self as api, ErrorCode, Page, PriceChange, PriceDifference, Timestamp};
use mayfly_ledger::{Difference, NewPrice, Price, PriceBook, PriceError};
use mayfly_registry::{Owner, actor};
use mayfly_types::{Money, Name, TenantId};
use tokio::sync::OwnedSemaphorePermit;

use super::Answer;
use super::caller::Caller;
use super::params::{Json, PageQuery, Params, page};
use crate::Gateway;
use crate::access::Reach;
use crate::failure::Failure;
use crate::repricing::Window;
use crate::time::now_micros;

/// Where every deployment runs today.
pub(crate) const SHARED: &str = "shared";
/// Below this, a price is shown for a million units, not for one.
const PER_UNIT_PICO_MIN: i64 = 1_000_000_000;
/// How old the `as_of` of a confirmation may be.
const AS_OF_MICROS_MAX: i64 = 3_600 * 1_000_000;
/// Characters of an amount, and of a currency, that are looked at.
const TEXT_CHARS_MAX: usize = 40;

/// The prices that apply to the key's calls, in the order they were entered; for the operator, all.
#[utoipa::path(get, path = "/api/v1/prices", tag = "prices",
    params(("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<api::Price>), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<Reply<Page<api::Price>>> {
    let own: BTreeSet<Name> = match caller.reach.tenant() {
        None => BTreeSet::new(),
        tenant => {
            let projects = gateway.records().projects(tenant).await?;
            projects.into_iter().filter(|project| caller.reach.sees(project)).map(|project| project.name).collect()
        }
    };
    let book = gateway.0.parts.calls.price_book();
    let seen = book.prices().iter().filter(|price| applies(price, caller.reach, &own));
    let prices: Vec<_> = seen.map(|price| show(price, gateway.currency())).collect();
    Ok(Reply(page(prices, query.after.as_deref(), query.limit()?, |price| format!("{:020}", price.id))))
}

/// Adds a price. For the operator only. One that begins in the past and changes what calls cost is answered with 409
/// and the difference, until `confirm_difference` says it; then those calls are corrected by new rows.
#[utoipa::path(post, path = "/api/v1/prices", tag = "prices", request_body = api::NewPrice,
    responses((status = 201, description = "Added, with what was corrected", body = PriceChange), (status = 409, description = "It overlaps with another price, or its difference has to be confirmed (`difference`, as from /api/v1/prices/check)", body = api::Problem), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn add(
    State(gateway): State<Gateway>,
    caller: Caller,
    Json(new): Json<api::NewPrice>,
) -> Answer<(StatusCode, Reply<PriceChange>)> {
    caller.operator()?;
    let turn = turn(&gateway)?;
    let this = gateway.clone();
    // A task of its own: a price that was added is corrected for, even if whoever asked has left.
    let adding = tokio::spawn(actor::keep(async move {
        let added = add_now(&this, &new).await;
        drop(turn);
        added
    }));
    let change = adding.await.map_err(|error| Failure::internal(&error.to_string()))??;
    Ok((StatusCode::CREATED, Reply(change)))
}

/// What adding a price would change. For the operator only; nothing is added.
#[utoipa::path(post, path = "/api/v1/prices/check", tag = "prices", request_body = api::NewPrice,
    responses((status = 200, description = "The price as it would be, and its difference", body = PriceChange), (status = "default", description = "A problem", body = api::Problem)))]
pub(crate) async fn check(
    State(gateway): State<Gateway>,
    caller: Caller,
    Json(new): Json<api::NewPrice>,
) -> Answer<Reply<PriceChange>> {
    caller.operator()?;
    let _turn = turn(&gateway)?;
    let wanted = Wanted::read(&gateway, &new).await?;
    let difference = wanted.difference(&gateway, &new).await?;
    Ok(Reply(PriceChange { price: show(&wanted.price, gateway.currency()), difference, note: wanted.note }))
}

/// One price at a time: each is checked against a book that holds the one before.
fn turn(gateway: &Gateway) -> Result<OwnedSemaphorePermit, Failure> {
    let turn = Arc::clone(&gateway.0.pricing).try_acquire_owned();
    turn.map_err(|_taken| Failure::busy("another price is being added or checked; try again when it is done"))
}

async fn add_now(gateway: &Gateway, new: &api::NewPrice) -> Result<PriceChange, Failure> {
    let wanted = Wanted::read(gateway, new).await?;
    let shown = wanted.difference(gateway, new).await?;
    confirmed(new.confirm_difference, shown.as_ref(), gateway.currency())?;
    let parts = &gateway.0.parts;
    let price = parts.prices.add_price(wanted.entry, wanted.now).await?.map_err(refused)?;
    parts.calls.set_price_book(PriceBook::new(parts.prices.prices().await?));
    let now = now_micros();
    let mut difference = None;
    if price.from < now {
        let window = Window::of(&price, now);
        // Before the first pass: should it fail, the second one completes it.
        gateway.reprice_later(window);
        let written = gateway.reprice(window, parts.calls.price_book(), true).await?;
        difference = shown.is_some().then(|| differs(written, now));
    }
    Ok(PriceChange { price: show(&price, gateway.currency()), difference, note: wanted.note })
}

/// Whether the operator has seen the difference as it is.
fn confirmed(given: Option<Money>, shown: Option<&PriceDifference>, currency: &str) -> Result<(), Failure> {
    let Some(shown) = shown.filter(|shown| shown.calls > 0) else {
        return match given {
            Some(given) if given != Money::ZERO => Err(Failure::new(
                ErrorCode::Conflict,
                format!("`confirm_difference` is {given}, but the price changes no call that has ended"),
            )),
            _ => Ok(()),
        };
    };
    if given == Some(shown.difference) {
        return Ok(());
    }
    let PriceDifference { calls, before, after, difference, as_of } = shown;
    let given = given.map(|given| format!(", not {given}")).unwrap_or_default();
    let message = format!(
        "`from` is in the past: the price changes what {calls} calls cost from {before} to {after} {currency}, a \
         difference of {difference}{given}; send `confirm_difference` = \"{difference}\" with `as_of` = \"{as_of}\" \
         to add it and correct them"
    );
    let shown = serde_json::to_value(shown).expect("plain data");
    Err(Failure::new(ErrorCode::Conflict, message).with_detail("difference", shown))
}

/// A price as asked for, checked against records and book.
struct Wanted {
    now: i64,
    entry: NewPrice,
    /// As it would be in the book.
    price: Price,
    note: Option<String>,
}

impl Wanted {
    async fn read(gateway: &Gateway, new: &api::NewPrice) -> Result<Self, Failure> {
        for (field, text) in [("amount", Some(&new.amount)), ("currency", new.currency.as_ref())] {
            if text.is_some_and(|text| text.chars().count() > TEXT_CHARS_MAX) {
                return Err(Failure::invalid(format!("`{field}` is longer than {TEXT_CHARS_MAX} characters")));
            }
        }
        let now = now_micros();
        let tenant = match &new.tenant {
            Some(named) => Some(tenant(gateway, named).await?),
            None => None,
        };
        let mut note = match &new.model {
            Some(name) => model(gateway, name, tenant).await?,
            None => None,
        };
        let shared: Name = SHARED.parse().expect("the text is a name");
        let pool = new.pool.clone().unwrap_or_else(|| shared.clone());
        if pool != shared {
            note = Some(format!("no deployment runs in the pool `{pool}`; the price applies to none"));
        }
        let entry = NewPrice {
            tenant,
            model: new.model.clone(),
            pool,
            meter: new.meter,
            amount: new.amount.clone(),
            per: new.per,
            currency: new.currency.clone().unwrap_or_else(|| gateway.currency().to_owned()),
            from: new.from.map_or(now, Timestamp::micros),
            until: new.until.map(Timestamp::micros),
        };
        let price = gateway.0.parts.calls.price_book().check(&entry, gateway.currency(), now).map_err(refused)?;
        Ok(Self { now, entry, price, note })
    }

    /// What it changes on calls that have ended; none if it begins now or later.
    async fn difference(&self, gateway: &Gateway, new: &api::NewPrice) -> Result<Option<PriceDifference>, Failure> {
        if self.price.from >= self.now {
            return Ok(None);
        }
        let as_of = as_of(new.as_of.map(Timestamp::micros), self.now)?;
        let mut prices = gateway.0.parts.calls.price_book().prices().to_vec();
        let id = prices.iter().map(|price| price.id).max().unwrap_or(0).saturating_add(1);
        prices.push(Price { id, ..self.price.clone() });
        let book = Arc::new(PriceBook::new(prices));
        let found = gateway.reprice(Window::of(&self.price, as_of), book, false).await?;
        Ok(Some(differs(found, as_of)))
    }
}

/// Until when calls are compared: a time that was shown a short while ago, or now.
fn as_of(given: Option<i64>, now: i64) -> Result<i64, Failure> {
    match given {
        None => Ok(now),
        Some(at) if (now.saturating_sub(AS_OF_MICROS_MAX)..=now).contains(&at) => Ok(at),
        Some(_) => Err(Failure::invalid("`as_of` is not within the last hour; check the price again for a newer one")),
    }
}

fn differs(Difference { calls, before, after }: Difference, as_of: i64) -> PriceDifference {
    let difference = after.saturating_sub(before);
    PriceDifference { calls, before, after, difference, as_of: Timestamp::from_micros(as_of) }
}

/// A tenant by id or name.
async fn tenant(gateway: &Gateway, text: &str) -> Result<TenantId, Failure> {
    let found = match text.parse() {
        Ok(id) => gateway.records().tenant(id).await?,
        Err(_no_id) => gateway.records().tenant_named(text).await?,
    };
    let missing = || Failure::invalid(format!("`tenant`: there is no tenant `{}`", short(text)));
    Ok(found.ok_or_else(missing)?.id)
}

/// Checks a model's name; a note if no model has it yet.
async fn model(gateway: &Gateway, text: &str, tenant: Option<TenantId>) -> Result<Option<String>, Failure> {
    let bad = |why: &str| Failure::invalid(format!("`model` is `{}`: {why}", short(text)));
    let (project, name) = match text.split_once('/') {
        Some((project, name)) => (Some(project), name),
        None => (None, text),
    };
    let expected = "expected a model's name, or `project/name` for a project's own model";
    let name: Name = name.parse().map_err(|_| bad(expected))?;
    let owner = match project {
        None => Owner::Host,
        Some(project) => {
            project.parse::<Name>().map_err(|_| bad(expected))?;
            let found = gateway.records().project_named(project).await?;
            let found = found.ok_or_else(|| bad("there is no such project"))?;
            if tenant.is_some_and(|tenant| tenant != found.tenant) {
                return Err(bad("the project is another tenant's, so no call of `tenant` can run on its model"));
            }
            Owner::Project(found.id)
        }
    };
    let there = gateway.records().model_named(owner, name.as_str()).await?.is_some();
    Ok((!there).then(|| format!("no model is named `{text}` yet; the price applies once one is")))
}

fn refused(error: PriceError) -> Failure {
    let (field, code) = match &error {
        PriceError::Amount(_) | PriceError::NotWhole { .. } => ("amount", ErrorCode::InvalidRequest),
        PriceError::Per(_) => ("per", ErrorCode::InvalidRequest),
        PriceError::Currency { .. } => ("currency", ErrorCode::InvalidRequest),
        PriceError::Empty => ("until", ErrorCode::InvalidRequest),
        PriceError::Overlaps { .. } => ("from", ErrorCode::Conflict),
        PriceError::Unpriced(_) => ("meter", ErrorCode::InvalidRequest),
        PriceError::Model(_) => ("model", ErrorCode::InvalidRequest),
    };
    Failure { param: Some(field), ..Failure::new(code, mayfly_api::clean_line(&format!("`{field}`: {error}"))) }
}

/// Whether a price can apply to calls within `reach`; `own` are the projects in it.
fn applies(price: &Price, reach: Reach, own: &BTreeSet<Name>) -> bool {
    if reach == Reach::Host {
        return true;
    }
    let project = price.model.as_deref().and_then(|model| model.split_once('/')).map(|(project, _)| project);
    reach.tenant().is_some_and(|tenant| price.tenant.is_none_or(|only| only == tenant))
        && project.is_none_or(|project| own.contains(project))
}

/// A price per unit as people read it: for one unit, or for a million.
pub(crate) fn per(pico_per_unit: i64) -> (Money, u64) {
    let per: u32 = if pico_per_unit >= PER_UNIT_PICO_MIN { 1 } else { 1_000_000 };
    (Money::from_pico(i128::from(pico_per_unit) * i128::from(per)), u64::from(per))
}

fn show(price: &Price, currency: &str) -> api::Price {
    let (amount, per) = per(price.pico_per_unit);
    api::Price {
        id: price.id,
        tenant: price.tenant,
        model: price.model.clone(),
        pool: price.pool.clone(),
        meter: price.meter,
        amount,
        per,
        currency: currency.to_owned(),
        from: Timestamp::from_micros(price.from),
        until: price.until.map(Timestamp::from_micros),
        created_at: (price.id > 0).then(|| Timestamp::from_micros(price.created_at)),
    }
}

fn short(text: &str) -> String {
    mayfly_api::clean_line(text).chars().take(81).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use mayfly_types::{Meter, ProjectId};

    fn price(tenant: Option<TenantId>, model: Option<&str>) -> Price {
        Price {
            id: 3,
            tenant,
            model: model.map(str::to_owned),
            pool: SHARED.parse().unwrap(),
            meter: Meter::InputTokens,
            pico_per_unit: 20_000,
            from: 0,
            until: None,
            created_at: 0,
        }
    }

    #[test]
    fn a_tenant_sees_the_prices_of_its_calls() {
        let (mine, other) = (TenantId::new(), TenantId::new());
        let own = BTreeSet::from(["shop".parse().unwrap()]);
        let check = |tenant, model, expect| {
            for reach in [Reach::Tenant(mine), Reach::Project(mine, ProjectId::new())] {
                assert_eq!(applies(&price(tenant, model), reach, &own), expect, "{tenant:?} {model:?} {reach:?}");
            }
            assert!(applies(&price(tenant, model), Reach::Host, &BTreeSet::new()), "the operator sees all");
            assert!(!applies(&price(tenant, model), Reach::Nothing, &own));
        };
        check(None, None, true);
        check(None, Some("minilm"), true);
        check(Some(mine), Some("minilm"), true);
        check(Some(other), None, false);
        check(None, Some("shop/own"), true);
        check(None, Some("theirs/secret-name"), false);
    }

    #[test]
    fn a_price_is_shown_as_people_read_it() {
        let check = |pico, amount: &str, units| assert_eq!(per(pico), (amount.parse().unwrap(), units), "{pico}");
        check(20_000, "0.02", 1_000_000);
        check(3_000_000, "3", 1_000_000);
        check(1, "0.000001", 1_000_000);
        check(0, "0", 1_000_000);
        check(PER_UNIT_PICO_MIN, "0.001", 1);
        assert_eq!(per(i64::MAX).0.pico(), i128::from(i64::MAX));
    }

    #[test]
    fn a_difference_has_to_be_said_back() {
        let money = |text: &str| text.parse::<Money>().unwrap();
        let shown = |calls, before: &str, after: &str| {
            differs(Difference { calls, before: money(before), after: money(after) }, 1_000_000)
        };
        let dearer = shown(3, "0.5", "0.75");
        assert_eq!(dearer.difference, money("0.25"));
        assert!(confirmed(Some(money("0.25")), Some(&dearer), "USD").is_ok());
        for given in [None, Some(money("0.2")), Some(money("-0.25"))] {
            let failure = confirmed(given, Some(&dearer), "USD").unwrap_err();
            assert_eq!(failure.code, ErrorCode::Conflict);
            assert!(failure.message.contains("from 0.5 to 0.75 USD") && failure.message.contains("\"0.25\""));
            assert!(failure.message.contains("1970-01-01T00:00:01Z"), "{}", failure.message);
        }
        let cheaper = shown(1, "0.5", "0.25");
        assert!(confirmed(Some(money("-0.25")), Some(&cheaper), "USD").is_ok());
        // The same sum can still be other prices on single calls.
        assert!(confirmed(None, Some(&shown(2, "0.5", "0.5")), "USD").is_err());
        assert!(confirmed(None, Some(&shown(0, "0", "0")), "USD").is_ok());
        assert!(confirmed(None, None, "USD").is_ok());
        assert!(confirmed(Some(money("1")), None, "USD").is_err(), "a difference that is not there");
    }

    #[test]
    fn a_confirmation_cannot_look_away() {
        let now = 10 * AS_OF_MICROS_MAX;
        assert_eq!(as_of(None, now).unwrap(), now);
        assert_eq!(as_of(Some(now - AS_OF_MICROS_MAX), now).unwrap(), now - AS_OF_MICROS_MAX);
        for at in [i64::MIN, now - AS_OF_MICROS_MAX - 1, now + 1] {
            assert!(as_of(Some(at), now).unwrap_err().message.contains("`as_of`"));
        }
    }

    #[test]
    fn every_refusal_names_the_field() {
        let check = |error: PriceError, field: &str, status| {
            let failure = refused(error);
            assert!(failure.message.starts_with(&format!("`{field}`: ")), "{}", failure.message);
            assert_eq!(failure.code.status(), status, "{}", failure.message);
        };
        check(PriceError::Amount("1e9".to_owned()), "amount", 400);
        check(PriceError::NotWhole { amount: "0.0000001".to_owned(), per: 1_000_000 }, "amount", 400);
        check(PriceError::Per(7), "per", 400);
        check(PriceError::Currency { given: "EUR".to_owned(), ours: "USD".to_owned() }, "currency", 400);
        check(PriceError::Empty, "until", 400);
        check(PriceError::Overlaps { with: 4 }, "from", 409);
        check(PriceError::Unpriced(Meter::GuestCpuMicros), "meter", 400);
        check(PriceError::Model("No Name".to_owned()), "model", 400);
    }
}
