//! What deployments do right now: those above zero, and those that were called lately.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use mayfly_api::{DeploymentActivity, Page, Timestamp};
use mayfly_calls::{Activity, DeploymentStatus, Tier};
use mayfly_registry::Resolved;
use mayfly_types::{DeploymentId, Meter, Name};

use super::Answer;
use super::caller::Caller;
use super::deployments::tier;
use super::params::{PageQuery, Params, page};
use crate::Gateway;
use crate::failure::Failure;

/// Deployments within the key's reach that are warm on this node or were called lately, by project and name.
#[utoipa::path(get, path = "/api/v1/activity", tag = "operations",
    params(("after" = Option<String>, Query, description = "The `next` of the page before"), ("limit" = Option<u32>, Query, description = "Entries, at most 500")),
    responses((status = 200, description = "One page", body = Page<DeploymentActivity>), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<Reply<Page<DeploymentActivity>>> {
    let limit = query.limit()?;
    let seen = watched(&gateway).await?.into_iter().filter(|one| caller.reach.sees(&one.resolved.project));
    let mut data: Vec<_> = seen.map(|one| shown(&one)).collect();
    data.sort_by_cached_key(place);
    Ok(Reply(page(data, query.after.as_deref(), limit, place)))
}

/// Where an entry stands in the list.
fn place(entry: &DeploymentActivity) -> String {
    format!("{}/{}", entry.project, entry.name)
}

/// A deployment that is above zero or was called lately.
pub(super) struct Watched {
    pub(super) resolved: Arc<Resolved>,
    pub(super) status: DeploymentStatus,
    pub(super) activity: Option<Activity>,
}

/// All of them, of every tenant; no name is there twice.
pub(super) async fn watched(gateway: &Gateway) -> Result<Vec<Watched>, Failure> {
    let mut all = Vec::new();
    for (id, Known { project, name, activity }) in known(gateway).await? {
        let found = gateway.0.parts.directory.resolve(project.as_str(), name.as_str()).await?;
        // Deleted, or made anew under the same name: what was counted is not this one's.
        let found = found.filter(|resolved| resolved.deployment.id == id);
        let found = found.map(|resolved| (gateway.0.parts.calls.status(&resolved), resolved));
        match found {
            Some((status, resolved)) if status.tier != Tier::Zero => all.push(Watched { resolved, status, activity }),
            sleeping => {
                // Forgotten until its next call.
                gateway.0.called.invalidate(&id);
                if let (Some((status, resolved)), Some(_)) = (sleeping, &activity) {
                    all.push(Watched { resolved, status, activity });
                }
            }
        }
    }
    Ok(all)
}

/// A deployment that may be worth showing.
struct Known {
    project: Name,
    name: Name,
    activity: Option<Activity>,
}

/// What was called (its first call may still be open) and what has done something lately. Both are bounded.
async fn known(gateway: &Gateway) -> Result<BTreeMap<DeploymentId, Known>, Failure> {
    let called = gateway.0.called.iter();
    let mut all: BTreeMap<_, _> =
        called.map(|(id, (project, name))| (*id, Known { project, name, activity: None })).collect();
    for activity in gateway.0.parts.calls.activity() {
        if let Some(project) = gateway.project(activity.project).await? {
            let (id, name) = (activity.deployment, activity.name.clone());
            all.insert(id, Known { project: project.name.clone(), name, activity: Some(activity) });
        }
    }
    Ok(all)
}

fn shown(Watched { resolved, status, activity }: &Watched) -> DeploymentActivity {
    let mut entry = DeploymentActivity {
        id: resolved.deployment.id,
        project: resolved.project.name.clone(),
        name: resolved.deployment.name.clone(),
        tier: tier(status.tier),
        calls_open: status.calls,
        calls: 0,
        failed: 0,
        turned_away: 0,
        usage: BTreeMap::new(),
        model_bytes: status.model_bytes,
        since: None,
        last_used_at: None,
    };
    if let Some(activity) = activity {
        entry.calls = activity.calls;
        entry.failed = activity.failed;
        entry.turned_away = activity.turned_away;
        let used = Meter::ALL.iter().zip(activity.usage).filter(|(_, quantity)| *quantity > 0);
        entry.usage = used.map(|(meter, quantity)| (meter.as_str().to_owned(), quantity)).collect();
        entry.since = Some(Timestamp::from_micros(activity.since));
        entry.last_used_at = Some(Timestamp::from_micros(activity.last_used));
    }
    entry
}
