//! How much memory this process may have: the machine's, or its control group's where that is less.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use crate::Config;

/// Of the memory there is, models may have this much: runs, guests and the page cache need the rest.
const SHARE_PERCENT: u64 = 60;
/// Where the system does not tell.
const UNKNOWN_BYTES: u64 = 4 << 30;

/// How much memory models may take on each device, and why not more. Its text says both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelMemory {
    /// Bytes on the CPU.
    pub cpu: u64,
    /// Whether the operator named that number.
    pub is_set: bool,
    /// What this process may have in all: the machine's memory, or its control group's; none where the system does not tell.
    pub process: Option<u64>,
    /// Bytes on the GPU, 0 without a limit; none where the library knows no GPU.
    pub cuda: Option<u64>,
    /// Bytes that may be kept loaded on each of them.
    pub pinned: u64,
}

impl ModelMemory {
    /// On this machine with these settings. `has_cuda`: whether the library knows GPUs.
    pub fn of(config: &Config, has_cuda: bool) -> Self {
        Self {
            cpu: config.resident_bytes(),
            is_set: config.resident_bytes_max != 0,
            process: limit_bytes(),
            cuda: has_cuda.then_some(config.cuda_bytes_max),
            pinned: config.pinned_bytes_max,
        }
    }

    /// Whether models may take more than there is: then the system ends the process before anything is evicted.
    pub fn is_too_much(&self) -> bool {
        self.process.is_some_and(|process| self.cpu > process)
    }
}

impl fmt::Display for ModelMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(f, "{} MiB on the CPU, ", mib(self.cpu))?;
        match self.process {
            _ if self.is_set => write!(f, "as inference.resident_bytes_max says")?,
            Some(process) => write!(f, "{SHARE_PERCENT} % of {} MiB", mib(process))?,
            None => write!(f, "since the system does not tell how much there is")?,
        }
        match self.cuda {
            Some(0) => write!(f, "; no limit on the GPU (inference.cuda_bytes_max = 0)")?,
            Some(bytes) => write!(f, "; {} MiB on the GPU, as inference.cuda_bytes_max says", mib(bytes))?,
            None => {}
        }
        match self.pinned {
            0 => write!(f, "; none of it is kept for models that nobody calls"),
            bytes => write!(f, "; of it {} MiB may be kept for models that nobody calls", mib(bytes)),
        }
    }
}

/// Bytes for models where the operator named no number.
pub(crate) fn models_bytes() -> u64 {
    limit_bytes().unwrap_or(UNKNOWN_BYTES) / 100 * SHARE_PERCENT
}

/// The smallest limit that holds for this process.
fn limit_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_in(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_groups = group_files(&groups, Path::new("/sys/fs/cgroup"))
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    machine.into_iter().chain(of_groups).min()
}

fn total_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The files that hold a limit of a group of ours or of one above it, in both versions of control groups. In a container
/// the names may be those outside: what is not there is not read.
fn group_files(groups: &str, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (base, name) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let inside = Path::new(path.trim_start_matches('/'));
        files.extend(inside.ancestors().map(|folder| base.join(folder).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells() {
        assert_eq!(total_in("MemTotal:       24684084 kB\nMemFree: 1 kB\n"), Some(24_684_084 * 1024));
        assert_eq!(total_in("MemFree: 1 kB\n"), None);
        assert!(models_bytes() > 64 << 20);
    }

    #[test]
    fn the_budget_says_why() {
        let text = |config: Config, has_cuda| ModelMemory::of(&config, has_cuda).to_string();
        let derived = text(Config::default(), false);
        assert!(derived.contains(" MiB on the CPU, 60 % of ") && !derived.contains("GPU"), "{derived}");
        assert!(derived.ends_with("none of it is kept for models that nobody calls"), "{derived}");
        let config = Config { resident_bytes_max: 64 << 20, pinned_bytes_max: 3 << 20, ..Config::default() };
        let named = "64 MiB on the CPU, as inference.resident_bytes_max says";
        let kept = "; of it 3 MiB may be kept for models that nobody calls";
        assert_eq!(text(config.clone(), false), format!("{named}{kept}"));
        let unlimited = "; no limit on the GPU (inference.cuda_bytes_max = 0)";
        assert_eq!(text(config.clone(), true), format!("{named}{unlimited}{kept}"));
        let limited = Config { cuda_bytes_max: 8 << 20, ..config };
        let gpu = "; 8 MiB on the GPU, as inference.cuda_bytes_max says";
        assert_eq!(text(limited, true), format!("{named}{gpu}{kept}"));
        let too_much = Config { resident_bytes_max: u64::MAX, ..Config::default() };
        assert!(ModelMemory::of(&too_much, false).is_too_much());
        assert!(!ModelMemory::of(&Config::default(), false).is_too_much());
    }

    #[test]
    fn groups_of_both_versions_are_looked_at_up_to_the_root() {
        let root = Path::new("/g");
        let files = |text: &str| group_files(text, root).iter().map(|f| f.display().to_string()).collect::<Vec<_>>();
        assert_eq!(files("0::/a/b\n"), ["/g/a/b/memory.max", "/g/a/memory.max", "/g/memory.max"]);
        let old = files("5:cpu:/x\n4:memory:/y\n");
        assert_eq!(old, ["/g/memory/y/memory.limit_in_bytes", "/g/memory/memory.limit_in_bytes"]);
        assert!(files("nonsense").is_empty());
    }
}
