//! How much memory this process may have: the machine's, or its control group's where that is less.

use std::fs;
use std::path::{Path, PathBuf};

/// Of the memory there is, models may have this much: runs, guests and the page cache need the rest.
const SHARE_PERCENT: u64 = 60;
/// Where the system does not tell.
const UNKNOWN_BYTES: u64 = 4 << 30;

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
    fn groups_of_both_versions_are_looked_at_up_to_the_root() {
        let root = Path::new("/g");
        let files = |text: &str| group_files(text, root).iter().map(|f| f.display().to_string()).collect::<Vec<_>>();
        assert_eq!(files("0::/a/b\n"), ["/g/a/b/memory.max", "/g/a/memory.max", "/g/memory.max"]);
        let old = files("5:cpu:/x\n4:memory:/y\n");
        assert_eq!(old, ["/g/memory/y/memory.limit_in_bytes", "/g/memory/memory.limit_in_bytes"]);
        assert!(files("nonsense").is_empty());
    }
}
