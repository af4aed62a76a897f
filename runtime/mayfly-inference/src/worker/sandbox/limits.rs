//! Limits of the kernel on one process, and rights it does without.

use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::Bounds;
use crate::Device;

/// A worker yields to the server by this much.
const NICENESS: i32 = 5;
/// Files open at once: the library, models while they are loaded, epoll and the like.
const FILES_MAX: u64 = 256;
/// Address space that is no memory: code, stacks, what allocators reserve, weights mapped from files that are shared
/// with others.
const ADDRESSES_BESIDE: u64 = 8 << 30;
/// What the library takes before any model, beside what this binary has when it is bounded.
const LIBRARY_BYTES: u64 = 128 << 20;
/// Likewise CUDA's libraries and the driver, in host memory.
const CUDA_BYTES: u64 = 4 << 30;

/// Closes what this process inherited beyond its first three descriptors, and ends it with its parent.
pub(super) fn alone() -> Result<(), String> {
    // SAFETY: called first in the process: nothing in it owns a descriptor above the first three yet, or uses one again.
    #[expect(unsafe_code, reason = "closing what nobody here owns has no safe form")]
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if done != 0 {
        return Err(format!("inherited files could not be closed: {}", std::io::Error::last_os_error()));
    }
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| format!("it could outlive the server: {error}"))
}

/// No capability, whoever started the server, and none to be had again.
pub(super) fn without_rights() -> Result<(), String> {
    let none = CapabilitySet::empty();
    set_no_new_privs(true).map_err(|error| format!("new privileges could not be ruled out: {error}"))?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(|error| format!("capabilities could not be dropped: {error}"))
}

/// Private writable memory of this process, touched or not.
fn data_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Memory, addresses, files, no core file; and a lower priority.
pub(super) fn bounded(bounds: &Bounds<'_>) -> Result<(), String> {
    // The allocator of the binary may have set a gigabyte aside already, most of it never touched.
    let own = data_bytes().ok_or("how much memory it has could not be read")?;
    let library = match bounds.device {
        Device::Cpu => LIBRARY_BYTES,
        Device::Cuda => LIBRARY_BYTES + CUDA_BYTES,
    };
    let memory = bounds.memory_bytes_max.saturating_add(library).saturating_add(own);
    let mut limits = vec![
        (Resource::Data, memory),
        // The arena is the only file it can write.
        (Resource::Fsize, bounds.shared_bytes_max),
        (Resource::Nofile, FILES_MAX),
        (Resource::Core, 0),
    ];
    if bounds.device == Device::Cpu {
        // A GPU's driver reserves addresses for all memory there is.
        limits.push((Resource::As, memory.saturating_add(ADDRESSES_BESIDE)));
    }
    for (resource, most) in limits {
        // Never above what the process may have already.
        let most = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| format!("the limit {resource:?} could not be set to {most}: {error}"))?;
    }
    nice(NICENESS).map(drop).map_err(|error| format!("it could not be made to yield: {error}"))
}
