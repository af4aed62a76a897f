//! Which CPU this is, as far as packed weights depend on it.

use std::collections::BTreeSet;

/// On x86, then on ARM.
const KEYS: [&str; 10] = [
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "Features",
];

/// Vendor, model and features of every kind of core; none where the system does not tell.
pub(super) fn fingerprint() -> Option<String> {
    of(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn of(cpuinfo: &str) -> Option<String> {
    let lines: BTreeSet<_> = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .filter(|(key, _)| KEYS.contains(key))
        .collect();
    let text: Vec<_> = lines.iter().map(|(key, value)| format!("{key}={value}")).collect();
    (!text.is_empty()).then(|| text.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_matter_and_speed_does_not() {
        let core =
            |mhz: u32, flags: &str| format!("processor : 0\nmodel\t: 85\ncpu MHz\t: {mhz}\nflags\t: {flags}\n\n");
        let one = of(&core(2500, "sse avx")).expect("two lines tell");
        assert_eq!(of(&(core(1200, "sse avx") + &core(3100, "sse avx"))), Some(one.clone()));
        assert_ne!(of(&core(2500, "sse avx avx512f")), Some(one));
        assert_eq!(of("processor : 0\n"), None);
    }
}
