//! Tenants, projects and keys; the first start.

use mayfly_types::{KeyId, Name, ProjectId, TenantId};

use super::Control;
use crate::clock::now;
use crate::{ControlError, Key, KeyScope, Project, RecordsError, SecretKey, Tenant, hash_secret};

/// Characters of a key's label.
const LABEL_CHARS_MAX: usize = 100;

impl Control {
    /// First start: makes tenant `default`, project `default` and an admin key if there is no admin key.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn bootstrap(&self) -> Result<Option<SecretKey>, ControlError> {
        let name: Name = "default".parse().expect("it is a name");
        let tenant = match self.records.tenant_named(name.as_str()).await? {
            Some(tenant) => tenant,
            None => self.create_tenant(name.clone()).await?,
        };
        if self.records.project_named(name.as_str()).await?.is_none() {
            self.create_project(tenant.id, name).await?;
        }
        let now = now();
        let lives = |key: &Key| key.revoked_at.is_none() && key.expires_at.is_none_or(|end| now < end);
        let keys = self.records.keys(None).await?;
        if keys.iter().any(|key| key.scopes.contains(&KeyScope::Admin) && lives(key)) {
            return Ok(None);
        }
        let (_key, secret) =
            self.create_key(None, None, "first admin key".to_owned(), vec![KeyScope::Admin], None).await?;
        Ok(Some(secret))
    }

    /// A new tenant.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_tenant(&self, name: Name) -> Result<Tenant, ControlError> {
        let tenant = Tenant { id: TenantId::new(), name, created_at: now() };
        self.records.insert_tenant(&tenant).await?;
        self.changed().await;
        Ok(tenant)
    }

    /// A new project.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_project(&self, tenant: TenantId, name: Name) -> Result<Project, ControlError> {
        let project = Project { id: ProjectId::new(), tenant, name, created_at: now() };
        self.records.insert_project(&project).await?;
        self.changed().await;
        Ok(project)
    }

    /// A new key; the secret is not stored. An admin key belongs to no tenant, every other key to one.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_key(
        &self,
        tenant: Option<TenantId>,
        project: Option<ProjectId>,
        label: String,
        mut scopes: Vec<KeyScope>,
        expires_at: Option<i64>,
    ) -> Result<(Key, SecretKey), ControlError> {
        scopes.sort_by_key(|scope| *scope as u8);
        scopes.dedup();
        let created_at = now();
        let problem = match (tenant, project) {
            _ if scopes.is_empty() => Some("a key needs at least one scope (call, deploy or admin)"),
            _ if label.chars().count() > LABEL_CHARS_MAX || label.chars().any(char::is_control) => {
                Some("a label has at most 100 characters and no control characters")
            }
            _ if expires_at.is_some_and(|end| end <= created_at) => Some("the expiry time is in the past"),
            (Some(_), _) | (_, Some(_)) if scopes.contains(&KeyScope::Admin) => {
                Some("an admin key is for the whole host: it belongs to no tenant and no project")
            }
            (None, _) if !scopes.contains(&KeyScope::Admin) => {
                Some("a key without the scope admin belongs to a tenant")
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(ControlError::Invalid(problem.to_owned()));
        }
        if let Some(project) = project {
            let found = self.records.project(project).await?;
            // Another tenant's project is none.
            found.filter(|found| Some(found.tenant) == tenant).ok_or(ControlError::NotFound("project"))?;
        }
        let secret = SecretKey::generate();
        let key = Key {
            id: KeyId::new(),
            tenant,
            project,
            label,
            prefix: secret.prefix(),
            hash: hash_secret(secret.expose()),
            scopes,
            created_at,
            expires_at,
            revoked_at: None,
        };
        self.records.insert_key(&key).await.map_err(|error| match error {
            RecordsError::NotFound(_) => ControlError::NotFound("tenant"),
            other => other.into(),
        })?;
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
