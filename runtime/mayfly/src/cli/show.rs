//! Deployments as they are: list, show, logs.

use std::io::Write as _;

use mayfly_api::{Deployment, DeploymentSummary, LogLine};
use mayfly_types::Name;
use serde_json::json;

use super::Session;
use super::output::table;

pub(super) async fn list(session: &Session) -> anyhow::Result<()> {
    let deployments = session.client.deployments(session.project()).await?;
    session.print(&json!({ "data": deployments }), |_| {
        let rows: Vec<_> = deployments.iter().map(row).collect();
        table(&["NAME", "REVISION", "TIER", "URL"], &rows)
    })
}

fn row(deployment: &DeploymentSummary) -> Vec<String> {
    vec![
        deployment.name.to_string(),
        deployment.revision.map_or_else(|| "-".to_owned(), |number| number.to_string()),
        deployment.tier.map_or("-", |tier| tier.as_str()).to_owned(),
        deployment.url.clone(),
    ]
}

pub(super) async fn show(session: &Session, name: &Name) -> anyhow::Result<()> {
    let deployment = session.client.deployment(session.project(), name.as_str()).await?;
    let revisions = session.client.revisions(session.project(), name.as_str()).await?;
    let value = json!({ "deployment": deployment, "revisions": revisions });
    session.print(&value, |_| {
        let mut text = describe(&deployment);
        text.push_str("revisions\n");
        for revision in &revisions {
            let mark = if revision.active { "*" } else { " " };
            text.push_str(&format!(
                "  {mark} {:<4} {}  {}\n",
                revision.number, revision.created_at, revision.handler.digest
            ));
        }
        text
    })
}

fn describe(deployment: &Deployment) -> String {
    let mut text = format!("{}\n{}\n", deployment.name, deployment.url);
    if let Some(status) = &deployment.status {
        text.push_str(&format!(
            "tier       {} ({} calls running, code {})\n",
            status.tier.as_str(),
            status.calls,
            if status.code_mapped { "mapped" } else { "not in memory" },
        ));
        for model in &status.models {
            let state = if model.loaded { "loaded" } else { "not in memory" };
            let kept = if model.kept { ", kept loaded" } else { "" };
            text.push_str(&format!("model      {} {state}{kept}\n", model.alias));
        }
    }
    if let Some(revision) = &deployment.revision {
        let handler = revision.handler.builtin.clone().unwrap_or_else(|| revision.handler.digest.to_string());
        text.push_str(&format!("handler    {handler}\n"));
        for (alias, grant) in &revision.models {
            let name = grant.name.as_ref().map_or("(removed)", Name::as_str);
            text.push_str(&format!("grant      {alias} = {name} on {}\n", grant.device));
        }
        for (key, value) in &revision.config {
            text.push_str(&format!("config     {key} = {value}\n"));
        }
        for blocked in &revision.filter.block {
            text.push_str(&format!("blocked    {blocked:?}\n"));
        }
        if revision.share_prefixes {
            text.push_str("prefixes   shared by all callers\n");
        }
        if let Ok(serde_json::Value::Object(scale)) = serde_json::to_value(revision.scale) {
            for (name, value) in scale {
                text.push_str(&format!("scale      {name} = {value}\n"));
            }
        }
        if let Ok(serde_json::Value::Object(limits)) = serde_json::to_value(&revision.limits) {
            for (limit, value) in limits {
                text.push_str(&format!("limit      {limit} = {value}\n"));
            }
        }
    }
    text
}

pub(super) async fn logs(session: &Session, name: &Name, tail: u32, follow: bool) -> anyhow::Result<()> {
    let mut lines = session.client.logs(session.project(), name.as_str(), tail, follow).await?;
    let mut out = std::io::stdout().lock();
    while let Some(line) = lines.next().await? {
        let written = if session.global.json {
            writeln!(out, "{}", serde_json::to_string(&line)?)
        } else {
            writeln!(out, "{}", text(&line))
        };
        // The reader of a pipe may leave whenever it likes.
        if written.is_err() {
            break;
        }
    }
    Ok(())
}

fn text(line: &LogLine) -> String {
    // The server strips control characters; a server that does not must not reach the terminal either.
    let clean: String = line.text.chars().filter(|c| !c.is_control()).collect();
    format!("{} {:<6} {clean}", line.at, line.stream)
}
