//! What active revisions ask to be kept warm (`scale.min_warm`), from the start of the node on: their code mapped, their
//! records at hand, their models loaded. And the models that the operator pinned ([`super::pin`]).
//!
//! One task does it, so that what it does for a deployment or a model comes in one order. It follows the store's changes, on
//! whatever node they were made; a workflow here that changes one waits until it has seen to it.

mod pins;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mayfly_host::Place;
use mayfly_inference::Device;
use mayfly_types::{DeploymentId, ModelId, Name};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::tools::{Granted, GrantedModel, Keeper, ToolError};
use super::{Control, Shared};
use crate::{ChangeKind, ControlError, Directory, RevisionSpec};
use pins::Pinned;

/// Deployments and models that workflows of this node wait for.
const ASKED_MAX: usize = 64;
/// Changes asked for at once.
const CHANGES_READ: u32 = 1_000;
/// What is used by nobody is touched at least this often, so that nothing of it idles out, and what could not be kept is
/// tried again.
const TOUCH_MAX: Duration = Duration::from_secs(30);
const TOUCH_MIN: Duration = Duration::from_millis(50);

/// What may have something kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// By its active revision.
    Deployment(DeploymentId),
    /// By its pins.
    Pins(ModelId),
}

/// What has changed, and who waits for it to be seen to.
type Ask = (Subject, oneshot::Sender<()>);

/// The way to the task.
#[derive(Debug)]
pub(super) struct Warmth(mpsc::Sender<Ask>);

impl Warmth {
    /// Waits until the task has seen to what has just changed.
    pub(super) async fn changed(&self, subject: Subject) {
        let (sender, done) = oneshot::channel();
        if self.0.send((subject, sender)).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// One deployment that asks to be kept warm.
#[derive(Debug)]
struct Wanted {
    /// Of its project and its own.
    names: (Name, Name),
    granted: Granted,
    /// Whether its models are kept.
    kept: bool,
}

struct Task {
    control: Parts,
    directory: Directory,
    wanted: BTreeMap<DeploymentId, Wanted>,
    /// By model and device.
    pinned: BTreeMap<(ModelId, Device), Pinned>,
    /// Changes up to this version are seen to.
    seen: i64,
}

/// A [`Control`] that keeps nothing alive: the task ends with the last one.
struct Parts {
    control: Control,
    shared: Weak<Shared>,
}

impl Parts {
    fn of(control: &Control) -> Self {
        let shared = Arc::downgrade(&control.shared);
        // Of the shared part only the type is needed.
        let empty = Arc::new(Shared::new(&control.config));
        Self { control: Control { shared: empty, ..control.clone() }, shared }
    }

    fn upgrade(&self) -> Option<Control> {
        Some(Control { shared: self.shared.upgrade()?, ..self.control.clone() })
    }
}

impl Control {
    /// Keeps what is pinned, and warm what active revisions ask for, from now on and until the last clone is dropped. What
    /// can be kept is on its way when this returns. Once, before anything is deployed.
    ///
    /// # Errors
    /// [`ControlError`] if the store failed.
    pub async fn keep_warm(&self) -> Result<(), ControlError> {
        let directory = self.directory().await?;
        let seen = self.records.version().await?;
        let (wanted, pinned) = (BTreeMap::new(), BTreeMap::new());
        let mut task = Task { control: Parts::of(self), directory, wanted, pinned, seen };
        // The operator's word first: should there be less room than before, it is the deployments that go without.
        for pin in self.records.model_pins(None).await? {
            task.see_to_pins(self, pin.model).await;
        }
        for deployment in self.records.warm_deployments().await? {
            task.see_to_deployment(self, deployment).await;
        }
        let (sender, asked) = mpsc::channel(ASKED_MAX);
        if self.shared.warmth.set(Warmth(sender)).is_ok() {
            tokio::spawn(task.follow(asked));
        }
        Ok(())
    }

    /// The models of a revision that run in the server's own process; with `all`, it is an error if there are others.
    pub(super) async fn granted(&self, spec: &RevisionSpec, all: bool) -> Result<Granted, ControlError> {
        let mut models = Vec::with_capacity(spec.models.len());
        for grant in spec.models.values() {
            let model = self.records.model(grant.model).await?.ok_or(ControlError::NotFound("model"))?;
            match model.place(self.config.tenant_models) {
                Place::Server => {
                    let folder = self.artifacts.folder(model.digest).await?;
                    models.push(GrantedModel { name: model.name, folder, device: grant.device });
                }
                _ if all => {
                    return Err(ControlError::NotApproved(format!(
                        "model `{}` cannot be kept loaded before the operator has approved it: deploy without scale.min_warm",
                        model.name
                    )));
                }
                _ => {}
            }
        }
        Ok(Granted { handler: Some(spec.handler.digest), models })
    }

    /// Something has changed: what it wants kept is seen to before anybody is told.
    pub(super) async fn see_to_warmth(&self, subject: Subject) {
        if let Some(warmth) = self.shared.warmth.get() {
            warmth.changed(subject).await;
        }
    }
}

impl Task {
    async fn follow(mut self, mut asked: mpsc::Receiver<Ask>) {
        let Some(config) = self.control.upgrade().map(|control| control.config) else { return };
        let idle = Duration::from_millis(config.idle_ms.min(config.code_idle_ms));
        let every = (idle / 3).clamp(TOUCH_MIN, TOUCH_MAX);
        let mut poll = interval(Duration::from_millis(config.poll_ms.max(10)).min(every));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut touched = Instant::now();
        loop {
            let asked = tokio::select! {
                asked = asked.recv() => match asked {
                    Some(asked) => Some(asked),
                    None => return,
                },
                _ = poll.tick() => None,
            };
            let Some(control) = self.control.upgrade() else { return };
            if let Some((subject, waits)) = asked {
                match subject {
                    Subject::Deployment(id) => self.see_to_deployment(&control, id).await,
                    Subject::Pins(id) => self.see_to_pins(&control, id).await,
                }
                // Who has left needs no answer.
                let _ = waits.send(());
                continue;
            }
            self.catch_up(&control).await;
            if touched.elapsed() >= every {
                touched = Instant::now();
                self.touch(&control).await;
            }
        }
    }

    /// Sees to all that changed in the store, if anything did.
    async fn catch_up(&mut self, control: &Control) {
        while self.seen < self.directory.version() {
            let changes = match control.records.changes_since(self.seen, CHANGES_READ).await {
                Ok(changes) => changes,
                Err(error) => {
                    tracing::warn!(?error, "what is to be kept warm could not be read; it is read again soon");
                    return;
                }
            };
            let Some(newest) = changes.iter().map(|change| change.version).max() else { return };
            for change in changes {
                match change.kind {
                    ChangeKind::Deployment(id) => self.see_to_deployment(control, id).await,
                    // It may have been approved, and run in another process from now on; or pinned.
                    ChangeKind::Model(model) => {
                        self.see_to_pins(control, model).await;
                        for id in self.wanted.keys().copied().collect::<Vec<_>>() {
                            self.see_to_deployment(control, id).await;
                        }
                    }
                    ChangeKind::Tenant(_) | ChangeKind::Project(_) | ChangeKind::Key(..) => {}
                }
            }
            self.seen = newest;
        }
    }

    /// Nothing that is kept warm idles out, and what could not be kept may be by now.
    async fn touch(&mut self, control: &Control) {
        let again: Vec<_> = self.pinned.iter().filter(|(_, pinned)| !pinned.kept).map(|((id, _), _)| *id).collect();
        for id in again {
            self.see_to_pins(control, id).await;
        }
        let again: Vec<_> = self.wanted.iter().filter(|(_, wanted)| !wanted.kept).map(|(id, _)| *id).collect();
        for id in again {
            self.see_to_deployment(control, id).await;
        }
        for Wanted { names: (project, name), granted, .. } in self.wanted.values() {
            if let Some(handler) = granted.handler
                && let Err(error) = control.tools.touch(handler).await
            {
                tracing::warn!(%project, deployment = %name, ?error, "code that is kept warm could not be mapped");
            }
            let _ = self.directory.resolve(project.as_str(), name.as_str()).await;
        }
    }

    /// Keeps what the deployment's active revision asks for, or lets go of what it does not.
    async fn see_to_deployment(&mut self, control: &Control, id: DeploymentId) {
        let keeper = Keeper::Deployment(id);
        let (names, granted) = match Self::read(control, id).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                if self.wanted.remove(&id).is_some() {
                    control.tools.let_go(&keeper);
                }
                return;
            }
            Err(error) => {
                tracing::warn!(deployment = %id, ?error, "what a deployment keeps warm could not be read");
                if let Some(wanted) = self.wanted.get_mut(&id) {
                    wanted.kept = false;
                }
                return;
            }
        };
        let before = self.wanted.get(&id);
        if before.is_some_and(|wanted| wanted.kept && wanted.granted == granted && wanted.names == names) {
            return;
        }
        let was_told = before.is_some_and(|wanted| wanted.granted == granted);
        let mut done = control.tools.keep(&keeper, &granted).await;
        if let Err(ToolError::Code(_)) = done
            && let Some(handler) = granted.handler
            && control.recompile(handler).await.is_ok()
        {
            done = control.tools.keep(&keeper, &granted).await;
        }
        let (project, name) = &names;
        let _ = self.directory.resolve(project.as_str(), name.as_str()).await;
        if let Err(error) = &done
            && !was_told
        {
            tracing::warn!(%project, deployment = %name, ?error, "a deployment's models are not kept loaded: {error}");
        }
        self.wanted.insert(id, Wanted { names, granted, kept: done.is_ok() });
    }

    async fn read(control: &Control, id: DeploymentId) -> Result<Option<((Name, Name), Granted)>, ControlError> {
        let Some(deployment) = control.records.deployment(id).await? else { return Ok(None) };
        let Some(active) = deployment.active else { return Ok(None) };
        let revision = control.records.revision(active).await?.ok_or(ControlError::NotFound("revision"))?;
        if !revision.spec.scale.is_warm() {
            return Ok(None);
        }
        let project = control.records.project(deployment.project).await?.ok_or(ControlError::NotFound("project"))?;
        Ok(Some(((project.name, deployment.name), control.granted(&revision.spec, false).await?)))
    }
}
