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
    /// Milliseconds between two epoch ticks; guests that compute yield at each.
    pub epoch_tick_ms: u64,
    /// After its body ended, a handler may go on this long; its calls to models fail.
    pub body_end_grace_ms: u64,
    /// Threads for guests that compute for long without waiting; 0 takes all cores but one.
    pub compute_threads: u32,
    /// The most requests that any revision may let one instance answer; 1 makes a fresh one for each, everywhere.
    pub reuse_max: u32,
    /// The longest that any instance may wait for its deployment's next request.
    pub instance_idle_ms_max: u64,
    /// Instances that wait for a next request, on this node. They give way to new ones where the pool is short.
    pub idle_instances_max: u32,
    /// Of these, those of one deployment.
    pub idle_instances_per_deployment_max: u32,
    /// Linear memory of all instances that wait; beyond, the one that has waited longest goes.
    pub idle_instances_bytes_max: u64,
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
            compute_threads: 0,
            reuse_max: 10_000,
            instance_idle_ms_max: 60_000,
            idle_instances_max: 256,
            idle_instances_per_deployment_max: 32,
            idle_instances_bytes_max: 1 << 30,
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
