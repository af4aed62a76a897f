//! Deploy, roll back, delete.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use mayfly_host::Place;
use mayfly_types::{DeploymentId, Digest, Name, ProjectId};

use super::garbage::Pin;
use super::warm::Subject;
use super::{Control, DeployRequest, Deployed, HandlerSource, Keeper};
use crate::clock::now;
use crate::{
    ArtifactError, ControlError, Deployment, HandlerRecord, ModelEntry, ModelGrant, Owner, Project, RecordsError,
    Revision, RevisionSpec,
};

/// Models granted to one revision.
const MODELS_MAX: usize = 64;
/// Names and values of one revision's configuration together.
const CONFIG_BYTES_MAX: usize = 64 * 1024;
/// How long an uploaded component is kept that no deployment uses: a day.
const UPLOAD_KEPT_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
/// Pieces a built-in component is stored in.
const PIECE_BYTES: usize = 1 << 20;

impl Control {
    pub(super) async fn deploy_now(&self, request: DeployRequest) -> Result<Deployed, ControlError> {
        let project = self.records.project(request.project).await?.ok_or(ControlError::NotFound("project"))?;
        let mut problems = check(&request);
        let models = self.resolve(&project, &request.models, &mut problems).await?;
        if !problems.is_empty() {
            return Err(ControlError::Invalid(problems.join("; ")));
        }
        let (handler, pin) = self.store(&project, request.handler).await?;
        let digest = handler.digest;
        let DeployRequest { name, config, limits, filter, share_prefixes, scale, .. } = request;
        let spec = RevisionSpec { handler, models, config, limits, filter, share_prefixes, scale };
        let done = self.record(&project, &name, &spec).await;
        drop(pin);
        if done.is_err() {
            self.collect(digest).await;
        }
        done
    }

    async fn record(&self, project: &Project, name: &Name, spec: &RevisionSpec) -> Result<Deployed, ControlError> {
        let compiled = self.compile(spec.handler.digest, false).await?;
        let granted = self.granted(spec, spec.scale.is_warm()).await?;
        self.tools.fit(&granted).await?;
        let known = self.records.deployment_named(project.id, name.as_str()).await?;
        let keeper = known.map_or_else(DeploymentId::new, |deployment| deployment.id);
        // Nobody else is promised it until it is kept, or the deploy has failed.
        let _room = match spec.scale.is_warm() {
            true => self.tools.reserve(&Keeper::Deployment(keeper), &granted).await.map_err(|error| {
                error.refuse("scale.min_warm", "ask the host's operator for more, or deploy without scale.min_warm")
            })?,
            false => None,
        };
        let (deployment, revision, changed) =
            self.records.deploy(project.id, name, spec, now()).await.map_err(|error| match error {
                RecordsError::NotFound("model") => {
                    ControlError::Conflict("a granted model was removed or replaced meanwhile; deploy again".to_owned())
                }
                other => other.into(),
            })?;
        self.changed().await;
        self.see_to_warmth(Subject::Deployment(deployment.id)).await;
        Ok(Deployed { deployment, revision, changed, compiled })
    }

    /// Names to registrations. A project's own model comes before the host's of the same name.
    async fn resolve(
        &self,
        project: &Project,
        wanted: &BTreeMap<Name, ModelEntry>,
        problems: &mut Vec<String>,
    ) -> Result<BTreeMap<Name, ModelGrant>, ControlError> {
        let mut grants = BTreeMap::new();
        let mut waiting = Vec::new();
        for (alias, entry) in wanted.iter().take(MODELS_MAX) {
            let entry = entry.table();
            let own = self.records.model_named(Owner::Project(project.id), entry.model.as_str()).await?;
            let found = match own {
                Some(model) => Some(model),
                None => self.records.model_named(Owner::Host, entry.model.as_str()).await?,
            };
            match found {
                None => problems
                    .push(format!("there is no model `{}` that project `{}` may use", entry.model, project.name)),
                Some(model) if model.place(self.config.tenant_models) == Place::Nowhere => {
                    waiting.push(format!("`{}`", entry.model))
                }
                Some(model) => {
                    let grant =
                        ModelGrant { model: model.id, device: entry.device, all_positions: entry.all_positions };
                    grants.insert(alias.clone(), grant);
                }
            }
        }
        if problems.is_empty() && !waiting.is_empty() {
            let names = waiting.join(", ");
            return Err(ControlError::NotApproved(format!(
                "model {names} waits for the operator's approval; deploy again once it is approved"
            )));
        }
        Ok(grants)
    }

    /// Stores the handler (or finds it stored) and pins it.
    async fn store(&self, project: &Project, source: HandlerSource) -> Result<(HandlerRecord, Pin), ControlError> {
        let (digest, builtin) = match source {
            HandlerSource::Stored(digest) => {
                // Only what the project has uploaded or deployed itself: a digest must not open another tenant's component.
                if !self.records.may_deploy(project.id, digest).await? {
                    return Err(ControlError::NotFound("component"));
                }
                (digest, None)
            }
            HandlerSource::Builtin(name) => self.store_builtin(&name).await?,
        };
        let pin = self.shared.pins.pin(digest).await;
        match self.artifacts.file(digest).await {
            Ok(_path) => Ok((HandlerRecord { digest, builtin }, pin)),
            Err(ArtifactError::Missing(_)) => {
                Err(ControlError::Conflict("the same component was just being removed; deploy again".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// See [`Control::upload`].
    pub(super) async fn upload_now(
        &self,
        project: ProjectId,
        bytes: BoxStream<'static, Result<Bytes, ArtifactError>>,
    ) -> Result<(Digest, u64), ControlError> {
        let stored = self.artifacts.put(bytes, self.config.component_bytes_max).await;
        let (digest, length) = stored.map_err(|error| match error {
            ArtifactError::TooLarge { limit } => {
                ControlError::TooLarge(format!("the component is longer than component_bytes_max = {limit}"))
            }
            other => other.into(),
        })?;
        let pin = self.shared.pins.pin(digest).await;
        let noted = self.records.note_upload(project, digest, now()).await;
        drop(pin);
        match noted {
            Ok(()) => Ok((digest, length)),
            Err(error) => {
                // The project may have been deleted meanwhile.
                self.collect(digest).await;
                Err(error.into())
            }
        }
    }

    /// Removes components that were uploaded long ago and never deployed.
    pub(super) async fn sweep_uploads(&self) -> Result<(), ControlError> {
        let before = now().saturating_sub(UPLOAD_KEPT_MICROS);
        for digest in self.records.forget_uploads(before).await? {
            self.collect(digest).await;
        }
        Ok(())
    }

    async fn store_builtin(&self, name: &str) -> Result<(Digest, Option<String>), ControlError> {
        let name = name.strip_prefix("builtin:").unwrap_or(name);
        let Some(bytes) = self.builtins.get(name) else {
            let known = self.builtins.keys().map(|name| format!("builtin:{name}")).collect::<Vec<_>>().join(", ");
            let shown: String = name.escape_debug().take(60).collect();
            return Err(ControlError::Invalid(format!("there is no handler `builtin:{shown}`; there are: {known}")));
        };
        let whole = bytes.clone();
        let pieces = (0..whole.len()).step_by(PIECE_BYTES).map(move |start| {
            let end = whole.len().min(start.saturating_add(PIECE_BYTES));
            Ok::<Bytes, ArtifactError>(whole.slice(start..end))
        });
        let (digest, _length) = self.artifacts.put(futures::stream::iter(pieces).boxed(), bytes.len() as u64).await?;
        Ok((digest, Some(format!("builtin:{name}"))))
    }

    /// See [`Control::rollback`].
    pub(super) async fn rollback_now(
        &self,
        deployment: &Deployment,
        number: Option<u32>,
    ) -> Result<Revision, ControlError> {
        let deployment = self.records.deployment(deployment.id).await?.ok_or(ControlError::NotFound("deployment"))?;
        let revisions = self.records.revisions(deployment.id).await?;
        let active = revisions.iter().find(|revision| Some(revision.id) == deployment.active);
        let wanted = match (number, active) {
            (Some(number), _) => revisions.iter().find(|revision| revision.number == number),
            // Newest first: the first below the active one.
            (None, Some(active)) => revisions.iter().find(|revision| revision.number < active.number),
            (None, None) => None,
        };
        let Some(revision) = wanted else {
            return Err(match number {
                Some(_) => ControlError::NotFound("revision"),
                None => ControlError::Conflict(format!("`{}` has no revision before the active one", deployment.name)),
            });
        };
        // Its code may never have been on this node, or have gone with an older engine.
        self.compile(revision.spec.handler.digest, false).await?;
        self.records.activate(deployment.id, revision.id, now()).await?;
        self.changed().await;
        self.see_to_warmth(Subject::Deployment(deployment.id)).await;
        Ok(revision.clone())
    }

    /// See [`Control::delete`].
    pub(super) async fn delete_now(&self, deployment: &Deployment) -> Result<(), ControlError> {
        let revisions = self.records.revisions(deployment.id).await?;
        self.records.delete_deployment(deployment.id, now()).await?;
        self.changed().await;
        self.see_to_warmth(Subject::Deployment(deployment.id)).await;
        let mut digests = std::collections::BTreeSet::new();
        for revision in &revisions {
            digests.insert(revision.spec.handler.digest);
            for grant in revision.spec.models.values() {
                // A model that lost its name lives on only for revisions that were granted it.
                digests.extend(self.records.model(grant.model).await?.map(|model| model.digest));
            }
        }
        for digest in digests {
            self.collect(digest).await;
        }
        Ok(())
    }
}

/// All that is wrong with the request itself.
fn check(request: &DeployRequest) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(limits) = request.limits.validate() {
        problems.extend(limits.iter().map(ToString::to_string));
    }
    if let Err(filter) = request.filter.validate() {
        problems.extend(filter.iter().map(ToString::to_string));
    }
    if let Err(scale) = request.scale.validate() {
        problems.extend(scale.iter().map(ToString::to_string));
    }
    if request.models.len() > MODELS_MAX {
        problems.push(format!("{} models are granted; there may be {MODELS_MAX}", request.models.len()));
    }
    let bytes: usize = request.config.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
    if bytes > CONFIG_BYTES_MAX {
        problems.push(format!("config is {bytes} bytes; it may be {CONFIG_BYTES_MAX}"));
    }
    if request.config.keys().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
        problems.push("config has an empty key or one with a control character".to_owned());
    }
    problems
}
