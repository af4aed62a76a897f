//! Who asks on the control plane, and the trail of what they change.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::request::Parts;
use mayfly_registry::{Actor, Deployment, Key, Project, actor};
use mayfly_types::{ProjectId, RequestId, TenantId};

use crate::Gateway;
use crate::access::{self, Reach};
use crate::failure::Failure;

/// An authenticated key with the scope `deploy` or `admin`.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) key: Arc<Key>,
    pub(crate) reach: Reach,
}

/// Lets only keys of the control plane through.
pub(crate) async fn authenticate(
    State(gateway): State<Gateway>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let key = access::authenticate(&gateway.0.parts.directory, request.headers()).await?;
    let key = key.ok_or_else(Failure::unauthorized)?;
    if !access::may_deploy(&key) {
        return Err(Failure::scope("deploy"));
    }
    let reach = Reach::of(&key);
    let actor = Actor { key: key.id, request: request.extensions().get::<RequestId>().copied() };
    request.extensions_mut().insert(Caller { key, reach });
    // What the handler changes is written down as this key's.
    Ok(actor::scope(actor, next.run(request)).await)
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Failure::internal("a route without authentication"))
    }
}

impl Caller {
    /// Only the operator goes on.
    pub(crate) fn operator(&self) -> Result<(), Failure> {
        if self.reach == Reach::Host { Ok(()) } else { Err(Failure::scope("admin")) }
    }

    /// The project of that name, if it is within reach; else it is not there.
    pub(crate) async fn project(&self, gateway: &Gateway, name: &str) -> Result<Project, Failure> {
        let found = gateway.records().project_named(name).await?;
        found.filter(|project| self.reach.sees(project)).ok_or_else(|| Failure::not_found("project"))
    }

    /// The deployment of that name, if it is within reach; else it is not there.
    pub(crate) async fn deployment(
        &self,
        gateway: &Gateway,
        project: &str,
        name: &str,
    ) -> Result<(Project, Deployment), Failure> {
        let missing = || Failure::not_found("deployment");
        let found = gateway.records().project_named(project).await?;
        let project = found.filter(|project| self.reach.sees(project)).ok_or_else(missing)?;
        let deployment = gateway.records().deployment_named(project.id, name).await?.ok_or_else(missing)?;
        Ok((project, deployment))
    }

    /// Tenant and project that lists are confined to.
    pub(crate) fn confines(&self) -> (Option<TenantId>, Option<ProjectId>) {
        match self.reach {
            Reach::Project(tenant, project) => (Some(tenant), Some(project)),
            other => (other.tenant(), None),
        }
    }

    /// Tells the log of a change that was made; the store's trail has it already.
    pub(crate) fn audit(&self, action: &'static str, subject: &dyn std::fmt::Display) {
        let (key, prefix) = (self.key.id, &self.key.prefix);
        tracing::info!(target: "mayfly::audit", %key, %prefix, action, %subject, "changed");
    }
}
