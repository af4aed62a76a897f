//! Keys; the first start.

use std::sync::Arc;

use mayfly_types::{DeploymentId, KeyId, LevelLimits, Name, ProjectId, TenantId};

use super::{Control, limits};
use crate::clock::now;
use crate::{ControlError, Deployment, Key, KeyScope, RecordsError, SecretKey, Slot, hash_secret};

/// Characters of a key's label.
const LABEL_CHARS_MAX: usize = 100;
/// Deployments that one key may be bound to.
const DEPLOYMENTS_MAX: usize = 100;

/// A key, as asked for.
#[derive(Debug, Clone, Default)]
pub struct KeyRequest {
    /// Whose it will be; none only for an admin key.
    pub tenant: Option<TenantId>,
    /// The one project it reaches; none reaches all of the tenant's.
    pub project: Option<ProjectId>,
    /// For people.
    pub label: String,
    /// What it may do.
    pub scopes: Vec<KeyScope>,
    /// The only deployments it may call; empty is all in its reach.
    pub deployments: Vec<DeploymentId>,
    /// What its calls may use together.
    pub limits: LevelLimits,
    /// When it stops working, in microseconds since the Unix epoch; none is never.
    pub expires_at: Option<i64>,
}

impl Control {
    /// First start: makes tenant `default`, project `default` and an admin key if there is no admin key.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn bootstrap(&self) -> Result<Option<SecretKey>, ControlError> {
        let now = now();
        let lives = |key: &Key| key.revoked_at.is_none() && key.expires_at.is_none_or(|end| now < end);
        let keys = self.records.keys(None).await?;
        // It is made last. Later on whoever deleted `default` does not want it back.
        if keys.iter().any(|key| key.scopes.contains(&KeyScope::Admin) && lives(key)) {
            return Ok(None);
        }
        let name: Name = "default".parse().expect("it is a name");
        let tenant = match self.records.tenant_named(name.as_str()).await? {
            Some(tenant) => tenant,
            None => self.create_tenant(name.clone()).await?,
        };
        if self.records.project_named(name.as_str()).await?.is_none() {
            self.create_project(tenant.id, name).await?;
        }
        let request =
            KeyRequest { label: "first admin key".to_owned(), scopes: vec![KeyScope::Admin], ..KeyRequest::default() };
        let (_key, secret) = self.create_key(request).await?;
        Ok(Some(secret))
    }

    /// A new key; the secret is not stored. An admin key belongs to no tenant, every other key to one.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_key(&self, request: KeyRequest) -> Result<(Key, SecretKey), ControlError> {
        let KeyRequest { tenant, project, label, mut scopes, mut deployments, limits, expires_at } = request;
        scopes.sort_by_key(|scope| *scope as u8);
        scopes.dedup();
        deployments.sort_unstable();
        deployments.dedup();
        let created_at = now();
        let problem = match (tenant, project) {
            _ if scopes.is_empty() => Some("a key needs at least one scope (call, deploy or admin)"),
            _ if label.chars().count() > LABEL_CHARS_MAX || label.chars().any(char::is_control) => {
                Some("a label has at most 100 characters and no control characters")
            }
            _ if expires_at.is_some_and(|end| end <= created_at) => {
                Some("`expires_at` is not in the future; the key would never work")
            }
            (Some(_), _) | (_, Some(_)) if scopes.contains(&KeyScope::Admin) => {
                Some("an admin key is for the whole host: it belongs to no tenant and no project")
            }
            (None, _) if !scopes.contains(&KeyScope::Admin) => {
                Some("a key without the scope admin belongs to a tenant")
            }
            _ if !deployments.is_empty() && scopes != [KeyScope::Call] => {
                Some("only a key with the scope call alone can be bound to `deployments`")
            }
            _ if deployments.len() > DEPLOYMENTS_MAX => Some("`deployments` names more than 100"),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(ControlError::Invalid(problem.to_owned()));
        }
        limits::check(&limits)?;
        if let Some(project) = project {
            let found = self.records.project(project).await?;
            // Another tenant's project is none.
            found.filter(|found| Some(found.tenant) == tenant).ok_or(ControlError::NotFound("project"))?;
        }
        for id in &deployments {
            self.within(*id, tenant, project).await?;
        }
        let (key, secret) = made(Key {
            id: KeyId::new(),
            tenant,
            project,
            label,
            prefix: String::new(),
            hash: [0; 32],
            scopes,
            deployments,
            slot: None,
            limits: Arc::new(limits),
            created_at,
            expires_at,
            revoked_at: None,
            last_used_at: None,
        });
        self.records.insert_key(&key).await.map_err(|error| match error {
            RecordsError::NotFound(_) => ControlError::NotFound("tenant"),
            other => other.into(),
        })?;
        self.changed().await;
        Ok((key, secret))
    }

    /// A deployment that a key of this tenant and project reaches; another is none.
    async fn within(
        &self,
        id: DeploymentId,
        tenant: Option<TenantId>,
        project: Option<ProjectId>,
    ) -> Result<(), ControlError> {
        let missing = ControlError::NotFound("deployment");
        let Some(deployment) = self.records.deployment(id).await? else { return Err(missing) };
        if project.is_some_and(|project| project != deployment.project) {
            return Err(missing);
        }
        let owner = self.records.project(deployment.project).await?;
        if owner.is_some_and(|owner| Some(owner.tenant) == tenant) { Ok(()) } else { Err(missing) }
    }

    /// Makes one of a deployment's own two keys anew: its old secret is dead, the other key lives. Its id and limits
    /// stay, so that what it has used is not forgotten.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn rotate_key(&self, deployment: &Deployment, slot: Slot) -> Result<(Key, SecretKey), ControlError> {
        let project = self.records.project(deployment.project).await?.ok_or(ControlError::NotFound("project"))?;
        let (key, secret) = made(Key {
            id: KeyId::new(),
            tenant: Some(project.tenant),
            project: Some(project.id),
            label: format!("{} of {}", slot.as_str(), deployment.name),
            prefix: String::new(),
            hash: [0; 32],
            scopes: vec![KeyScope::Call],
            deployments: vec![deployment.id],
            slot: Some((deployment.id, slot)),
            limits: Arc::default(),
            created_at: now(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        });
        let key = self.records.rotate_key(&key).await?;
        self.changed().await;
        Ok((key, secret))
    }

    /// Revokes a key: dead on this node when this returns, on every other within
    /// [`crate::REVOCATION_BOUND_MS`]. The last live admin key cannot be revoked.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn revoke_key(&self, id: KeyId) -> Result<(), ControlError> {
        self.records.revoke_key(id, now()).await?;
        self.changed().await;
        Ok(())
    }
}

/// `key` with a new secret.
fn made(key: Key) -> (Key, SecretKey) {
    let secret = SecretKey::generate();
    (Key { prefix: secret.prefix(), hash: hash_secret(secret.expose()), ..key }, secret)
}
