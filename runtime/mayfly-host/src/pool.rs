//! How many instances fit this machine, and the pool that holds them.
//!
//! Two walls: `vm.max_map_count` (past it the allocator of the whole process fails) and the memory that stays resident
//! in slots that were used once.

use wasmtime::{Enabled, Engine, PoolingAllocationConfig};

use crate::limiter::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLES_MAX};
use crate::{Config, StartError, settings};

/// Memory mappings of a used slot (measured).
const MAPS_PER_SLOT: u64 = 6;
/// Memory mappings of a loaded component (measured).
const MAPS_PER_COMPONENT: u64 = 5;
/// Mappings left to threads, the allocator, models and libraries.
const MAPS_FOR_OTHERS: u64 = 16_384;
/// What a used slot keeps beside its memory: tables, page tables, a stack.
const SLOT_EXTRA_BYTES: u64 = 128 << 10;
/// More would not run at once on any machine this is meant for.
const SLOTS_MAX: u64 = 8_192;
/// Fewer are not worth starting with.
const SLOTS_MIN: u64 = 8;
/// The kernel's default, where it cannot be read.
const MAX_MAP_COUNT_DEFAULT: u64 = 65_530;

/// What the machine gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// `vm.max_map_count`.
    pub(crate) map_count_max: u64,
    /// Memory of the machine, or of the control group if that is less.
    pub(crate) memory_bytes: u64,
}

impl Machine {
    /// Asks the kernel.
    pub(crate) fn read() -> Self {
        let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let info = rustix::system::sysinfo();
        let total = info.totalram.saturating_mul(u64::from(info.mem_unit));
        let group = number("/sys/fs/cgroup/memory.max").unwrap_or(u64::MAX);
        Self {
            map_count_max: number("/proc/sys/vm/max_map_count").unwrap_or(MAX_MAP_COUNT_DEFAULT),
            memory_bytes: total.min(group),
        }
    }
}

/// Slots that fit `machine`: by mappings, and so that slots which were all used once keep at most a quarter of memory.
pub(crate) fn slots(config: &Config, machine: Machine) -> u32 {
    if config.instances_max > 0 {
        return config.instances_max;
    }
    let reserved = MAPS_FOR_OTHERS.saturating_add(config.code_entries_max.saturating_mul(MAPS_PER_COMPONENT));
    let by_maps = machine.map_count_max.saturating_sub(reserved) / MAPS_PER_SLOT;
    let by_memory = machine.memory_bytes / 4 / config.keep_resident_bytes.saturating_add(SLOT_EXTRA_BYTES);
    let slots = by_maps.min(by_memory).clamp(SLOTS_MIN, SLOTS_MAX);
    u32::try_from(slots).expect("clamped to SLOTS_MAX")
}

/// An engine with a pool of `slots` instances, or of fewer where so many cannot be reserved.
///
/// # Errors
/// [`StartError::Engine`] if not even a small pool can be made.
pub(crate) fn engine(config: &Config, slots: u32) -> Result<(Engine, u32), StartError> {
    let mut wanted = slots;
    loop {
        match settings::pooled_engine(pool(config, wanted)?) {
            Ok(engine) => {
                if wanted < slots {
                    tracing::warn!(wanted = slots, instances_max = wanted, "the instance pool is smaller than wanted");
                }
                return Ok((engine, wanted));
            }
            Err(error) if u64::from(wanted) > SLOTS_MIN => {
                tracing::warn!(instances_max = wanted, %error, "an instance pool of this size could not be reserved");
                wanted /= 2;
            }
            Err(error) => return Err(StartError::Engine(format!("{error:#}"))),
        }
    }
}

fn pool(config: &Config, slots: u32) -> Result<PoolingAllocationConfig, StartError> {
    let size = |bytes: u64, name: &str| {
        usize::try_from(bytes).map_err(|_| StartError::Engine(format!("{name} = {bytes} is too large")))
    };
    let keep = size(config.keep_resident_bytes, "keep_resident_bytes")?;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_stacks(slots)
        .total_memories(slots.max(MEMORIES_MAX))
        // A Rust component has two or three tables and three or four core instances.
        .total_tables(slots.saturating_mul(3).max(TABLES_MAX))
        .total_core_instances(slots.saturating_mul(8).max(CORE_INSTANCES_MAX))
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(size(config.instance_memory_bytes_max, "instance_memory_bytes_max")?)
        .max_unused_warm_slots(slots.min(100))
        .linear_memory_keep_resident(keep)
        .table_keep_resident(keep)
        // Without the scan (kernels before 6.7) keeping pages resident costs more than it saves; `Auto` knows.
        .pagemap_scan(Enabled::Auto);
    Ok(pool)
}

/// The ceiling of `table_elements_max`.
const TABLE_ELEMENTS_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { map_count_max: 65_530, memory_bytes: 23 << 30 };

    #[test]
    fn derived_from_mappings_and_memory() {
        let config = Config::default();
        assert_eq!(slots(&config, MACHINE), 5_233);
        let small = Machine { memory_bytes: 512 << 20, ..MACHINE };
        assert_eq!(slots(&config, small), 113);
        let few_maps = Machine { map_count_max: 25_000, ..MACHINE };
        assert_eq!(slots(&config, few_maps), 582);
        assert_eq!(slots(&config, Machine { map_count_max: 0, memory_bytes: 0 }), 8);
    }

    #[test]
    fn a_set_number_is_taken() {
        let config = Config { instances_max: 3, ..Config::default() };
        assert_eq!(slots(&config, MACHINE), 3);
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(machine.map_count_max > 1_000 && machine.memory_bytes > 64 << 20, "{machine:?}");
    }
}
