//! Settings of the registry.

use serde::{Deserialize, Serialize};

/// A change on one node is seen by every other within this time; in particular a revoked key is dead there. On the
/// node that made the change it holds at once. A node that cannot ask the store for longer refuses to answer from
/// its caches.
pub const REVOCATION_BOUND_MS: u64 = 2_000;

/// What becomes of models that tenants bring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TenantModels {
    /// They run in the server's own process once the operator has approved them, and not before.
    #[default]
    Approve,
    /// They run in a process of their tenant's own until the operator has approved them.
    Isolate,
    /// They are not taken.
    Refuse,
}

/// Settings of [`crate::Control`] and [`crate::Directory`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of an uploaded component: the host's limit, set where the two are put together.
    #[serde(skip)]
    pub component_bytes_max: u64,
    /// How long unused code stays mapped: the host's setting, as above.
    #[serde(skip)]
    pub code_idle_ms: u64,
    /// What becomes of models that tenants bring: a setting of the server's, as above.
    #[serde(skip)]
    pub tenant_models: TenantModels,
    /// Bytes of all files of an uploaded model.
    pub model_bytes_max: u64,
    /// Files of an uploaded model.
    pub model_files_max: u32,
    /// Components compiled at once.
    pub compiles_running_max: u32,
    /// Deploys waiting for a compile; one more is refused.
    pub compiles_waiting_max: u32,
    /// Models imported at once.
    pub imports_running_max: u32,
    /// Imports waiting; one more is refused.
    pub imports_waiting_max: u32,
    /// Keys cached; the least recently used one goes.
    pub keys_cached_max: u64,
    /// Projects cached.
    pub projects_cached_max: u64,
    /// Deployments cached with their active revision.
    pub deployments_cached_max: u64,
    /// Opened model packages shared between revisions.
    pub packages_cached_max: u64,
    /// A cached record nobody asked for goes after this: then a deployment at rest is nothing in memory.
    pub idle_ms: u64,
    /// How often the store is asked what changed on other nodes. Below [`REVOCATION_BOUND_MS`].
    pub poll_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            component_bytes_max: 64 << 20,
            code_idle_ms: 300_000,
            tenant_models: TenantModels::Approve,
            model_bytes_max: 32 << 30,
            model_files_max: 256,
            compiles_running_max: 2,
            compiles_waiting_max: 32,
            imports_running_max: 1,
            imports_waiting_max: 8,
            keys_cached_max: 10_000,
            projects_cached_max: 1_000,
            deployments_cached_max: 4_096,
            packages_cached_max: 256,
            idle_ms: 60_000,
            poll_ms: 500,
        }
    }
}

impl Config {
    /// All problems at once, each as a sentence that names the key.
    ///
    /// # Errors
    /// One text for each problem.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        if !(10..REVOCATION_BOUND_MS).contains(&self.poll_ms) {
            problems.push(format!("registry.poll_ms must be between 10 and {}", REVOCATION_BOUND_MS - 1));
        }
        let counts = [
            ("compiles_running_max", u64::from(self.compiles_running_max)),
            ("imports_running_max", u64::from(self.imports_running_max)),
            ("model_files_max", u64::from(self.model_files_max)),
            ("component_bytes_max", self.component_bytes_max),
            ("model_bytes_max", self.model_bytes_max),
        ];
        for (name, value) in counts {
            if value == 0 {
                problems.push(format!("registry.{name} must be at least 1"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_problems_come_together() {
        assert_eq!(Config::default().validate(), Ok(()));
        let bad = Config { poll_ms: 5_000, compiles_running_max: 0, ..Config::default() };
        let problems = bad.validate().expect_err("two keys are out of range");
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
