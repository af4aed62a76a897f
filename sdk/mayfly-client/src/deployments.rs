//! Deploying, and what is deployed.

use std::path::Path;

use mayfly_api::{Artifact, Deployed, Deployment, DeploymentSummary, NewDeployment, Revision, Rollback};
use reqwest::Method;

use crate::upload::{Progress, file_body};
use crate::{Client, Error};

impl Client {
    /// Uploads a component from a file, piece by piece; `project` may then deploy it by its digest.
    ///
    /// # Errors
    /// [`Error`]; nothing is stored.
    pub async fn upload_component(&self, project: &str, file: &Path, progress: Progress) -> Result<Artifact, Error> {
        let (body, length) = file_body(file, progress).await?;
        let request = self
            .request(Method::PUT, &["api", "v1", "projects", project, "artifacts"])
            .header("content-type", "application/wasm")
            .header("content-length", length)
            .body(body);
        self.json(request).await
    }

    /// Makes a revision and lets it answer at once.
    ///
    /// # Errors
    /// [`Error`]; the deployment answers as before.
    pub async fn deploy(&self, project: &str, name: &str, new: &NewDeployment) -> Result<Deployed, Error> {
        self.post(&at(project, name), new).await
    }

    /// The deployments of a project.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn deployments(&self, project: &str) -> Result<Vec<DeploymentSummary>, Error> {
        self.list(&["api", "v1", "projects", project, "deployments"]).await
    }

    /// A deployment with its active revision and what is in memory for it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn deployment(&self, project: &str, name: &str) -> Result<Deployment, Error> {
        self.get(&at(project, name)).await
    }

    /// All revisions, newest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn revisions(&self, project: &str, name: &str) -> Result<Vec<Revision>, Error> {
        self.list(&below(project, name, "revisions")).await
    }

    /// Lets an earlier revision answer again; without a number, the one before the active one.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn rollback(&self, project: &str, name: &str, revision: Option<u32>) -> Result<Deployment, Error> {
        self.post(&below(project, name, "rollback"), &Rollback { revision }).await
    }

    /// Deletes a deployment.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete_deployment(&self, project: &str, name: &str) -> Result<(), Error> {
        self.delete(&at(project, name)).await
    }
}

fn at<'a>(project: &'a str, name: &'a str) -> [&'a str; 6] {
    ["api", "v1", "projects", project, "deployments", name]
}

pub(crate) fn below<'a>(project: &'a str, name: &'a str, what: &'a str) -> [&'a str; 7] {
    ["api", "v1", "projects", project, "deployments", name, what]
}
