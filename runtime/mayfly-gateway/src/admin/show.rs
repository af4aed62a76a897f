//! Records as the bodies of the contract show them.

use mayfly_api as api;
use mayfly_api::Timestamp;
use mayfly_inference::{DimensionInfo, Fit, Needs, TensorInfo};
use mayfly_registry::{Key, KeyScope, Model, Owner, PinState, Place, Project, Slot, Tenant, TenantModels};
use serde::Serialize;

pub(crate) fn tenant(tenant: &Tenant) -> api::Tenant {
    api::Tenant { id: tenant.id, name: tenant.name.clone(), created_at: Timestamp::from_micros(tenant.created_at) }
}

pub(crate) fn project(project: &Project) -> api::Project {
    api::Project {
        id: project.id,
        name: project.name.clone(),
        tenant: project.tenant,
        created_at: Timestamp::from_micros(project.created_at),
    }
}

pub(crate) fn key(key: &Key) -> api::Key {
    api::Key {
        id: key.id,
        prefix: key.prefix.clone(),
        label: api::clean_line(&key.label),
        scopes: key.scopes.iter().map(|scope| scope_to(*scope)).collect(),
        tenant: key.tenant,
        project: key.project,
        deployments: key.deployments.clone(),
        slot: key.slot.map(|(_deployment, slot)| slot_to(slot)),
        created_at: Timestamp::from_micros(key.created_at),
        expires_at: key.expires_at.map(Timestamp::from_micros),
        revoked_at: key.revoked_at.map(Timestamp::from_micros),
        last_used_at: key.last_used_at.map(Timestamp::from_micros),
    }
}

fn slot_to(slot: Slot) -> api::Slot {
    match slot {
        Slot::Primary => api::Slot::Primary,
        Slot::Secondary => api::Slot::Secondary,
    }
}

pub(crate) fn scope_to(scope: KeyScope) -> api::Scope {
    match scope {
        KeyScope::Call => api::Scope::Call,
        KeyScope::Deploy => api::Scope::Deploy,
        KeyScope::Admin => api::Scope::Admin,
    }
}

pub(crate) fn scope_of(scope: api::Scope) -> KeyScope {
    match scope {
        api::Scope::Call => KeyScope::Call,
        api::Scope::Deploy => KeyScope::Deploy,
        api::Scope::Admin => KeyScope::Admin,
    }
}

pub(crate) fn model(model: &Model, policy: TenantModels) -> api::Model {
    let info = &model.info;
    let (owner, project) = match model.owner {
        Owner::Host => (api::ModelOwner::Host, None),
        Owner::Project(id) => (api::ModelOwner::Project, Some(id)),
    };
    api::Model {
        id: model.id,
        name: model.name.clone(),
        owner,
        project,
        digest: model.digest,
        approved: model.approved,
        runs: match model.place(policy) {
            Place::Server => api::RunsIn::Server,
            Place::Apart => api::RunsIn::Apart,
            Place::Nowhere => api::RunsIn::Nowhere,
        },
        created_at: Timestamp::from_micros(model.created_at),
        bytes: info.bytes,
        memory: Vec::new(),
        pins: Vec::new(),
        inputs: info.inputs.iter().map(tensor).collect(),
        outputs: info.outputs.iter().map(tensor).collect(),
        has_tokenizer: info.has_tokenizer,
        vocab_size: info.vocab_size,
        max_tokens: info.max_tokens,
        pad_id: info.pad_id,
        properties: info.properties.iter().map(|(key, value)| (api::clean_line(key), api::clean_line(value))).collect(),
    }
}

/// Who pinned it and what is wrong is the operator's to read.
pub(crate) fn pin(state: &PinState, to_operator: bool) -> api::ModelPin {
    let by = state.pin.by.as_ref().map(|by| api::PinnedBy {
        key: by.key,
        prefix: by.prefix.clone(),
        label: api::clean_line(&by.label),
    });
    api::ModelPin {
        device: state.pin.device.to_string(),
        pinned_at: Timestamp::from_micros(state.pin.at),
        by: by.filter(|_| to_operator),
        loaded: state.loaded,
        problem: state.problem.clone().filter(|_| to_operator),
    }
}

pub(crate) fn memory(needs: &Needs) -> api::ModelMemory {
    api::ModelMemory {
        device: needs.device.to_string(),
        fit: match needs.fit {
            Some(Fit::Fits) => api::Fit::Fits,
            Some(Fit::FitsAfterEviction) => api::Fit::FitsAfterEviction,
            None => api::Fit::NeverFits,
        },
        bytes: needs.bytes,
        mapped_bytes: needs.mapped_bytes,
        budget_bytes: needs.budget,
    }
}

fn tensor(tensor: &TensorInfo) -> api::ModelTensor {
    api::ModelTensor {
        // Names come from the model's file.
        name: api::clean_line(&tensor.name),
        element_type: word(&tensor.element_type),
        dimensions: tensor.dimensions.iter().map(dimension).collect(),
        role: word(&tensor.role),
    }
}

fn dimension(dimension: &DimensionInfo) -> api::Dimension {
    match dimension {
        DimensionInfo::Fixed(size) => api::Dimension::Fixed(*size),
        DimensionInfo::Named(name) => api::Dimension::Named(api::clean_line(name)),
        DimensionInfo::Any => api::Dimension::Any(()),
    }
}

/// The word an enum without fields is stored as.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_and_words() {
        let shown = [DimensionInfo::Fixed(3), DimensionInfo::Named("batch\u{1b}".to_owned()), DimensionInfo::Any];
        let json = serde_json::to_string(&shown.iter().map(dimension).collect::<Vec<_>>()).expect("plain data");
        assert_eq!(json, r#"[3,"batch",null]"#);
        assert_eq!(word(&mayfly_inference::Role::TokenTypes), "token-types");
    }
}
