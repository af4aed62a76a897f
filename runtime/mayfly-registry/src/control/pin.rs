//! Models that the operator pins: loaded from then on, whoever calls them, on whatever node, until they are unpinned.
//!
//! A pin is of a name, as the operator gave it: it goes over to the package that takes the name, and away with the name. One
//! task sees to pins and to what deployments keep warm ([`super::warm`]); what both want is there once and counts once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mayfly_host::Place;
use mayfly_inference::{Device, KeepError, Reservation};
use mayfly_types::ModelId;

use super::Control;
use super::tools::{Granted, GrantedModel, Keeper, ToolError};
use super::warm::Subject;
use crate::clock::now;
use crate::{ControlError, Model, ModelPin, Owner, TenantModels};

/// A pin, and what this node makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinState {
    /// The pin.
    pub pin: ModelPin,
    /// Whether the model is loaded there now.
    pub loaded: bool,
    /// Why it is not kept here, if it is not.
    pub problem: Option<String>,
}

/// Pins that are not kept on this node, and why. As many as there are pins at most.
#[derive(Debug, Default)]
pub(super) struct Unkept(Mutex<BTreeMap<(ModelId, Device), String>>);

impl Unkept {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ModelId, Device), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, pin: (ModelId, Device), problem: Option<String>) {
        let mut all = self.lock();
        match problem {
            Some(problem) => drop(all.insert(pin, problem)),
            None => drop(all.remove(&pin)),
        }
    }

    fn of(&self, pin: &ModelPin) -> Option<String> {
        self.lock().get(&(pin.model, pin.device)).cloned()
    }
}

/// A pin of the model on `device`, as one who keeps models.
pub(super) fn keeper(model: &Model, device: Device) -> Keeper {
    Keeper::Pin(model.owner, model.name.clone(), device)
}

impl Control {
    pub(super) async fn pin_model_now(&self, id: ModelId, device: Device) -> Result<Model, ControlError> {
        let model = self.records.model(id).await?.ok_or(ControlError::NotFound("model"))?;
        if model.place(self.config.tenant_models) != Place::Server {
            return Err(ControlError::NotApproved(match self.config.tenant_models {
                TenantModels::Isolate => format!(
                    "model `{}` runs in a process of its tenant's own, where nothing is kept loaded: approve it before it is pinned",
                    model.name
                ),
                TenantModels::Approve | TenantModels::Refuse => {
                    format!("model `{}` runs nowhere before it is approved: approve it before it is pinned", model.name)
                }
            }));
        }
        if self.records.model_pins(Some(id)).await?.iter().any(|pin| pin.device == device) {
            return Ok(model);
        }
        let granted = self.pinned(&model, device).await?;
        // Nobody else is promised it until it is kept, or the pin has failed.
        let room = self.tools.reserve(&keeper(&model, device), &granted).await;
        let _room = room.map_err(|error| refused(&model, &format!("pinned on {device}"), error))?;
        self.records.pin_model(id, device, now()).await?;
        self.changed().await;
        self.see_to_warmth(Subject::Pins(id)).await;
        Ok(model)
    }

    pub(super) async fn unpin_model_now(&self, id: ModelId, device: Device) -> Result<(), ControlError> {
        self.records.unpin_model(id, device).await?;
        self.changed().await;
        self.see_to_warmth(Subject::Pins(id)).await;
        Ok(())
    }

    /// All pins, or those of one model, and what this node makes of them.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn pins(&self, of: Option<ModelId>) -> Result<Vec<PinState>, ControlError> {
        let mut states = Vec::new();
        for pin in self.records.model_pins(of).await? {
            // Its name may have been taken away since.
            let Some(model) = self.records.model(pin.model).await? else { continue };
            let loaded = self.tools.is_loaded(model.digest, pin.device);
            let problem = self.shared.unkept.of(&pin);
            states.push(PinState { pin, loaded, problem });
        }
        Ok(states)
    }

    /// Sets room aside for a package that is about to take the name of a pinned one.
    ///
    /// # Errors
    /// [`ControlError`]: it would not be kept.
    pub(super) async fn room_for_heir(&self, older: &Model, heir: &Model) -> Result<Vec<Reservation>, ControlError> {
        let mut rooms = Vec::new();
        // Of a project's model nobody has approved the new package: its pins end.
        if heir.owner != Owner::Host {
            return Ok(rooms);
        }
        for ModelPin { device, .. } in self.records.model_pins(Some(older.id)).await? {
            let granted = self.pinned(heir, device).await?;
            let room = self.tools.reserve(&keeper(heir, device), &granted).await;
            rooms.extend(room.map_err(|error| refused(heir, &format!("replaced: it is pinned on {device}"), error))?);
        }
        Ok(rooms)
    }

    /// What a pin of this model keeps.
    pub(super) async fn pinned(&self, model: &Model, device: Device) -> Result<Granted, ControlError> {
        let folder = self.artifacts.folder(model.digest).await?;
        Ok(Granted { handler: None, models: vec![GrantedModel { name: model.name.clone(), folder, device }] })
    }
}

/// What the operator reads, whose settings these are.
fn refused(model: &Model, what: &str, error: ToolError) -> ControlError {
    let asked = format!("model `{}` cannot be {what}", model.name);
    let way_out = match &error {
        ToolError::Keep(KeepError::Never) => {
            "set inference.pinned_bytes_max to the bytes that may be, and start the server anew"
        }
        ToolError::Keep(KeepError::NoRoom { .. }) => {
            "unpin another model, deploy what has scale.min_warm without it, or raise inference.pinned_bytes_max and start \
             the server anew"
        }
        _ => "unpin another model, or deploy what has scale.min_warm without it",
    };
    error.refuse(&asked, way_out)
}
