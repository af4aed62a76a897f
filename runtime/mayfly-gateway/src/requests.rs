//! Calls, as the ledger has them: found for whoever may see them, and shown.

use std::collections::BTreeMap;

use mayfly_api::{CallDetail, CallLine, Timestamp};
use mayfly_ledger::{CallRecord, PriceBook, RowLine};
use mayfly_types::{Money, RequestId};

use crate::Gateway;
use crate::access::Reach;
use crate::failure::Failure;

/// The call with this id, if it is within `reach`.
pub(crate) async fn find(gateway: &Gateway, reach: Reach, id: &str) -> Result<Option<CallRecord>, Failure> {
    let Ok(id) = id.parse::<RequestId>() else { return Ok(None) };
    let tenant = match reach {
        Reach::Nothing => return Ok(None),
        Reach::Tenant(tenant) | Reach::Project(tenant, _) => Some(tenant),
        Reach::Host => None,
    };
    let found = gateway.0.parts.journal.call(tenant, id).await?;
    Ok(found.filter(|record| reach.covers(Some(record.latest.call.tenant), Some(record.latest.call.project))))
}

/// A call, to be shown.
pub(crate) fn detail(gateway: &Gateway, record: &CallRecord) -> CallDetail {
    let calls = &gateway.0.parts.calls;
    shown(record, &calls.price_book(), calls.currency())
}

fn shown(record: &CallRecord, book: &PriceBook, currency: &str) -> CallDetail {
    let row = &record.latest;
    let call = &row.call;
    let mut usage = BTreeMap::new();
    for line in &row.lines {
        let sum = usage.entry(line.meter.as_str().to_owned()).or_insert(0_i64);
        *sum = sum.saturating_add(line.quantity);
    }
    CallDetail {
        id: call.id,
        tenant: call.tenant,
        project: call.project,
        deployment: call.deployment_name.clone(),
        deployment_id: call.served,
        revision: call.revision,
        key: call.key,
        end_user: call.end_user.as_deref().map(mayfly_api::clean_line),
        ended: record.ended,
        outcome: row.outcome.map(|outcome| outcome.as_str().to_owned()),
        owed: row.outcome.map(mayfly_ledger::Outcome::is_owed),
        status: row.status,
        cold: row.cold.as_deref().map(str::to_owned),
        opened_at: Timestamp::from_micros(call.opened_at),
        duration_micros: row.duration_micros,
        usage,
        lines: row.lines.iter().map(|line| shown_line(line, book)).collect(),
        cost: Money::from_pico(row.lines.iter().filter_map(|line| line.amount).map(i128::from).sum()),
        currency: currency.to_owned(),
    }
}

fn shown_line(line: &RowLine, book: &PriceBook) -> CallLine {
    let price = line.price.and_then(|id| book.prices().iter().find(|price| price.id == id));
    CallLine {
        meter: line.meter,
        model: line.model,
        quantity: line.quantity,
        price: price.map(|price| Money::from_pico(price.pico_per_unit.into())),
        amount: line.amount.map(|amount| Money::from_pico(amount.into())),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use mayfly_ledger::{Call, Channel, CountedBy, Kind, Outcome, Price, Row};
    use mayfly_types::{DeploymentId, KeyId, Meter, ProjectId, RevisionId, TenantId};

    use super::*;

    fn row(lines: Vec<RowLine>) -> Row {
        let (id, tenant, deployment) = (RequestId::new(), TenantId::new(), DeploymentId::new());
        let call = Call {
            id,
            parent: None,
            root: id,
            attempt: 1,
            tenant,
            payer: tenant,
            project: ProjectId::new(),
            requested: deployment,
            served: deployment,
            revision: RevisionId::new(),
            deployment_name: "chat".parse().unwrap(),
            key: KeyId::new(),
            end_user: Some("anna\u{1b}[31m".into()),
            channel: Channel::Api,
            counted_by: CountedBy::Host,
            opened_at: 0,
        };
        Row {
            kind: Kind::Settle,
            call: Arc::new(call),
            at: 10,
            lines,
            outcome: Some(Outcome::Completed),
            status: 200,
            cold: None,
            duration_micros: Some(10),
        }
    }

    #[test]
    fn a_call_is_shown_with_price_amount_and_cost() {
        let price = Price {
            id: 7,
            tenant: None,
            model: None,
            pool: "shared".parse().unwrap(),
            meter: Meter::InputTokens,
            pico_per_unit: 20_000_000,
            from: 0,
            until: None,
            created_at: 0,
        };
        let line = |meter, quantity, price, amount| RowLine { meter, model: None, quantity, price, amount };
        let lines =
            vec![line(Meter::InputTokens, 8, Some(7), Some(160_000_000)), line(Meter::GuestCpuMicros, 70, None, None)];
        let record = CallRecord { latest: row(lines), ended: true };
        let json = serde_json::to_value(shown(&record, &PriceBook::new(vec![price]), "EUR")).unwrap();
        assert_eq!((&json["cost"], &json["currency"]), (&"0.00016".into(), &"EUR".into()));
        let expect = serde_json::json!([
            {"meter": "input_tokens", "quantity": 8, "price": "0.00002", "amount": "0.00016"},
            {"meter": "guest_cpu_micros", "quantity": 70}]);
        assert_eq!(json["lines"], expect);
        assert_eq!(json["end_user"], "anna[31m", "nothing that steers a terminal");
    }

    #[test]
    fn what_is_not_owed_costs_nothing() {
        let record = CallRecord { latest: row(Vec::new()).into_void(Outcome::Replayed), ended: true };
        let detail = shown(&record, &PriceBook::default(), "EUR");
        assert_eq!((detail.cost, detail.owed, detail.outcome.as_deref()), (Money::ZERO, Some(false), Some("replayed")));
    }
}
