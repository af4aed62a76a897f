//! `mayfly doctor`: whether this machine fits, and how to mend it.

use std::path::Path;

use mayfly_host::PoolSize;
use mayfly_inference::{Inference, LargePages, ModelMemory};
use mayfly_registry::Owner;
use mayfly_store::Store;
use serde::Serialize;

use crate::config::Config;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Fits.
    Good,
    /// Works, with a limit worth knowing.
    Warn,
    /// Has to be mended.
    Bad,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// How to mend it; empty if there is nothing to mend.
    pub mend: String,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, verdict, found: found.into(), mend: mend.into() }
    }
}

/// Looks at everything. Opens ONNX Runtime, changes nothing.
pub fn examine(config: &Config) -> Vec<Check> {
    let (mut checks, has_cuda) = library(config);
    checks.push(map_count());
    checks.push(instances(config));
    checks.push(open_files());
    checks.push(memory());
    checks.push(large_pages(config));
    checks.push(model_memory(config, has_cuda));
    checks.push(data_folder(config));
    checks.push(pins(config));
    checks.push(sandbox(config));
    checks
}

/// What processes of tenants' own models could be locked in with.
fn sandbox(config: &Config) -> Check {
    const NAME: &str = "sandbox";
    let missing = mayfly_inference::missing_from_sandbox();
    if missing.is_empty() {
        return Check::new(NAME, Verdict::Good, "Landlock and seccomp: tenants' own models can be isolated", "");
    }
    let isolates = config.models.tenant_models == mayfly_registry::TenantModels::Isolate;
    let required = config.workers.sandbox == mayfly_inference::SandboxPolicy::Required;
    let verdict = if isolates && required { Verdict::Bad } else { Verdict::Warn };
    let mend =
        "only matters with models.tenant_models = \"isolate\"; there workers.sandbox = \"best-effort\" goes without";
    Check::new(NAME, verdict, missing.join("; "), mend)
}

/// And whether it knows GPUs.
fn library(config: &Config) -> (Vec<Check>, bool) {
    match Inference::start(config.inference.clone()) {
        Ok(inference) => {
            let info = inference.info();
            let providers = info.providers.join(", ");
            let cuda = info.has_cuda();
            let checks = vec![
                Check::new("onnx runtime", Verdict::Good, format!("{} at {}", info.version, info.dylib.display()), ""),
                Check::new(
                    "execution providers",
                    Verdict::Good,
                    providers,
                    if cuda {
                        ""
                    } else {
                        "models run on the CPU; for `cuda` set MAYFLY_ORT_DYLIB to a CUDA build of the library"
                    },
                ),
            ];
            (checks, cuda)
        }
        Err(error) => {
            let mend = "run runtime/setup.sh, or set MAYFLY_ORT_DYLIB to libonnxruntime.so 1.31.x";
            (vec![Check::new("onnx runtime", Verdict::Bad, error.to_string(), mend)], false)
        }
    }
}

fn map_count() -> Check {
    const NAME: &str = "vm.max_map_count";
    const WANTED: u64 = 262_144;
    match read_number("/proc/sys/vm/max_map_count") {
        Some(count) if count >= WANTED => Check::new(NAME, Verdict::Good, count.to_string(), ""),
        Some(count) => Check::new(
            NAME,
            Verdict::Warn,
            format!("{count}: instances, compiled code and models share it"),
            format!("sysctl -w vm.max_map_count={WANTED} (and in /etc/sysctl.d to keep it)"),
        ),
        None => Check::new(NAME, Verdict::Warn, "could not be read", "needs Linux with /proc mounted"),
    }
}

fn large_pages(config: &Config) -> Check {
    const NAME: &str = "large pages";
    match LargePages::of_system() {
        _ if !config.inference.large_pages => Check::new(NAME, Verdict::Good, "inference.large_pages is off", ""),
        LargePages::Never => Check::new(
            NAME,
            Verdict::Warn,
            "never given: runs that stream through megabytes take a fifth longer",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (and at boot: transparent_hugepage=madvise)",
        ),
        system => Check::new(NAME, Verdict::Good, system.to_string(), ""),
    }
}

fn instances(config: &Config) -> Check {
    const FEW: u32 = 256;
    let size = PoolSize::of(&config.host);
    let verdict = if size.is_too_small() || size.instances() < FEW && size.mend().is_some() {
        Verdict::Warn
    } else {
        Verdict::Good
    };
    let mend = size.mend().filter(|_| verdict != Verdict::Good).unwrap_or_default();
    Check::new("instances", verdict, size.to_string(), mend)
}

fn open_files() -> Check {
    const NAME: &str = "open files";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.current {
        Some(current) if current < 8_192 => Check::new(
            NAME,
            Verdict::Warn,
            format!("{current}: each connection and each loaded model needs some"),
            "ulimit -n 65536, or LimitNOFILE=65536 in the service's unit",
        ),
        Some(current) => Check::new(NAME, Verdict::Good, current.to_string(), ""),
        None => Check::new(NAME, Verdict::Good, "unlimited", ""),
    }
}

fn memory() -> Check {
    const NAME: &str = "memory";
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    match available {
        Some(kib) if kib < 1 << 20 => {
            Check::new(NAME, Verdict::Warn, format!("{} MiB free", kib >> 10), "models need their own size and more")
        }
        Some(kib) => Check::new(NAME, Verdict::Good, format!("{} MiB free", kib >> 10), ""),
        None => Check::new(NAME, Verdict::Warn, "could not be read", "needs Linux with /proc mounted"),
    }
}

fn model_memory(config: &Config, has_cuda: bool) -> Check {
    let memory = ModelMemory::of(&config.inference, has_cuda);
    let (verdict, mend) = match memory.is_too_much() {
        true => (Verdict::Warn, "less for inference.resident_bytes_max: the process has not that much in all"),
        false => (Verdict::Good, ""),
    };
    Check::new("model memory", verdict, memory.to_string(), mend)
}

fn data_folder(config: &Config) -> Check {
    const NAME: &str = "data folder";
    let folder = match config.data_dir() {
        Ok(folder) => folder,
        Err(error) => return Check::new(NAME, Verdict::Bad, error.to_string(), "set --data-dir"),
    };
    // The folder may not exist yet: then its nearest parent has to be writable.
    let nearest = folder.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK).is_ok();
    if !writable {
        return Check::new(
            NAME,
            Verdict::Bad,
            format!("{} cannot be written", nearest.display()),
            "choose another with --data-dir",
        );
    }
    match rustix::fs::statvfs(nearest) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
            let verdict = if free < 1024 { Verdict::Warn } else { Verdict::Good };
            let mend = if free < 1024 { "uploads and the ledger need room" } else { "" };
            Check::new(NAME, verdict, format!("{} ({free} MiB free)", folder.display()), mend)
        }
        Err(error) => Check::new(NAME, Verdict::Warn, format!("{}: {error}", folder.display()), ""),
    }
}

/// Models that the operator pinned, as the data folder has them: a server may be at work on it.
fn pins(config: &Config) -> Check {
    const NAME: &str = "pinned models";
    const SHOWN_MAX: usize = 8;
    // Without a folder there is another check that says so.
    let pins = config.data_dir().map(|folder| Store::peek_pins(&folder)).unwrap_or(Ok(Vec::new()));
    let pins = match pins {
        Ok(pins) => pins,
        Err(error) => return Check::new(NAME, Verdict::Warn, format!("could not be read: {error}"), ""),
    };
    if pins.is_empty() {
        return Check::new(NAME, Verdict::Good, "none", "");
    }
    let shown = pins.iter().take(SHOWN_MAX).map(|(owner, name, pin)| {
        let whose = if matches!(owner, Owner::Host) { "" } else { " (a project's)" };
        let by = pin.by.as_ref().map_or_else(String::new, |by| format!(" by {}", by.prefix));
        format!("{name}{whose} on {}{by}", pin.device)
    });
    let mut found = shown.collect::<Vec<_>>().join(", ");
    if pins.len() > SHOWN_MAX {
        found.push_str(&format!(" and {} more", pins.len() - SHOWN_MAX));
    }
    if config.inference.pinned_bytes_max == 0 {
        let mend = "inference.pinned_bytes_max = 0 keeps none of them: set it, or `mayfly models unpin` them";
        return Check::new(NAME, Verdict::Warn, found, mend);
    }
    Check::new(NAME, Verdict::Good, found, "")
}

fn read_number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
