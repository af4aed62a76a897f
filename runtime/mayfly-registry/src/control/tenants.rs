//! Tenants and projects: made, and deleted once nothing is left in them.

use mayfly_types::{LevelLimits, Name, ProjectId, TenantId};

use super::{Control, to_its_end};
use crate::clock::now;
use crate::{ControlError, Project, Tenant};

impl Control {
    /// A new tenant.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_tenant(&self, name: Name) -> Result<Tenant, ControlError> {
        let tenant = Tenant { id: TenantId::new(), name, limits: LevelLimits::default(), created_at: now() };
        self.records.insert_tenant(&tenant).await?;
        self.changed().await;
        Ok(tenant)
    }

    /// Deletes a tenant: its keys are dead, its name is free. What it used stays in the ledger. Calls that run go on and
    /// are billed to it.
    ///
    /// # Errors
    /// [`ControlError::Conflict`] names its projects if it has any.
    pub async fn delete_tenant(&self, id: TenantId) -> Result<(), ControlError> {
        self.records.delete_tenant(id, now()).await?;
        self.changed().await;
        Ok(())
    }

    /// A new project.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_project(&self, tenant: TenantId, name: Name) -> Result<Project, ControlError> {
        let project = Project { id: ProjectId::new(), tenant, name, limits: LevelLimits::default(), created_at: now() };
        self.records.insert_project(&project).await?;
        self.changed().await;
        Ok(project)
    }

    /// Deletes a project with its models, its uploads and the keys bound to it; its name is free. What it used stays in
    /// the ledger. Calls that run go on.
    ///
    /// # Errors
    /// [`ControlError::Conflict`] names its deployments if it has any.
    pub async fn delete_project(&self, id: ProjectId) -> Result<(), ControlError> {
        let this = self.clone();
        to_its_end(async move {
            let unused = this.records.delete_project(id, now()).await?;
            this.changed().await;
            for digest in unused {
                this.collect(digest).await;
            }
            Ok(())
        })
        .await
    }
}
