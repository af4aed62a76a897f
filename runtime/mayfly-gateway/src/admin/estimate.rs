//! What a call would cost at the prices of now. Texts are counted with the model's own tokenizer; no model is loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use mayfly_api::{Estimate, EstimateInput, EstimateLine, LinePrice, NewEstimate, Problem};
use mayfly_inference::{EncodeOptions, Package, TokenizerError};
use mayfly_ledger::{PriceBook, Tariff};
use mayfly_registry::Resolved;
use mayfly_types::{Meter, ModelId, Money, Name};

use super::Answer;
use super::caller::Caller;
use super::params::Json;
use super::prices::{SHARED, per};
use crate::Gateway;
use crate::failure::Failure;
use crate::time::now_micros;

/// The most texts of one estimate.
const TEXTS_MAX: usize = 1024;

/// Prices a call without running it.
#[utoipa::path(post, path = "/api/v1/estimate", tag = "prices", request_body = NewEstimate,
    responses((status = 200, description = "What it would cost now", body = Estimate), (status = "default", description = "A problem", body = Problem)))]
pub(crate) async fn estimate(
    State(gateway): State<Gateway>,
    caller: Caller,
    Json(new): Json<NewEstimate>,
) -> Answer<Reply<Estimate>> {
    let (project, deployment) = caller.deployment(&gateway, new.project.as_str(), new.deployment.as_str()).await?;
    let mut quantities = check(&new)?;
    let resolved = gateway.0.parts.directory.resolve(project.name.as_str(), deployment.name.as_str()).await?;
    let resolved = resolved.ok_or_else(|| Failure::not_found("deployment"))?;
    let granted = granted(&resolved, new.model.as_ref())?;
    let mut truncated = 0;
    if let Some(input) = new.input {
        let missing = || Failure::invalid("`input`: the deployment has no model to count it with");
        let (_, package) = granted.as_ref().ok_or_else(missing)?;
        let counted = count(&gateway, Arc::clone(package), input).await?;
        quantities.insert(Meter::InputTokens, counted.tokens);
        truncated = counted.truncated;
    }
    let named = |id: ModelId| Some((id, resolved.price_names.get(&id)?.clone()));
    let model = granted.and_then(|(id, _)| named(id));
    let tariff = Tariff {
        book: gateway.0.parts.calls.price_book(),
        tenant: project.tenant,
        pool: SHARED.parse().expect("the text is a name"),
        at: now_micros(),
        models: Arc::clone(&resolved.price_names),
    };
    let lines = lines(&tariff, model.as_ref(), quantities)?;
    Ok(Reply(sum(lines, gateway.currency(), truncated)))
}

/// Whether it says enough and nothing twice; the quantities by meter.
fn check(new: &NewEstimate) -> Result<BTreeMap<Meter, u64>, Failure> {
    if new.input.is_none() && new.quantities.is_empty() {
        return Err(Failure::invalid("give `input`, or `quantities` by meter"));
    }
    if new.input.is_some() && new.quantities.contains_key(Meter::InputTokens.as_str()) {
        return Err(Failure::invalid("`quantities` has `input_tokens`, which are counted from `input`; leave one out"));
    }
    let meter = |(text, quantity): (&String, &u64)| match text.parse::<Meter>() {
        Ok(meter) => Ok((meter, *quantity)),
        Err(error) => Err(Failure::invalid(mayfly_api::clean_line(&format!("`quantities`: {error}")))),
    };
    new.quantities.iter().map(meter).collect()
}

/// The model of that alias; without one, the only model. None if the deployment has no models.
fn granted(resolved: &Resolved, alias: Option<&Name>) -> Result<Option<(ModelId, Arc<Package>)>, Failure> {
    let models = &resolved.grants.models;
    let all = || models.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
    match alias {
        Some(alias) => match models.get(alias) {
            Some(grant) => Ok(Some((grant.model, Arc::clone(&grant.package)))),
            None if models.is_empty() => Err(Failure::invalid("`model`: the deployment has no models")),
            None => Err(Failure::invalid(format!("`model`: the deployment has no `{alias}`; it has {}", all()))),
        },
        None if models.len() > 1 => {
            Err(Failure::invalid(format!("`model` is missing: the deployment has several, {}", all())))
        }
        None => Ok(models.values().next().map(|grant| (grant.model, Arc::clone(&grant.package)))),
    }
}

struct Counted {
    tokens: u64,
    truncated: u32,
}

/// Tokens that the encoder makes of the texts, unpadded.
async fn count(gateway: &Gateway, package: Arc<Package>, input: EstimateInput) -> Result<Counted, Failure> {
    let texts = match input {
        EstimateInput::One(text) => vec![text],
        EstimateInput::Many(texts) => texts,
    };
    if texts.is_empty() {
        return Err(Failure::invalid("`input` is empty"));
    }
    let place = Arc::clone(&gateway.0.estimates).try_acquire_owned();
    let place = place.map_err(|_full| Failure::busy("too many estimates are being counted; try again"))?;
    let encode = move || {
        let _place = place;
        let options = EncodeOptions { special_tokens: true, max_tokens: None };
        // One after the other, so that only one encoding is held.
        let mut counted = Counted { tokens: 0, truncated: 0 };
        check_texts(&texts)?;
        for text in &texts {
            for encoding in package.encode(std::slice::from_ref(text), options)? {
                counted.tokens = counted.tokens.saturating_add(encoding.ids.len() as u64);
                counted.truncated += u32::from(encoding.truncated);
            }
        }
        Ok(counted)
    };
    let counted = tokio::task::spawn_blocking(encode).await.map_err(|error| Failure::internal(&error.to_string()))?;
    counted.map_err(|error| match error {
        TokenizerError::None => {
            Failure::invalid("`input`: the model has no tokenizer; give `quantities` by meter instead")
        }
        TokenizerError::Invalid(text) => Failure::invalid(format!("`input`: {text}")),
        TokenizerError::Failed { detail } => Failure::internal(&format!("an estimate's tokenizer: {detail}")),
    })
}

fn check_texts(texts: &[String]) -> Result<(), TokenizerError> {
    if texts.len() > TEXTS_MAX {
        let given = texts.len();
        return Err(TokenizerError::Invalid(format!("{given} texts; at most {TEXTS_MAX} are taken in one estimate")));
    }
    Ok(())
}

fn lines(
    tariff: &Tariff,
    model: Option<&(ModelId, String)>,
    quantities: BTreeMap<Meter, u64>,
) -> Result<Vec<EstimateLine>, Failure> {
    let line = |(meter, quantity): (Meter, u64)| {
        let model = model.filter(|_| meter != Meter::GuestCpuMicros);
        if model.is_none() && meter != Meter::GuestCpuMicros {
            return Err(Failure::invalid(format!("`quantities.{meter}`: the deployment has no model to count it")));
        }
        let quantity = i64::try_from(quantity)
            .map_err(|_| Failure::invalid(format!("`quantities.{meter}` is {quantity}; at most {} fits", i64::MAX)))?;
        let priced = tariff.amount(meter, model.map(|(id, _)| *id), quantity);
        Ok(EstimateLine {
            meter,
            model: model.map(|(id, _)| *id),
            model_name: model.map(|(_, name)| name.clone()),
            quantity,
            price: priced.and_then(|(id, _)| price(&tariff.book, id)),
            cost: priced.map(|(_, amount)| Money::from_pico(amount.into())),
        })
    };
    quantities.into_iter().map(line).collect()
}

fn price(book: &PriceBook, id: i64) -> Option<LinePrice> {
    let found = book.prices().iter().find(|price| price.id == id)?;
    let (amount, per) = per(found.pico_per_unit);
    Some(LinePrice { id, amount, per })
}

fn sum(lines: Vec<EstimateLine>, currency: &str, truncated: u32) -> Estimate {
    let costs = lines.iter().filter_map(|line| line.cost).map(Money::pico);
    Estimate {
        cost: Money::from_pico(costs.fold(0, i128::saturating_add)),
        currency: currency.to_owned(),
        unpriced: lines.iter().filter(|line| line.cost.is_none()).map(|line| line.meter).collect(),
        truncated,
        lines,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use mayfly_ledger::Price;
    use mayfly_types::TenantId;

    fn tariff(model: &(ModelId, String)) -> Tariff {
        let price = Price {
            id: 1,
            tenant: None,
            model: Some("minilm".to_owned()),
            pool: SHARED.parse().unwrap(),
            meter: Meter::InputTokens,
            pico_per_unit: 20_000,
            from: 0,
            until: None,
            created_at: 0,
        };
        Tariff {
            book: Arc::new(PriceBook::new(vec![price])),
            tenant: TenantId::new(),
            pool: SHARED.parse().unwrap(),
            at: 10,
            models: Arc::new(BTreeMap::from([model.clone()])),
        }
    }

    #[test]
    fn priced_and_unpriced_lines() {
        let model = (ModelId::new(), "minilm".to_owned());
        let tariff = tariff(&model);
        let asked = BTreeMap::from([(Meter::InputTokens, 1_000_000), (Meter::Rows, 3)]);
        let estimate = sum(lines(&tariff, Some(&model), asked).unwrap(), "USD", 0);
        assert_eq!(estimate.cost, "0.02".parse().unwrap());
        assert_eq!(estimate.unpriced, [Meter::Rows]);
        let price = estimate.lines[0].price.clone().unwrap();
        assert_eq!((price.id, price.amount, price.per), (1, "0.02".parse().unwrap(), 1_000_000));
        assert_eq!((estimate.lines[1].quantity, estimate.lines[1].cost), (3, None));
    }

    #[test]
    fn quantities_that_cannot_be() {
        let model = (ModelId::new(), "minilm".to_owned());
        let check = |model: Option<&(ModelId, String)>, meter, quantity| {
            let tariff = tariff(&(ModelId::new(), "minilm".to_owned()));
            lines(&tariff, model, BTreeMap::from([(meter, quantity)])).unwrap_err().message
        };
        assert!(check(Some(&model), Meter::OutputTokens, u64::MAX).contains("`quantities.output_tokens`"));
        assert!(check(None, Meter::InputTokens, 1).contains("no model"));
    }

    #[test]
    fn what_has_to_be_said() {
        let new = |body: &str| serde_json::from_str::<NewEstimate>(body).unwrap();
        let place = r#""project": "p", "deployment": "d""#;
        assert!(check(&new(&format!("{{{place}}}"))).is_err());
        assert!(check(&new(&format!(r#"{{{place}, "input": "a"}}"#))).is_ok());
        assert!(check(&new(&format!(r#"{{{place}, "input": ["a"], "quantities": {{"output_tokens": 9}}}}"#))).is_ok());
        let both = format!(r#"{{{place}, "input": ["a"], "quantities": {{"input_tokens": 9}}}}"#);
        assert!(check(&new(&both)).unwrap_err().message.contains("input_tokens"));
        let unknown = new(&format!(r#"{{{place}, "quantities": {{"tokens": 1}}}}"#));
        assert!(check(&unknown).unwrap_err().message.contains("`tokens`"));
        for bad in [r#""quantities": {"rows": -1}"#, r#""quantities": {"rows": 0.5}"#] {
            assert!(serde_json::from_str::<NewEstimate>(&format!("{{{place}, {bad}}}")).is_err(), "{bad}");
        }
    }
}
