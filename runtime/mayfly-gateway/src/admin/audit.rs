//! The trail of changes, newest first. The operator reads all of it, a deploy key what was done to things in its reach.

use axum::Json as Reply;
use axum::extract::State;
use mayfly_api::{AuditEntry, Page, Timestamp};
use mayfly_registry::{AuditQuery, AuditRow};
use mayfly_types::KeyId;
use serde::Deserialize;

use super::Answer;
use super::caller::Caller;
use super::params::{PageQuery, Params, cut};
use crate::Gateway;
use crate::access::Reach;
use crate::failure::Failure;

/// What no key did.
const SYSTEM: &str = "system";

/// Which part of the trail.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    actor: Option<KeyId>,
    after: Option<String>,
    limit: Option<u32>,
}

/// What was changed on the control plane, by whom and when, newest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit",
    params(("since" = Option<String>, Query, description = "Only at or after this time (RFC 3339)"), ("until" = Option<String>, Query, description = "Only before this time"), ("actor" = Option<String>, Query, description = "Only with this key (its id)"), ("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<AuditEntry>), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn read(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(query): Params<Query>,
) -> Answer<Reply<Page<AuditEntry>>> {
    if caller.reach == Reach::Nothing {
        return Err(Failure::scope("admin"));
    }
    let (tenant, project) = caller.confines();
    let below = match query.after.as_deref() {
        None => None,
        Some(after) => {
            Some(after.parse().map_err(|_| Failure::invalid("`after` is not the `next` of a page of this list"))?)
        }
    };
    let limit = PageQuery { after: None, limit: query.limit }.limit()?;
    let rows = AuditQuery {
        since: query.since.map(Timestamp::micros),
        until: query.until.map(Timestamp::micros),
        actor: query.actor,
        tenant,
        project,
        below,
        limit: limit + 1,
    };
    let found = gateway.records().audit_log(&rows).await?;
    Ok(Reply(cut(found.into_iter().map(shown).collect(), limit, |entry| entry.id.to_string())))
}

fn shown(row: AuditRow) -> AuditEntry {
    AuditEntry {
        id: row.id,
        at: Timestamp::from_micros(row.at),
        actor: row.actor.map_or_else(|| SYSTEM.to_owned(), |key| key.to_string()),
        request: row.request,
        tenant: row.tenant,
        project: row.project,
        action: row.action,
        target: mayfly_api::clean_line(&row.target),
        details: row.details,
    }
}
