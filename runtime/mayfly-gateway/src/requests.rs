//! Calls, as the ledger has them: found for whoever may see them, and shown.

use std::collections::BTreeMap;

use mayfly_api::{CallDetail, CallLine, Timestamp};
use mayfly_ledger::CallRecord;
use mayfly_types::RequestId;

use crate::Gateway;
use crate::access::Reach;
use crate::failure::Failure;

/// The call with this id, if it is within `reach`.
pub(crate) async fn find(gateway: &Gateway, reach: Reach, id: &str) -> Result<Option<CallRecord>, Failure> {
    let Ok(id) = id.parse::<RequestId>() else { return Ok(None) };
    let journal = &gateway.0.parts.journal;
    let tenants = match reach {
        Reach::Nothing => return Ok(None),
        Reach::Tenant(tenant) | Reach::Project(tenant, _) => vec![tenant],
        Reach::Host => gateway.records().tenants().await?.into_iter().map(|tenant| tenant.id).collect(),
    };
    for tenant in tenants {
        if let Some(record) = journal.call(tenant, id).await? {
            let call = &record.latest.call;
            return Ok(reach.covers(Some(call.tenant), Some(call.project)).then_some(record));
        }
    }
    Ok(None)
}

/// A call, to be shown.
pub(crate) fn detail(record: &CallRecord) -> CallDetail {
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
        lines: row
            .lines
            .iter()
            .map(|line| CallLine { meter: line.meter, model: line.model, quantity: line.quantity })
            .collect(),
    }
}
