//! The level that a path names, tenant, project, deployment or key, if it is within the reach of who asks.

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use mayfly_registry::{Key, KeyScope};
use mayfly_types::{KeyId, LevelId};

use super::caller::Caller;
use crate::Gateway;
use crate::failure::Failure;

/// A level, found by the parameters of its path: `tenant`; `project`; `project` and `deployment`; `id` of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub(crate) id: LevelId,
    /// Its tenant may limit it, where the operator has not: a deployment, or a key that only calls.
    pub(crate) delegated: bool,
}

impl FromRequestParts<Gateway> for Level {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Failure> {
        let caller = Caller::from_request_parts(parts, gateway).await?;
        let names = Path::<BTreeMap<String, String>>::from_request_parts(parts, gateway).await;
        let Path(names) = names.map_err(|error| Failure::invalid(error.body_text()))?;
        let name = |parameter: &str| names.get(parameter).map(String::as_str);
        let (id, delegated) = match (name("tenant"), name("project"), name("deployment"), name("id")) {
            (Some(tenant), ..) => {
                let found = gateway.records().tenant_named(tenant).await?;
                let tenant = found.filter(|tenant| caller.reach.covers(Some(tenant.id), None));
                (LevelId::Tenant(tenant.ok_or_else(|| Failure::not_found("tenant"))?.id), false)
            }
            (_, Some(project), Some(deployment), _) => {
                let (_project, deployment) = caller.deployment(gateway, project, deployment).await?;
                (LevelId::Deployment(deployment.id), true)
            }
            (_, Some(project), None, _) => (LevelId::Project(caller.project(gateway, project).await?.id), false),
            (.., Some(id)) => {
                let key = key(gateway, &caller, id).await?;
                (LevelId::Key(key.id), key.scopes == [KeyScope::Call])
            }
            _ => return Err(Failure::internal("a route whose path names no level")),
        };
        Ok(Self { id, delegated })
    }
}

/// The key with this id, if it is within reach; else it is not there.
pub(super) async fn key(gateway: &Gateway, caller: &Caller, id: &str) -> Result<Key, Failure> {
    let missing = || Failure::not_found("key");
    let id: KeyId = id.parse().map_err(|_| missing())?;
    let found = gateway.records().key(id).await?;
    found.filter(|key| caller.reach.covers(key.tenant, key.project)).ok_or_else(missing)
}
