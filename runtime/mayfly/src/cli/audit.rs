//! `mayfly audit`: what was changed, by whom and when.

use mayfly_client::AuditQuery;
use serde_json::json;

use super::Session;
use super::args::Audit;
use super::output::table;
use super::usage::parse_time;

pub(super) async fn run(session: &Session, args: Audit) -> anyhow::Result<()> {
    let query = AuditQuery {
        since: args.since.as_deref().map(parse_time).transpose()?,
        until: args.until.as_deref().map(parse_time).transpose()?,
        actor: args.actor,
    };
    let entries = session.client.audit(&query, args.count).await?;
    session.print(&json!({ "data": entries }), |_| {
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| {
                let details = mayfly_api::clean_line(&entry.details.to_string());
                vec![entry.at.to_string(), entry.actor.clone(), entry.action.clone(), entry.target.clone(), details]
            })
            .collect();
        table(&["AT", "ACTOR", "ACTION", "TARGET", "DETAILS"], &rows)
    })
}
