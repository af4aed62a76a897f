//! Tenants, projects, keys and the node.

use mayfly_api::{CreatedKey, Key, NewKey, NewProject, NewTenant, Node, Project, Tenant};
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

    /// What the node is made of and what it uses.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn node(&self) -> Result<Node, Error> {
        self.get(&["api", "v1", "node"]).await
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
