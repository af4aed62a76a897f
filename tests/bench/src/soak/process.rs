//! What a process holds.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

use crate::measure::median;

pub(super) const HEAD: &str = "   seconds   RSS MiB   descriptors   VMAs   threads   so far";

/// One look at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Since the beginning.
    pub(super) at: Duration,
    pub(super) resident_mib: f64,
    pub(super) descriptors: f64,
    pub(super) mappings: f64,
    pub(super) threads: f64,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "counts of one process")]
    pub(super) fn take(process: u32, at: Duration) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).context("the server is gone")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).with_context(|| name.to_owned())
        };
        Ok(Self {
            at,
            resident_mib: field("VmRSS:")? / 1024.0,
            threads: field("Threads:")?,
            descriptors: fs::read_dir(format!("/proc/{process}/fd"))?.count() as f64,
            mappings: fs::read_to_string(format!("/proc/{process}/maps"))?.lines().count() as f64,
        })
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{:>10.0} {:>9.1} {:>13.0} {:>6.0} {:>9.0}",
            self.at.as_secs_f64(),
            self.resident_mib,
            self.descriptors,
            self.mappings,
            self.threads
        )
    }

    /// Of each figure by itself; none without samples.
    pub(super) fn medians<'a>(samples: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let samples: Vec<_> = samples.collect();
        let of = |figure: fn(&Self) -> f64| median(&samples.iter().map(|sample| figure(sample)).collect::<Vec<_>>());
        Some(Self {
            at: samples.first()?.at,
            resident_mib: of(|sample| sample.resident_mib),
            descriptors: of(|sample| sample.descriptors),
            mappings: of(|sample| sample.mappings),
            threads: of(|sample| sample.threads),
        })
    }
}
