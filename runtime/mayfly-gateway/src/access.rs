//! Who asks: keys from headers, and what a key may see. No resolution happens before the key is known.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use mayfly_registry::{Directory, Key, KeyScope, Project, RecordsError};
use mayfly_types::{ProjectId, TenantId};

/// Longer texts are no secret of ours and are not looked up.
const SECRET_BYTES_MAX: usize = 256;

/// The secret a request carries: `authorization: Bearer …`, else `api-key`, else `x-api-key`. None if there is none,
/// if it is not printable, or if a header is there twice.
pub(crate) fn secret(headers: &HeaderMap) -> Option<&str> {
    let bearer = single(headers, AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
    });
    bearer
        .or_else(|| single(headers, "api-key"))
        .or_else(|| single(headers, "x-api-key"))
        .filter(|secret| !secret.is_empty() && secret.len() <= SECRET_BYTES_MAX)
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok()).flatten()
}

/// The live key of a request.
///
/// # Errors
/// [`RecordsError`] if the store failed.
pub(crate) async fn authenticate(directory: &Directory, headers: &HeaderMap) -> Result<Option<Arc<Key>>, RecordsError> {
    match secret(headers) {
        Some(secret) => directory.key(secret, crate::time::now_micros()).await,
        None => Ok(None),
    }
}

/// How far a key reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everything: the operator.
    Host,
    /// One tenant's projects.
    Tenant(TenantId),
    /// One project.
    Project(TenantId, ProjectId),
    /// Nothing: a key of no tenant that is not the operator's.
    Nothing,
}

impl Reach {
    pub(crate) fn of(key: &Key) -> Self {
        match (key.tenant, key.project) {
            (Some(tenant), Some(project)) => Self::Project(tenant, project),
            (Some(tenant), None) => Self::Tenant(tenant),
            (None, None) if key.scopes.contains(&KeyScope::Admin) => Self::Host,
            (None, _) => Self::Nothing,
        }
    }

    pub(crate) fn sees(self, project: &Project) -> bool {
        match self {
            Self::Host => true,
            Self::Tenant(tenant) => project.tenant == tenant,
            Self::Project(tenant, id) => project.tenant == tenant && project.id == id,
            Self::Nothing => false,
        }
    }

    /// Whether a key of the given tenant and project lies within this reach.
    pub(crate) fn covers(self, tenant: Option<TenantId>, project: Option<ProjectId>) -> bool {
        match self {
            Self::Host => true,
            Self::Tenant(own) => tenant == Some(own),
            Self::Project(own, id) => tenant == Some(own) && project == Some(id),
            Self::Nothing => false,
        }
    }

    /// The tenant it is confined to.
    pub(crate) fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Tenant(tenant) | Self::Project(tenant, _) => Some(tenant),
            Self::Host | Self::Nothing => None,
        }
    }
}

/// Whether the key may call deployments.
pub(crate) fn may_call(key: &Key) -> bool {
    key.scopes.iter().any(|scope| matches!(scope, KeyScope::Call | KeyScope::Admin))
}

/// Whether the key is one of the operator's.
pub(crate) fn is_admin(key: &Key) -> bool {
    Reach::of(key) == Reach::Host
}

/// Whether the key may use the control plane.
pub(crate) fn may_deploy(key: &Key) -> bool {
    is_admin(key) || key.scopes.contains(&KeyScope::Deploy)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use mayfly_types::KeyId;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn key(tenant: Option<TenantId>, project: Option<ProjectId>, scopes: &[KeyScope]) -> Key {
        Key {
            id: KeyId::new(),
            tenant,
            project,
            label: String::new(),
            prefix: String::new(),
            hash: [0; 32],
            scopes: scopes.to_vec(),
            deployments: Vec::new(),
            slot: None,
            limits: Default::default(),
            created_at: 0,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        }
    }

    #[test]
    fn where_a_secret_is_found() {
        assert_eq!(secret(&headers(&[("authorization", "Bearer mf_1")])), Some("mf_1"));
        assert_eq!(secret(&headers(&[("authorization", "bearer  mf_1 ")])), Some("mf_1"));
        assert_eq!(secret(&headers(&[("api-key", "mf_2")])), Some("mf_2"));
        assert_eq!(secret(&headers(&[("x-api-key", "mf_3")])), Some("mf_3"));
        assert_eq!(secret(&headers(&[("authorization", "Basic eA=="), ("api-key", "mf_2")])), Some("mf_2"));
    }

    #[test]
    fn what_is_no_secret() {
        assert_eq!(secret(&headers(&[])), None);
        assert_eq!(secret(&headers(&[("authorization", "Bearer ")])), None);
        assert_eq!(secret(&headers(&[("authorization", "mf_1")])), None);
        assert_eq!(secret(&headers(&[("api-key", "a"), ("api-key", "b")])), None, "two keys are no key");
        let mut long = HeaderMap::new();
        long.insert("api-key", "x".repeat(257).parse().unwrap());
        assert_eq!(secret(&long), None);
    }

    #[test]
    fn reach_ends_at_the_tenant_and_at_the_project() {
        let (mine, other) = (TenantId::new(), TenantId::new());
        let project = |tenant| Project {
            id: ProjectId::new(),
            tenant,
            name: "p".parse().unwrap(),
            limits: Default::default(),
            created_at: 0,
        };
        let (first, second, foreign) = (project(mine), project(mine), project(other));
        let of_tenant = Reach::of(&key(Some(mine), None, &[KeyScope::Deploy]));
        assert!(of_tenant.sees(&first) && of_tenant.sees(&second) && !of_tenant.sees(&foreign));
        let of_project = Reach::of(&key(Some(mine), Some(first.id), &[KeyScope::Deploy]));
        assert!(of_project.sees(&first) && !of_project.sees(&second) && !of_project.sees(&foreign));
        assert!(!of_project.covers(Some(mine), None), "a key of the whole tenant is beyond a project's key");
        let operator = key(None, None, &[KeyScope::Admin]);
        assert!(Reach::of(&operator).sees(&foreign) && is_admin(&operator) && may_call(&operator));
    }

    #[test]
    fn the_admin_scope_of_a_tenants_key_is_not_the_operators() {
        let odd = key(Some(TenantId::new()), None, &[KeyScope::Admin]);
        assert!(!is_admin(&odd) && !may_deploy(&odd));
        let stray = key(None, None, &[KeyScope::Deploy]);
        assert_eq!(Reach::of(&stray), Reach::Nothing);
        assert!(!may_call(&key(Some(TenantId::new()), None, &[KeyScope::Deploy])));
    }
}
