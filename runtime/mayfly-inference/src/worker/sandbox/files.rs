//! Landlock: which files a worker can open.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::Bounds;
use crate::Device;

/// What a kernel must have: it decides who may open which file.
const NEEDED: ABI = ABI::V1;
/// What is used where it is there: networks, signals, what devices do.
const WANTED: ABI = ABI::V6;

/// Where the loader finds libraries, and what the libraries ask of the system.
const READABLE: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
];

/// What CUDA's libraries and a GPU's driver read beside: the folders they are installed in, and what the kernel says of
/// devices, memory and processors. What they asked for on a machine with a GPU is the measure, with the driver 580.
const READABLE_ON_GPU: &[&str] = &[
    "/usr",
    "/opt",
    "/etc/nvidia",
    "/proc/devices",
    "/proc/driver/nvidia",
    "/proc/modules",
    "/proc/sys/vm",
    "/sys/bus/pci/devices",
    // Where the links of the former lead.
    "/sys/devices",
    "/sys/module/nvidia",
    "/sys/module/nvidia_uvm",
];
/// The driver names its threads from another thread, which is writing `/proc/self/task/ID/comm`, and gives up where it
/// cannot ("OS call failed"). Its threads are not there yet when the rules are made, so the rule is for all of them; what
/// else can be written below it are this process's own settings and memory.
const THREADS: &str = "/proc/self/task";
const DEVICES: &str = "/dev";

/// Whether this kernel has it.
pub(super) fn are_offered() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))
        .and_then(Ruleset::create)
        .is_ok()
}

/// From here on this thread, and those it starts, can open nothing else.
pub(super) fn only(bounds: &Bounds<'_>) -> Result<(), String> {
    enforce(bounds).map_err(|error| format!("files could not be closed off: {error}"))
}

fn enforce(bounds: &Bounds<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let read = AccessFs::from_read(WANTED);
    let mut rules: Vec<(PathBuf, BitFlags<AccessFs>)> = vec![(bounds.room.to_owned(), read)];
    // Providers lie beside the library.
    rules.extend(bounds.ort_dylib.parent().map(|folder| (folder.to_owned(), read)));
    rules.extend(READABLE.iter().map(|path| (PathBuf::from(path), read)));
    if bounds.device == Device::Cuda {
        rules.extend(READABLE_ON_GPU.iter().map(|path| (PathBuf::from(path), read)));
        rules.push((THREADS.into(), AccessFs::WriteFile | AccessFs::Truncate));
        let used = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        rules.extend(gpus().map(|device| (device, used)));
    }
    let created = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?;
    let mut created = created.set_compatibility(CompatLevel::BestEffort);
    for (path, access) in &rules {
        // What is not there need not be opened. The room must be.
        match PathFd::new(path) {
            Ok(opened) => {
                let access = if is_folder(path) { *access } else { *access & AccessFs::from_file(WANTED) };
                created = created.add_rule(PathBeneath::new(opened, access))?;
            }
            Err(error) if path == bounds.room => return Err(error.into()),
            Err(_) => {}
        }
    }
    match created.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel did not take it".into()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

/// The devices of CUDA that are there.
fn gpus() -> impl Iterator<Item = PathBuf> {
    let there = std::fs::read_dir(DEVICES).into_iter().flatten().flatten();
    there.filter(|device| device.file_name().to_str().is_some_and(computes)).map(|device| device.path())
}

/// Each GPU, their control and their memory; not what sets modes, partitions a GPU or looks into other processes.
fn computes(name: &str) -> bool {
    let number = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    matches!(name, "nvidiactl" | "nvidia-uvm") || name.strip_prefix("nvidia").is_some_and(number)
}

fn is_folder(path: &Path) -> bool {
    path.is_dir()
}

#[cfg(test)]
mod tests {
    use super::computes;

    #[test]
    fn a_gpu_s_devices_are_those_that_compute() {
        assert!(["nvidia0", "nvidia15", "nvidiactl", "nvidia-uvm"].into_iter().all(computes));
        let others = ["nvidia", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps", "nvidia0x", "sda", "mem", ""];
        assert!(!others.into_iter().any(computes));
    }
}
