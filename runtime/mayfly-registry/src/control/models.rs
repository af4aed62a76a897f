//! Models: unpack, import, approve, remove.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::BoxStream;
use mayfly_host::Place;
use mayfly_inference::{ImportError, Needs};
use mayfly_types::{ModelId, Name, RequestId};

use super::Control;
use super::warm::Subject;
use crate::clock::now;
use crate::{ArtifactError, ControlError, Model, Owner, TenantModels, UnpackError, UnpackLimits, unpack_model};

/// A folder of work in progress, removed when dropped. What a kill leaves behind goes at the next start.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || {
            let _ = std::fs::remove_dir_all(&path);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_outside) => remove(),
        }
    }
}

impl Control {
    /// Unpacks an uploaded tar archive into a new folder below [`crate::Artifacts::staging`], for
    /// [`Control::add_model`].
    ///
    /// # Errors
    /// [`ControlError`]; nothing is left of it.
    pub async fn unpack_model(
        &self,
        archive: BoxStream<'static, Result<Bytes, ArtifactError>>,
    ) -> Result<PathBuf, ControlError> {
        let limits = UnpackLimits { bytes_max: self.config.model_bytes_max, files_max: self.config.model_files_max };
        unpack_model(archive, &self.artifacts.staging(), limits).await.map_err(|error| match error {
            UnpackError::TooLarge(_) => ControlError::TooLarge(error.to_string()),
            UnpackError::Refused(_) | UnpackError::Incomplete => ControlError::Invalid(error.to_string()),
            UnpackError::Failed { unwritable: true, detail } => ControlError::Storage(detail),
            UnpackError::Failed { detail, .. } => ControlError::Host { detail },
        })
    }

    /// What becomes of models that tenants bring to this host.
    pub fn tenant_models(&self) -> TenantModels {
        self.config.tenant_models
    }

    /// What loading the model takes on each device of this node, and whether it could be had now; nothing for one that does
    /// not run in the server's own process.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn needs(&self, model: &Model) -> Result<Vec<Needs>, ControlError> {
        if model.place(self.config.tenant_models) != Place::Server {
            return Ok(Vec::new());
        }
        let folder = self.artifacts.folder(model.digest).await?;
        Ok(self.tools.needs(model, &folder).await?)
    }

    /// Whether models of `owner` are taken here at all: to be asked before an upload is read.
    ///
    /// # Errors
    /// [`ControlError::Operators`].
    pub fn may_bring(&self, owner: Owner) -> Result<(), ControlError> {
        if matches!(owner, Owner::Project(_)) && self.config.tenant_models == TenantModels::Refuse {
            let text = "this host takes no models of projects (models.tenant_models = \"refuse\"); ask its operator to \
                        add the model for everybody";
            return Err(ControlError::Operators(text.to_owned()));
        }
        Ok(())
    }

    pub(super) async fn add_model_now(&self, owner: Owner, name: Name, source: PathBuf) -> Result<Model, ControlError> {
        let staging = self.artifacts.staging();
        if !is_below(&source, &staging) {
            return Err(ControlError::Host { detail: "a model to import is not below the staging folder".to_owned() });
        }
        let source = Scratch(source);
        self.may_bring(owner)?;
        if let Owner::Project(project) = owner {
            self.records.project(project).await?.ok_or(ControlError::NotFound("project"))?;
        }
        let _turn = self.shared.imports.take().await?;
        let dest = Scratch(staging.join(format!("import-{}", RequestId::new())));
        let (tools, from, to) = (self.tools.clone(), source.0.clone(), dest.0.clone());
        let imported = tokio::task::spawn_blocking(move || {
            std::fs::create_dir(&to)?;
            tools.import(&from, &to)
        });
        let imported = imported.await.map_err(|error| ControlError::Host { detail: error.to_string() })??;
        let digest = imported.digest;
        let pin = self.shared.pins.pin(digest).await;
        self.artifacts.adopt_folder(digest, dest.0.join(digest.hex())).await?;
        let older = self.records.model_named(owner, name.as_str()).await?;
        let approved = matches!(owner, Owner::Host);
        let model = Model { id: ModelId::new(), owner, name, digest, info: imported.info, approved, created_at: now() };
        let room = match &older {
            Some(older) => self.room_for_heir(older, &model).await,
            None => Ok(Vec::new()),
        };
        let inserted = match &room {
            Ok(_room) => self.records.insert_model(&model).await.map_err(ControlError::from),
            Err(error) => Err(error.clone()),
        };
        drop(pin);
        self.changed().await;
        self.see_to_warmth(Subject::Pins(model.id)).await;
        match inserted {
            Ok(()) => {
                if let Some(older) = older.filter(|older| older.digest != digest) {
                    self.collect(older.digest).await;
                }
                Ok(model)
            }
            Err(error) => {
                self.collect(digest).await;
                Err(error)
            }
        }
    }

    /// Lets a model that a project brought run in the server's own process.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn approve_model(&self, id: ModelId) -> Result<Model, ControlError> {
        self.records.approve_model(id).await?;
        self.changed().await;
        self.records.model(id).await?.ok_or(ControlError::NotFound("model"))
    }

    /// Takes a model's name away, with its pins, and its files once no revision can use them. Refused while an active
    /// revision uses it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn remove_model(&self, id: ModelId) -> Result<(), ControlError> {
        let model = self.records.model(id).await?.ok_or(ControlError::NotFound("model"))?;
        self.records.remove_model(id).await?;
        self.changed().await;
        self.see_to_warmth(Subject::Pins(id)).await;
        self.collect(model.digest).await;
        Ok(())
    }
}

fn is_below(path: &Path, folder: &Path) -> bool {
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    path.strip_prefix(folder).is_ok_and(|rest| rest.components().count() > 0 && rest.components().all(plain))
}

impl From<ImportError> for ControlError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Refused(_) | ImportError::Probe(_) => Self::Invalid(error.to_string()),
            ImportError::Io(error) => match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Self::Storage("the disk is full".to_owned())
                }
                _ => Self::Host { detail: format!("import: {error}") },
            },
        }
    }
}
