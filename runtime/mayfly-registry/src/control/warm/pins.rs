//! What the task does for pins.

use std::collections::BTreeMap;

use mayfly_inference::Device;
use mayfly_types::ModelId;

use super::super::tools::{Granted, Keeper};
use super::super::{Control, pin};
use super::Task;
use crate::{ControlError, ModelPin};

/// What is to be kept for which pins.
type Pins = BTreeMap<(ModelId, Device), (Keeper, Granted)>;

/// One pin.
#[derive(Debug)]
pub(super) struct Pinned {
    keeper: Keeper,
    granted: Granted,
    /// Whether it is kept.
    pub(super) kept: bool,
}

impl Task {
    /// Keeps a model where it is pinned, and lets go of it where it is not.
    pub(super) async fn see_to_pins(&mut self, control: &Control, id: ModelId) {
        let pins = match Self::read_pins(control, id).await {
            Ok(pins) => pins,
            Err(error) => {
                tracing::warn!(model = %id, ?error, "where a model is pinned could not be read");
                for (_, pinned) in self.pinned.iter_mut().filter(|((model, _), _)| *model == id) {
                    pinned.kept = false;
                }
                return;
            }
        };
        let known = self.pinned.keys().copied();
        let gone: Vec<_> = known.filter(|place| place.0 == id && !pins.contains_key(place)).collect();
        for place in gone {
            control.shared.unkept.note(place, None);
            // If the name went to another package with its pins, that one has its place.
            if let Some(Pinned { keeper, .. }) = self.pinned.remove(&place)
                && !self.pinned.values().any(|other| other.keeper == keeper)
            {
                control.tools.let_go(&keeper);
            }
        }
        for (place, (keeper, granted)) in pins {
            let before = self.pinned.get(&place);
            if before.is_some_and(|pinned| pinned.kept && pinned.granted == granted) {
                continue;
            }
            let was_told = before.is_some_and(|pinned| pinned.granted == granted);
            let done = control.tools.keep(&keeper, &granted).await;
            if let (Err(error), Keeper::Pin(_, model, device), false) = (&done, &keeper, was_told) {
                tracing::warn!(%model, %device, ?error, "a pinned model is not kept loaded: {error}");
            }
            control.shared.unkept.note(place, done.as_ref().err().map(ToString::to_string));
            self.pinned.insert(place, Pinned { keeper, granted, kept: done.is_ok() });
        }
    }

    async fn read_pins(control: &Control, id: ModelId) -> Result<Pins, ControlError> {
        let mut pins = Pins::new();
        let found = control.records.model_pins(Some(id)).await?;
        if found.is_empty() {
            return Ok(pins);
        }
        let model = control.records.model(id).await?.ok_or(ControlError::NotFound("model"))?;
        for ModelPin { device, .. } in found {
            pins.insert((id, device), (pin::keeper(&model, device), control.pinned(&model, device).await?));
        }
        Ok(pins)
    }
}
