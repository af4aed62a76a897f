//! What each deployment has done lately on this node, for whoever watches it. Bounded, in memory, and no bill: bills
//! come from the ledger.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mayfly_ledger::{Call, Outcome, Row};
use mayfly_registry::Resolved;
use mayfly_types::{DeploymentId, Meter, Name, ProjectId};

/// Deployments that are watched. When one more comes, the half that was used longest ago is forgotten: half, so that
/// looking for it costs little even if ever more deployments are called in turn.
pub(crate) const DEPLOYMENTS_WATCHED_MAX: usize = 1_000;
/// A deployment that nobody calls for this long is forgotten when somebody looks, microseconds.
const FORGOTTEN_AFTER_MICROS: i64 = 10 * 60 * 1_000_000;

/// What one deployment has done since `since`. Figures only grow until it is forgotten; then they begin anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its project.
    pub project: ProjectId,
    /// Its name in the project.
    pub name: Name,
    /// When counting began, microseconds since the Unix epoch.
    pub since: i64,
    /// When a call last ended or was turned away, microseconds since the Unix epoch.
    pub last_used: i64,
    /// Calls that ended in the ledger.
    pub calls: u64,
    /// Those of them that the handler, a limit, the deadline or the host ended.
    pub failed: u64,
    /// Calls that were turned away; they left no row.
    pub turned_away: u64,
    /// Usage by meter, in the order of [`Meter::ALL`] and in each meter's unit.
    pub usage: [u64; Meter::ALL.len()],
}

/// The deployments that are watched.
#[derive(Debug, Default)]
pub(crate) struct Activities(Mutex<HashMap<DeploymentId, Activity>>);

impl Activities {
    /// A call has ended with `row`.
    pub(crate) fn ended(&self, row: &Row) {
        let Call { served, project, ref deployment_name, .. } = *row.call;
        let mut watched = self.lock();
        let activity = entry(&mut watched, served, project, deployment_name, row.at);
        activity.calls += 1;
        activity.failed += u64::from(row.outcome.is_some_and(is_failure));
        for line in &row.lines {
            if let Some(place) = Meter::ALL.iter().position(|meter| *meter == line.meter) {
                let quantity = u64::try_from(line.quantity).unwrap_or(0);
                activity.usage[place] = activity.usage[place].saturating_add(quantity);
            }
        }
    }

    /// A call was turned away at `at`.
    pub(crate) fn turned_away(&self, resolved: &Resolved, at: i64) {
        let deployment = &resolved.deployment;
        let mut watched = self.lock();
        entry(&mut watched, deployment.id, resolved.project.id, &deployment.name, at).turned_away += 1;
    }

    /// Everything that is known at `now`. What was not used for a while is forgotten first.
    pub(crate) fn all(&self, now: i64) -> Vec<Activity> {
        let mut watched = self.lock();
        watched.retain(|_, activity| activity.last_used >= now.saturating_sub(FORGOTTEN_AFTER_MICROS));
        watched.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentId, Activity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(
    watched: &'a mut HashMap<DeploymentId, Activity>,
    deployment: DeploymentId,
    project: ProjectId,
    name: &Name,
    at: i64,
) -> &'a mut Activity {
    if watched.len() >= DEPLOYMENTS_WATCHED_MAX && !watched.contains_key(&deployment) {
        let mut used: Vec<i64> = watched.values().map(|activity| activity.last_used).collect();
        let half = used.len() / 2;
        let (_, middle, _) = used.select_nth_unstable(half);
        let middle = *middle;
        watched.retain(|_, activity| activity.last_used > middle);
    }
    let activity = watched.entry(deployment).or_insert_with(|| Activity {
        deployment,
        project,
        name: name.clone(),
        since: at,
        last_used: at,
        calls: 0,
        failed: 0,
        turned_away: 0,
        usage: [0; Meter::ALL.len()],
    });
    // The host's clock may have gone back.
    activity.last_used = activity.last_used.max(at);
    activity
}

/// Whether a call ended otherwise than its handler and its caller wanted.
fn is_failure(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Completed | Outcome::ClientLeft | Outcome::Replayed => false,
        Outcome::Deadline | Outcome::GuestFault | Outcome::Refused | Outcome::HostFault | Outcome::HostCrash => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mayfly_ledger::{Kind, RowLine};

    use super::*;
    use crate::fakes::Place;

    fn row(resolved: &Resolved, deployment: DeploymentId, at: i64, outcome: Outcome) -> Row {
        let line = |meter, quantity| RowLine { meter, model: None, quantity, price: None, amount: None };
        let context = Place::default().call();
        let call = Call {
            id: context.request_id,
            parent: None,
            root: context.request_id,
            attempt: 1,
            tenant: resolved.project.tenant,
            payer: resolved.project.tenant,
            project: resolved.project.id,
            requested: deployment,
            served: deployment,
            revision: resolved.revision.id,
            deployment_name: resolved.deployment.name.clone(),
            key: context.key.id,
            end_user: None,
            channel: context.channel,
            counted_by: mayfly_ledger::CountedBy::Host,
            opened_at: at,
        };
        Row {
            kind: Kind::Settle,
            call: Arc::new(call),
            at,
            lines: vec![line(Meter::InputTokens, 5), line(Meter::OutputTokens, 2)],
            outcome: Some(outcome),
            status: 200,
            cold: None,
            duration_micros: Some(1),
        }
    }

    #[test]
    fn calls_failures_and_tokens_add_up() {
        let (activities, resolved) = (Activities::default(), Place::default().call().resolved);
        let id = resolved.deployment.id;
        activities.ended(&row(&resolved, id, 10, Outcome::Completed));
        activities.ended(&row(&resolved, id, 30, Outcome::GuestFault));
        activities.ended(&row(&resolved, id, 20, Outcome::ClientLeft));
        activities.turned_away(&resolved, 25);
        let all = activities.all(30);
        let [activity] = &all[..] else { panic!("{all:?}") };
        assert_eq!((activity.calls, activity.failed, activity.turned_away), (3, 1, 1));
        assert_eq!((activity.since, activity.last_used), (10, 30), "a clock that goes back takes nothing back");
        assert_eq!(activity.usage, [15, 0, 6, 0, 0, 0, 0]);
        assert_eq!((activity.project, &activity.name), (resolved.project.id, &resolved.deployment.name));
    }

    #[test]
    fn what_is_not_used_is_forgotten() {
        let (activities, resolved) = (Activities::default(), Place::default().call().resolved);
        activities.turned_away(&resolved, 0);
        assert_eq!(activities.all(FORGOTTEN_AFTER_MICROS).len(), 1);
        assert!(activities.all(FORGOTTEN_AFTER_MICROS + 1).is_empty());
    }

    #[test]
    fn the_half_used_longest_ago_makes_room() {
        let (activities, resolved) = (Activities::default(), Place::default().call().resolved);
        let ids: Vec<_> = (0..=DEPLOYMENTS_WATCHED_MAX).map(|_| DeploymentId::new()).collect();
        for (at, id) in (0..).zip(&ids) {
            activities.ended(&row(&resolved, *id, at, Outcome::Completed));
        }
        let mut kept: Vec<_> = activities.all(0).into_iter().map(|activity| activity.since).collect();
        kept.sort_unstable();
        assert_eq!(kept, (501..=1000).collect::<Vec<i64>>());
        // All of the same age: still never more than the limit.
        for _ in 0..=DEPLOYMENTS_WATCHED_MAX {
            activities.ended(&row(&resolved, DeploymentId::new(), 5_000, Outcome::Completed));
        }
        assert!(activities.all(5_000).len() <= DEPLOYMENTS_WATCHED_MAX);
    }
}
