//! How much memory, and how many tables and core instances, one request's guest may have.
//!
//! wasmtime's own `StoreLimits` counts each memory alone and fails with text only; here all memories of a component
//! share one limit, and a refusal is a typed error, so that a guest that ran out of memory is told so.

use wasmtime::ResourceLimiter;

/// The limit a growing guest hit. Travels as the trap's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exceeded {
    /// All linear memories together.
    #[error("memory limit of {0} bytes reached")]
    Memory(u64),
    /// All tables together.
    #[error("table limit of {0} elements reached")]
    Table(u64),
}

/// Core instances in one component: a Rust component has four, composed ones some more.
pub(crate) const CORE_INSTANCES_MAX: u32 = 64;
/// Linear memories in one component: one for each language runtime in it.
pub(crate) const MEMORIES_MAX: u32 = 4;
/// Tables in one component.
pub(crate) const TABLES_MAX: u32 = 16;

/// Grants growth up to the limits of a revision; past them the guest traps instead of seeing a failed `memory.grow`,
/// which most languages turn into a bare `unreachable`.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory_bytes_max: u64,
    table_elements_max: u64,
    memory_bytes: u64,
    table_elements: u64,
}

impl Limiter {
    /// Nothing granted yet.
    pub(crate) fn new(memory_bytes_max: u64, table_elements_max: u64) -> Self {
        Self { memory_bytes_max, table_elements_max, memory_bytes: 0, table_elements: 0 }
    }

    /// Bytes of linear memory granted so far.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

/// `total + (desired - current)`, if that is within `limit`.
fn grown(total: u64, current: usize, desired: usize, limit: u64) -> Option<u64> {
    let added = u64::try_from(desired.checked_sub(current)?).ok()?;
    total.checked_add(added).filter(|sum| *sum <= limit)
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        let limit = self.memory_bytes_max;
        self.memory_bytes = grown(self.memory_bytes, current, desired, limit).ok_or(Exceeded::Memory(limit))?;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Exceeded::Memory(self.memory_bytes_max).into())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        let limit = self.table_elements_max;
        self.table_elements = grown(self.table_elements, current, desired, limit).ok_or(Exceeded::Table(limit))?;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Exceeded::Table(self.table_elements_max).into())
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_share_one_limit() {
        let mut limiter = Limiter::new(100, 10);
        assert!(limiter.memory_growing(0, 60, None).expect("within the limit"));
        let error = limiter.memory_growing(0, 60, None).expect_err("60 + 60 is above 100");
        assert_eq!(error.downcast_ref::<Exceeded>(), Some(&Exceeded::Memory(100)));
        assert!(limiter.memory_growing(60, 100, None).expect("100 in all"));
        assert_eq!(limiter.memory_bytes(), 100);
    }

    #[test]
    fn a_failed_growth_names_the_limit() {
        let mut limiter = Limiter::new(100, 10);
        let error = limiter.table_growing(0, 11, None).expect_err("11 is above 10");
        assert_eq!(error.downcast_ref::<Exceeded>(), Some(&Exceeded::Table(10)));
        assert!(limiter.memory_grow_failed(wasmtime::Error::msg("no")).is_err());
    }
}
