//! Sums of usage, from the ledger. The tenant comes from the key; only the operator may name another.

use std::collections::BTreeMap;

use axum::Json as Reply;
use axum::extract::State;
use mayfly_api::{Timestamp, Usage, UsageGroup};
use mayfly_ledger::{GroupBy, UsageQuery, UsageRow};
use mayfly_types::{Money, Name};
use serde::Deserialize;

use super::Answer;
use super::caller::Caller;
use super::params::Params;
use crate::Gateway;
use crate::access::Reach;
use crate::failure::Failure;

/// Which calls, kept apart by what.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    group_by: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    tenant: Option<String>,
    project: Option<String>,
    deployment: Option<Name>,
    key: Option<String>,
    model: Option<String>,
    end_user: Option<String>,
}

/// Characters of an end user's name, as the data plane takes them.
const END_USER_CHARS_MAX: usize = 128;

/// Sums of usage.
#[utoipa::path(get, path = "/api/v1/usage", tag = "usage",
    params(("group_by" = Option<String>, Query, description = "Comma-separated: tenant, project, deployment, model, key, end_user, hour, day"),
        ("since" = Option<String>, Query, description = "Calls that began at this time or later, taken down to the whole hour"), ("until" = Option<String>, Query, description = "Calls that began before this time, taken up to the whole hour"),
        ("tenant" = Option<String>, Query, description = "A tenant's name or id; for the operator"), ("project" = Option<String>, Query, description = "A project's name or id"),
        ("deployment" = Option<String>, Query, description = "A deployment's name; needs `project`"), ("key" = Option<String>, Query, description = "A key's id"),
        ("model" = Option<String>, Query, description = "A model's id"), ("end_user" = Option<String>, Query, description = "What callers said their user is (`x-mayfly-end-user`)")),
    responses((status = 200, description = "Sums", body = Usage), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn read(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(asked): Params<Asked>,
) -> Answer<Reply<Usage>> {
    let groups = groups(asked.group_by.as_deref().unwrap_or(""))?;
    let query = query(&gateway, &caller, &asked, groups.iter().map(|(_, group)| *group).collect()).await?;
    let journal = &gateway.0.parts.journal;
    let rows = journal.usage(&query).await?;
    // Asked for by itself: a call that ran on two models is in two groups, and in the total once.
    let all = if groups.is_empty() {
        rows.clone()
    } else {
        journal.usage(&UsageQuery { group_by: Vec::new(), ..query }).await?
    };
    let total = fold(&[], all).into_iter().next().unwrap_or_else(nothing);
    let names: Vec<String> = groups.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut data = fold(&names, rows);
    name_records(&gateway, &mut data).await?;
    Ok(Reply(Usage { group_by: names, data, total, currency: gateway.currency().to_owned() }))
}

async fn query(
    gateway: &Gateway,
    caller: &Caller,
    asked: &Asked,
    group_by: Vec<GroupBy>,
) -> Result<UsageQuery, Failure> {
    let (mut tenant, mut project) = caller.confines();
    // One that was deleted has no name any more, but its id.
    if let Some(text) = &asked.tenant {
        let found = match text.parse() {
            Ok(id) => gateway.records().tenant(id).await?,
            Err(_no_id) => gateway.records().tenant_named(text).await?,
        };
        let own = found.filter(|found| caller.reach == Reach::Host || tenant == Some(found.id));
        tenant = Some(own.ok_or_else(|| Failure::not_found("tenant"))?.id);
    }
    if let Some(text) = &asked.project {
        let found = match text.parse() {
            Ok(id) => gateway.records().project(id).await?,
            Err(_no_id) => gateway.records().project_named(text).await?,
        };
        let seen = found.filter(|project| caller.reach.sees(project));
        project = Some(seen.ok_or_else(|| Failure::not_found("project"))?.id);
    }
    let deployment = match (&asked.deployment, &asked.project) {
        (None, _) => None,
        (Some(_), None) => return Err(Failure::invalid("`deployment` needs `project` beside it")),
        (Some(name), Some(project)) => Some(caller.deployment(gateway, project.as_str(), name.as_str()).await?.1.id),
    };
    let bad = |what: &str| Failure::invalid(format!("`{what}` is not a {what}'s id"));
    Ok(UsageQuery {
        tenant,
        project,
        deployment,
        key: asked.key.as_deref().map(str::parse).transpose().map_err(|_| bad("key"))?,
        model: asked.model.as_deref().map(str::parse).transpose().map_err(|_| bad("model"))?,
        since: asked.since.map(Timestamp::micros),
        until: asked.until.map(Timestamp::micros),
        end_user: asked.end_user.as_deref().map(end_user).transpose()?,
        group_by,
    })
}

fn end_user(text: &str) -> Result<String, Failure> {
    if text.is_empty() || text.chars().count() > END_USER_CHARS_MAX {
        return Err(Failure::invalid(format!("`end_user` must have 1 to {END_USER_CHARS_MAX} characters")));
    }
    Ok(text.to_owned())
}

/// Looks up what people call the records of each group, each record once.
async fn name_records(gateway: &Gateway, data: &mut [UsageGroup]) -> Result<(), Failure> {
    let mut known: BTreeMap<(String, String), Option<String>> = BTreeMap::new();
    for group in data {
        for (kind, id) in &group.group {
            let asked = (kind.clone(), id.clone());
            let name = match known.get(&asked) {
                Some(name) => name.clone(),
                None => {
                    let name = name_of(gateway, kind, id).await?;
                    known.insert(asked, name.clone());
                    name
                }
            };
            group.names.extend(name.map(|name| (kind.clone(), name)));
        }
    }
    Ok(())
}

async fn name_of(gateway: &Gateway, kind: &str, id: &str) -> Result<Option<String>, Failure> {
    let records = gateway.records();
    Ok(match kind {
        "tenant" => match id.parse() {
            Ok(id) => records.tenant(id).await?.map(|tenant| tenant.name.to_string()),
            Err(_) => None,
        },
        "project" => match id.parse() {
            Ok(id) => gateway.project(id).await?.map(|project| project.name.to_string()),
            Err(_) => None,
        },
        "deployment" => match id.parse() {
            Ok(id) => match records.deployment(id).await? {
                Some(deployment) => {
                    let project = gateway.project(deployment.project).await?;
                    project.map(|project| format!("{}/{}", project.name, deployment.name))
                }
                None => None,
            },
            Err(_) => None,
        },
        "model" => match id.parse() {
            Ok(id) => records.model(id).await?.map(|model| model.name.to_string()),
            Err(_) => None,
        },
        "key" => match id.parse() {
            Ok(id) => {
                records.key(id).await?.map(|key| mayfly_api::clean_line(&format!("{} {}", key.prefix, key.label)))
            }
            Err(_) => None,
        },
        _ => None,
    })
}

const GROUPS: &[(&str, GroupBy)] = &[
    ("tenant", GroupBy::Tenant),
    ("project", GroupBy::Project),
    ("deployment", GroupBy::Deployment),
    ("model", GroupBy::Model),
    ("key", GroupBy::Key),
    ("end_user", GroupBy::EndUser),
    ("hour", GroupBy::Hour),
    ("day", GroupBy::Day),
];

fn groups(text: &str) -> Result<Vec<(&'static str, GroupBy)>, Failure> {
    let mut found: Vec<(&'static str, GroupBy)> = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let Some(group) = GROUPS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = GROUPS.iter().map(|(known, _)| *known).collect();
            let name = mayfly_api::clean_line(name);
            return Err(Failure::invalid(format!("`group_by` does not know `{name}`; it takes {}", known.join(", "))));
        };
        if !found.contains(group) {
            found.push(*group);
        }
    }
    Ok(found)
}

/// The sums of one group as they add up.
#[derive(Default)]
struct Sums {
    calls: i64,
    usage: BTreeMap<String, i64>,
    cost: Option<Money>,
}

impl Sums {
    fn add(&mut self, row: &UsageRow) {
        let sum = match row.meter {
            None => &mut self.calls,
            Some(meter) => self.usage.entry(meter.as_str().to_owned()).or_default(),
        };
        *sum = sum.saturating_add(row.quantity);
        if let Some(cost) = row.cost {
            self.cost = Some(self.cost.unwrap_or_default().saturating_add(cost));
        }
    }
}

/// Rows of one group become one entry.
fn fold(names: &[String], rows: Vec<UsageRow>) -> Vec<UsageGroup> {
    let mut groups: BTreeMap<Vec<String>, Sums> = BTreeMap::new();
    for mut row in rows {
        let group = std::mem::take(&mut row.group);
        groups.entry(group).or_default().add(&row);
    }
    groups
        .into_iter()
        .map(|(values, Sums { calls, usage, cost })| UsageGroup {
            group: names.iter().cloned().zip(values.iter().map(|value| mayfly_api::clean_line(value))).collect(),
            names: BTreeMap::new(),
            calls,
            usage,
            cost,
        })
        .collect()
}

/// The sums where there were no calls.
fn nothing() -> UsageGroup {
    UsageGroup { group: BTreeMap::new(), names: BTreeMap::new(), calls: 0, usage: BTreeMap::new(), cost: None }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use mayfly_types::Meter;

    #[test]
    fn what_to_keep_apart() {
        assert!(groups("").unwrap().is_empty());
        let names: Vec<_> = groups("day, project,day").unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["day", "project"]);
        assert!(groups("colour").unwrap_err().message.contains("colour"));
    }

    fn row(group: &[&str], meter: Option<Meter>, quantity: i64, cost: Option<&str>) -> UsageRow {
        let group = group.iter().map(ToString::to_string).collect();
        UsageRow { group, meter, quantity, cost: cost.map(|cost| cost.parse().unwrap()) }
    }

    #[test]
    fn rows_of_a_group_become_one() {
        let folded = fold(
            &["day".to_owned()],
            vec![
                row(&["2"], None, 3, None),
                row(&["1"], Some(Meter::InputTokens), 8, Some("0.25")),
                row(&["1"], None, 2, None),
                row(&["1"], Some(Meter::Rows), 1, Some("0.5")),
                row(&["2"], Some(Meter::Rows), 1, None),
            ],
        );
        assert_eq!(folded.len(), 2);
        assert_eq!((folded[0].calls, folded[0].usage["input_tokens"], folded[0].usage["rows"]), (2, 8, 1));
        assert_eq!(folded[0].cost, Some("0.75".parse().unwrap()));
        assert_eq!((folded[1].group["day"].as_str(), folded[1].calls), ("2", 3));
        assert_eq!(folded[1].cost, None, "nothing was priced, which is not the same as free");
    }

    #[test]
    fn no_groups_is_one_group() {
        let folded = fold(&[], vec![row(&[], None, 2, None)]);
        assert_eq!((folded.len(), folded[0].calls, folded[0].group.len()), (1, 2, 0));
    }

    #[test]
    fn an_end_user_has_a_length() {
        assert_eq!(end_user("ada@example.com").unwrap(), "ada@example.com");
        for bad in ["", &"x".repeat(129)] {
            assert!(end_user(bad).unwrap_err().message.contains("`end_user`"));
        }
    }
}
