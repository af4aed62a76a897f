//! How many instances fit this machine, and the pool that holds them.
//!
//! Three walls: `vm.max_map_count` (past it the allocator of the whole process fails), the memory that stays resident in
//! slots that were used once, and the process's address space where that is limited.

use std::fmt;
use std::path::Path;

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

/// Address space of one slot: what is reserved for a memory, and its guard.
const SLOT_ADDRESS_BYTES: u64 = (4 << 30) + (32 << 20);

/// What the machine gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// `vm.max_map_count`.
    pub(crate) map_count_max: u64,
    /// Memory of the machine, or of the control group if that is less.
    pub(crate) memory_bytes: u64,
    /// Address space of the process (`ulimit -v`); none if that is not limited.
    pub(crate) address_bytes: Option<u64>,
}

impl Machine {
    /// Asks the kernel.
    pub(crate) fn read() -> Self {
        let info = rustix::system::sysinfo();
        let total = info.totalram.saturating_mul(u64::from(info.mem_unit));
        let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self {
            map_count_max: number(Path::new("/proc/sys/vm/max_map_count")).unwrap_or(MAX_MAP_COUNT_DEFAULT),
            memory_bytes: total.min(group_memory(Path::new("/sys/fs/cgroup"), &group)),
            address_bytes: rustix::process::getrlimit(rustix::process::Resource::As).current,
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The least `memory.max` of the process's control group and those above it. `group`: `/proc/self/cgroup`.
fn group_memory(root: &Path, group: &str) -> u64 {
    let own = group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let folders = Path::new(own).ancestors().map(|folder| root.join(folder).join("memory.max"));
    folders.filter_map(|file| number(&file)).min().unwrap_or(u64::MAX)
}

/// What decided how many instances there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// `host.instances_max`.
    Setting,
    Maps,
    Memory,
    Addresses,
    /// [`SLOTS_MAX`].
    Most,
    /// So many could be reserved, of so many wanted.
    Reserved(u32),
}

/// How many instances may be alive at once on this machine, and why not more. Its text says both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    pub(crate) instances: u32,
    pub(crate) bound: Bound,
    pub(crate) machine: Machine,
    /// The machine has room for less than [`SLOTS_MIN`].
    pub(crate) too_small: bool,
}

impl PoolSize {
    /// For a host with these settings on this machine. Reserves nothing.
    pub fn of(config: &Config) -> Self {
        size(config, Machine::read())
    }

    /// Instances alive at once.
    pub fn instances(&self) -> u32 {
        self.instances
    }

    /// Whether the machine is too small: there are a few instances all the same, and memory or mappings may run out.
    pub fn is_too_small(&self) -> bool {
        self.too_small
    }

    /// How to get more, if that is the system's to say.
    pub fn mend(&self) -> Option<&'static str> {
        match self.bound {
            Bound::Maps => Some("sysctl -w vm.max_map_count=262144 (and in /etc/sysctl.d to keep it)"),
            Bound::Memory => Some("more memory, or a smaller host.keep_resident_bytes"),
            Bound::Addresses => Some("ulimit -v unlimited, or LimitAS=infinity in the service's unit"),
            Bound::Reserved(_) => Some("look into the log of the start, and at ulimit -v and vm.overcommit_memory"),
            Bound::Setting | Bound::Most => None,
        }
    }
}

impl fmt::Display for PoolSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instances, bound, machine, too_small } = self;
        write!(f, "{instances} instances at once, ")?;
        match bound {
            Bound::Setting => write!(f, "as host.instances_max says"),
            Bound::Maps => write!(f, "as vm.max_map_count = {} allows", machine.map_count_max),
            Bound::Memory => {
                write!(f, "so that they keep at most a quarter of {} MiB of memory", machine.memory_bytes >> 20)
            }
            Bound::Addresses => {
                let bytes = machine.address_bytes.unwrap_or(u64::MAX);
                write!(f, "as the address space of {} MiB (ulimit -v) allows", bytes >> 20)
            }
            Bound::Most => write!(f, "the most that are ever made"),
            Bound::Reserved(wanted) => write!(f, "since no more could be reserved; {wanted} were wanted"),
        }?;
        if *too_small { write!(f, ": too small, it has room for less than {SLOTS_MIN}") } else { Ok(()) }
    }
}

/// What fits `machine`: by mappings, by address space, and so that slots which were all used once keep at most a quarter
/// of memory.
pub(crate) fn size(config: &Config, machine: Machine) -> PoolSize {
    if config.instances_max > 0 {
        let instances = config.instances_max;
        return PoolSize { instances, bound: Bound::Setting, machine, too_small: false };
    }
    let reserved = MAPS_FOR_OTHERS.saturating_add(config.code_entries_max.saturating_mul(MAPS_PER_COMPONENT));
    let by_maps = machine.map_count_max.saturating_sub(reserved) / MAPS_PER_SLOT;
    let by_memory = machine.memory_bytes / 4 / config.keep_resident_bytes.saturating_add(SLOT_EXTRA_BYTES);
    // Half of it: models, code and stacks want some, too.
    let by_addresses = machine.address_bytes.map_or(u64::MAX, |bytes| bytes / 2 / SLOT_ADDRESS_BYTES);
    let bounds = [
        (by_maps, Bound::Maps),
        (by_memory, Bound::Memory),
        (by_addresses, Bound::Addresses),
        (SLOTS_MAX, Bound::Most),
    ];
    let (slots, bound) = bounds.into_iter().min_by_key(|(slots, _)| *slots).expect("there are four");
    let instances = u32::try_from(slots.clamp(SLOTS_MIN, SLOTS_MAX)).expect("clamped to SLOTS_MAX");
    PoolSize { instances, bound, machine, too_small: slots < SLOTS_MIN }
}

/// An engine with a pool of that size, or of a smaller one where so many instances cannot be reserved.
///
/// # Errors
/// [`StartError::Engine`] if not even a small pool can be made.
pub(crate) fn engine(config: &Config, wanted: PoolSize) -> Result<(Engine, PoolSize), StartError> {
    let mut size = wanted;
    loop {
        match settings::pooled_engine(pool(config, size.instances)?) {
            Ok(engine) => return Ok((engine, size)),
            Err(error) if u64::from(size.instances) > SLOTS_MIN => {
                let instances_max = size.instances;
                tracing::warn!(instances_max, %error, "an instance pool of this size could not be reserved");
                size = PoolSize { instances: instances_max / 2, bound: Bound::Reserved(wanted.instances), ..size };
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

    const MACHINE: Machine = Machine { map_count_max: 65_530, memory_bytes: 23 << 30, address_bytes: None };

    #[track_caller]
    fn check(machine: Machine, instances: u32, says: &str) {
        let size = size(&Config::default(), machine);
        assert_eq!(size.instances(), instances, "{size}");
        assert!(size.to_string().contains(says), "`{says}` is not in `{size}`");
        assert_eq!(size.is_too_small(), says.contains("too small"));
    }

    #[test]
    fn derived_from_mappings_memory_and_address_space() {
        check(MACHINE, 5_233, "5233 instances at once, so that they keep at most a quarter of 23552 MiB of memory");
        check(Machine { memory_bytes: 512 << 20, ..MACHINE }, 113, "a quarter of 512 MiB");
        check(Machine { map_count_max: 25_000, ..MACHINE }, 582, "as vm.max_map_count = 25000 allows");
        check(Machine { address_bytes: Some(1 << 40), ..MACHINE }, 127, "the address space of 1048576 MiB");
        let large = Machine { map_count_max: 1 << 20, memory_bytes: 1 << 40, address_bytes: None };
        check(large, 8_192, "the most that are ever made");
    }

    #[test]
    fn a_machine_that_is_too_small_is_told_so() {
        check(Machine { map_count_max: 0, ..MACHINE }, 8, "vm.max_map_count = 0 allows: too small");
        check(Machine { memory_bytes: 16 << 20, ..MACHINE }, 8, "16 MiB of memory: too small");
    }

    #[test]
    fn a_set_number_is_taken() {
        let size = size(&Config { instances_max: 3, ..Config::default() }, MACHINE);
        assert_eq!(size.to_string(), "3 instances at once, as host.instances_max says");
        assert!(size.mend().is_none() && !size.is_too_small());
    }

    #[test]
    fn the_least_group_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |group: &str, text: &str| {
            std::fs::create_dir_all(root.path().join(group)).expect("a folder");
            std::fs::write(root.path().join(group).join("memory.max"), text).expect("a file");
        };
        let memory = |group: &str| group_memory(root.path(), group);
        assert_eq!(memory("0::/a/b\n"), u64::MAX);
        write("a", "1000\n");
        write("a/b", "max\n");
        assert_eq!(memory("0::/a/b\n"), 1000);
        write("a/b", "500\n");
        assert_eq!((memory("1:cpu:/x\n0::/a/b\n"), memory("0::/a\n"), memory("0::/\n")), (500, 1000, u64::MAX));
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(machine.map_count_max > 1_000 && machine.memory_bytes > 64 << 20, "{machine:?}");
    }
}
