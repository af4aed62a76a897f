//! What a revision was granted: models by alias, and configuration; and its owner's rules for what they generate.

use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_inference::{Device, Inference, Package};
use mayfly_types::{ModelId, Name, TenantId};

use crate::TextFilter;

/// In which process the models of a grant run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Place {
    /// In the server's: the operator brought or approved it.
    #[default]
    Server,
    /// In one of its tenant's own: nobody has vouched for it.
    Apart,
    /// Nowhere: it waits for the operator's approval.
    Nowhere,
}

/// A tenant, as queues and processes know it.
pub(crate) fn owner(tenant: TenantId) -> u128 {
    u128::from_be_bytes(tenant.to_bytes())
}

/// One granted model.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The registered model: goes into every line of the bill.
    pub model: ModelId,
    /// The name it is registered under.
    pub name: Name,
    /// Its opened package.
    pub package: Arc<Package>,
    /// Where it runs.
    pub device: Device,
    /// In which process it runs.
    pub place: Place,
    /// Hand out every position of a decoder's outputs, not only each row's last.
    pub all_positions: bool,
}

impl Grant {
    /// Whether it is ready to run for `tenant` right now.
    pub fn is_loaded(&self, inference: &Inference, tenant: TenantId) -> bool {
        match self.place {
            Place::Server => inference.is_loaded(self.package.digest(), self.device),
            Place::Apart => inference.is_loaded_apart(owner(tenant), self.package.digest(), self.device),
            // It never will be: nothing has to be woken.
            Place::Nowhere => true,
        }
    }

    /// Memory that loading it took in the process of `tenant`, if it runs in one; as far as that tells.
    pub fn bytes_apart(&self, inference: &Inference, tenant: TenantId) -> u64 {
        match self.place {
            Place::Apart => inference.bytes_apart(owner(tenant), self.package.digest(), self.device),
            Place::Server | Place::Nowhere => 0,
        }
    }
}

/// Everything a revision may reach, and what its owner decided about it. Shared by all its calls.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// By alias.
    pub models: BTreeMap<Name, Grant>,
    /// What `wasi:config` answers.
    pub config: BTreeMap<String, String>,
    /// What generated text passes before the guest sees it.
    pub filter: Option<Arc<dyn TextFilter>>,
    /// Whether all callers of the deployment go on from each other's prompts, not each key from its own only.
    pub share_prefixes: bool,
}
