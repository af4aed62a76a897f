//! Tenants, projects, keys and the node.

use mayfly_api::{
    CreatedKey, DeploymentActivity, DeploymentKeys, Key, NewKey, NewProject, NewTenant, Node, Project, Slot, Tenant,
};
use mayfly_types::{KeyId, Name};

use crate::{Client, Error};

impl Client {
    /// All tenants. For the operator.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tenants(&self) -> Result<Vec<Tenant>, Error> {
        self.list(&["api", "v1", "tenants"]).await
    }

    /// A new tenant. For the operator.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn create_tenant(&self, name: Name) -> Result<Tenant, Error> {
        self.post(&["api", "v1", "tenants"], &NewTenant { name }).await
    }

    /// Deletes a tenant that has no projects; its keys are revoked. For the operator.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete_tenant(&self, name: &str) -> Result<(), Error> {
        self.delete(&["api", "v1", "tenants", name]).await
    }

    /// The projects within the key's reach.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn projects(&self) -> Result<Vec<Project>, Error> {
        self.list(&["api", "v1", "projects"]).await
    }

    /// A new project. For the operator.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn create_project(&self, tenant: Name, name: Name) -> Result<Project, Error> {
        self.post(&["api", "v1", "projects"], &NewProject { name, tenant }).await
    }

    /// Deletes a project that has no deployments, with its models and the keys bound to it. For the operator.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete_project(&self, name: &str) -> Result<(), Error> {
        self.delete(&["api", "v1", "projects", name]).await
    }

    /// The keys within the key's reach, without their secrets.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn keys(&self) -> Result<Vec<Key>, Error> {
        self.list(&["api", "v1", "keys"]).await
    }

    /// A new key; the answer is the only place its secret is ever in.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn create_key(&self, key: &NewKey) -> Result<CreatedKey, Error> {
        self.post(&["api", "v1", "keys"], key).await
    }

    /// Revokes a key.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn revoke_key(&self, id: KeyId) -> Result<(), Error> {
        self.delete(&["api", "v1", "keys", &id.to_string()]).await
    }

    /// A deployment's own two keys, without their secrets.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn deployment_keys(&self, project: &str, deployment: &str) -> Result<DeploymentKeys, Error> {
        self.get(&["api", "v1", "projects", project, "deployments", deployment, "keys"]).await
    }

    /// Makes one of a deployment's own two keys anew. The answer is the only place its secret is ever in; the old
    /// secret is dead.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn rotate_key(&self, project: &str, deployment: &str, slot: Slot) -> Result<CreatedKey, Error> {
        let slot = match slot {
            Slot::Primary => "primary",
            Slot::Secondary => "secondary",
        };
        let path = ["api", "v1", "projects", project, "deployments", deployment, "keys", slot];
        self.json(self.request(reqwest::Method::POST, &path)).await
    }

    /// What the node is made of and what it uses.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn node(&self) -> Result<Node, Error> {
        self.get(&["api", "v1", "node"]).await
    }

    /// The deployments within the key's reach that are warm on the node or were called lately, by project and name.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn activity(&self) -> Result<Vec<DeploymentActivity>, Error> {
        self.list(&["api", "v1", "activity"]).await
    }

    /// Whether the node takes calls.
    ///
    /// # Errors
    /// [`Error::Connection`] if nobody answers.
    pub async fn is_ready(&self) -> Result<bool, Error> {
        let answer = self.send_any(self.request(reqwest::Method::GET, &["readyz"])).await?;
        Ok(answer.status().is_success())
    }

    /// The figures for Prometheus, as text.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn metrics(&self) -> Result<String, Error> {
        let answer = self.send(self.request(reqwest::Method::GET, &["metrics"])).await?;
        answer.text().await.map_err(|source| Error::Connection { address: self.address().to_owned(), source })
    }
}
