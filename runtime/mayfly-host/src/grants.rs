//! What a revision was granted: models by alias, and configuration; and its owner's rules for what they generate.

use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_inference::{Device, Package};
use mayfly_types::{ModelId, Name};

use crate::TextFilter;

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
    /// Hand out every position of a decoder's outputs, not only each row's last.
    pub all_positions: bool,
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
