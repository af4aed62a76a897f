//! `mayfly credit`: prepaid credit of a tenant, project, deployment or key.

use anyhow::Context as _;
use mayfly_api::{self as api, NewCredit};
use mayfly_client::Level;

use super::Session;
use super::args::{Credit, NamedLevel};
use super::output::table;

pub(super) async fn run(session: &Session, command: Credit) -> anyhow::Result<()> {
    let client = &session.client;
    match command {
        Credit::Grant { amount, note, to } => {
            let new = NewCredit { amount: amount.parse().context("the amount")?, note };
            let credit = client.grant_credit(level(session, &to), &new).await?;
            session.print(&credit, |credit| {
                format!(
                    "granted {} {} to {} {}\n{}",
                    new.amount,
                    credit.currency,
                    credit.level,
                    credit.id,
                    account(credit)
                )
            })
        }
        Credit::Show { of } => {
            let credit = client.credit(level(session, &of)).await?;
            session.print(&credit, |credit| {
                format!("{} {}\n{}{}", credit.level, credit.id, account(credit), grants(credit))
            })
        }
    }
}

/// The level that is named, or --project.
pub(super) fn level<'a>(session: &'a Session, named: &'a NamedLevel) -> Level<'a> {
    match named {
        NamedLevel { tenant: Some(tenant), .. } => Level::Tenant(tenant.as_str()),
        NamedLevel { deployment: Some(name), .. } => Level::Deployment(session.project(), name.as_str()),
        NamedLevel { key_id: Some(id), .. } => Level::Key(id),
        _ => Level::Project(session.project()),
    }
}

fn account(credit: &api::Credit) -> String {
    let api::Credit { granted, spent, balance, currency, .. } = credit;
    format!("granted {granted}, spent {spent}, left {balance} {currency}\n")
}

fn grants(credit: &api::Credit) -> String {
    let row = |grant: &api::CreditGrant| vec![grant.at.to_string(), grant.amount.to_string(), grant.note.clone()];
    let rows: Vec<_> = credit.grants.iter().map(row).collect();
    if rows.is_empty() { String::new() } else { table(&["AT", "AMOUNT", "NOTE"], &rows) }
}
