//! Settings of the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::KeyValueLimits;

/// Settings of [`crate::Host`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Instances alive at once. 0 derives it from `vm.max_map_count` and memory, and says so at start.
    pub instances_max: u32,
    /// The most linear memory any revision may ask for (the pool's slot size).
    pub instance_memory_bytes_max: u64,
    /// Bytes of a slot that stay resident after an instance is gone.
    pub keep_resident_bytes: u64,
    /// Components mapped at once; the least recently used one goes.
    pub code_entries_max: u64,
    /// Mapped code unused for this long goes.
    pub code_idle_ms: u64,
    /// Time and memory of the compiling child.
    pub compile_seconds_max: u64,
    /// Memory of the compiling child.
    pub compile_bytes_max: u64,
    /// Bytes of an uploaded component.
    pub component_bytes_max: u64,
    /// Milliseconds between two epoch ticks; guests yield at each.
    pub epoch_tick_ms: u64,
    /// After its body ended, a handler may go on this long; its calls to models fail.
    pub body_end_grace_ms: u64,
    /// `wasi:keyvalue`: the store of each deployment.
    pub keyvalue: KeyValueLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instances_max: 0,
            instance_memory_bytes_max: 1 << 30,
            keep_resident_bytes: 1 << 20,
            code_entries_max: 1024,
            code_idle_ms: 300_000,
            compile_seconds_max: 120,
            compile_bytes_max: 4 << 30,
            component_bytes_max: 64 << 20,
            epoch_tick_ms: 1,
            body_end_grace_ms: 250,
            keyvalue: KeyValueLimits::default(),
        }
    }
}

/// Where the host keeps things on this node.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Compiled code and its key; only the host may write here.
    pub(crate) code: PathBuf,
    /// The binary to start as the compiling child.
    pub(crate) child: PathBuf,
}
