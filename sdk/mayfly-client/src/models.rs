//! Models: importing a package from this machine, and what is imported.

use std::path::Path;

use mayfly_api::Model;
use reqwest::Method;

use crate::package::Package;
use crate::upload::{Progress, package_body};
use crate::{Client, Error};

/// Whose models are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelPlace<'a> {
    /// The operator's, for every project.
    Host,
    /// One project's.
    Project(&'a str),
}

impl<'a> ModelPlace<'a> {
    fn path(self, rest: &[&'a str]) -> Vec<&'a str> {
        let mut path = vec!["api", "v1"];
        if let Self::Project(project) = self {
            path.extend(["projects", project]);
        }
        path.push("models");
        path.extend(rest);
        path
    }
}

impl Client {
    /// The models of a place. A project's are its own and those of the operator that it can be granted.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn models(&self, place: ModelPlace<'_>) -> Result<Vec<Model>, Error> {
        self.list(&place.path(&[])).await
    }

    /// One model.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn model(&self, place: ModelPlace<'_>, name: &str) -> Result<Model, Error> {
        self.get(&place.path(&[name])).await
    }

    /// Imports the package at `path`: a folder, or an `.onnx` file with the data files and `model.toml` beside it.
    /// The archive is made while it is sent.
    ///
    /// # Errors
    /// [`Error`]; nothing is imported.
    pub async fn add_model(
        &self,
        place: ModelPlace<'_>,
        name: &str,
        path: &Path,
        progress: Progress,
    ) -> Result<Model, Error> {
        let package = Package::read(path.to_owned()).await?;
        let request = self
            .request(Method::POST, &place.path(&[name]))
            .header("content-type", "application/x-tar")
            .body(package_body(package, progress));
        self.json(request).await
    }

    /// Removes a model.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_model(&self, place: ModelPlace<'_>, name: &str) -> Result<(), Error> {
        self.delete(&place.path(&[name])).await
    }

    /// Lets a project's model run. For the operator.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn approve_model(&self, project: &str, name: &str) -> Result<Model, Error> {
        let path = ModelPlace::Project(project).path(&[name, "approve"]);
        self.json(self.request(Method::POST, &path)).await
    }

    /// Keeps a model loaded on a device (`cpu` or `cuda`) until it is unpinned. For the operator.
    ///
    /// # Errors
    /// [`Error`]; it is kept no more than before.
    pub async fn pin_model(&self, place: ModelPlace<'_>, name: &str, device: &str) -> Result<Model, Error> {
        self.json(self.request(Method::PUT, &place.path(&[name, "pins", device]))).await
    }

    /// Lets go of a model that is pinned on a device. For the operator.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn unpin_model(&self, place: ModelPlace<'_>, name: &str, device: &str) -> Result<(), Error> {
        self.delete(&place.path(&[name, "pins", device])).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(ModelPlace::Host.path(&["m"]), ["api", "v1", "models", "m"]);
        assert_eq!(
            ModelPlace::Project("p").path(&["m", "approve"]),
            ["api", "v1", "projects", "p", "models", "m", "approve"]
        );
    }
}
