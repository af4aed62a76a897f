//! How the store works.

use serde::{Deserialize, Serialize};

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// When the system has it: survives the end of the process (SIGKILL), not a power loss.
    #[default]
    None,
    /// When the disk has it: survives a power loss too. Commits wait for the disk; those that wait together share it.
    Group,
}

/// Settings of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// When a commit counts as durable.
    pub fsync: Fsync,
    /// Bytes of the redo log that may be not in the tables yet: at the limit appends wait a moment, then fail. They are held in
    /// memory as well, as some three times as many bytes.
    pub unapplied_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { fsync: Fsync::default(), unapplied_bytes_max: 32 << 20 }
    }
}
