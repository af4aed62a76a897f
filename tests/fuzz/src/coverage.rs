//! Which edges an input took. `instrument.sh` has the compiler put a counter on each edge of our crates; every crate tells
//! [`__sanitizer_cov_8bit_counters_init`] where its counters are before `main`. Without it there are none, and the fuzzer
//! works on the committed seeds alone.
//!
//! Children count in their own memory: they leave what they saw in a file named by their parent, which merges it.

#![expect(unsafe_code, reason = "the counters are plain memory that the compiler's code writes to")]

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

static REGIONS: Mutex<Vec<&'static [AtomicU8]>> = Mutex::new(Vec::new());

/// Called by the constructor of each instrumented crate.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *const AtomicU8, stop: *const AtomicU8) {
    let length = (stop as usize).saturating_sub(start as usize);
    // SAFETY: the compiler passes the bounds of an array of bytes that lives as long as the program. Instrumented code
    // writes to it without synchronisation; a count lost by that is no harm, and bytes have no invalid values.
    let region = unsafe { std::slice::from_raw_parts(start, length) };
    REGIONS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(region);
}

/// All edges there are, and which of them were taken how often (as powers of two) so far.
#[derive(Debug)]
pub(crate) struct Coverage {
    regions: Vec<&'static [AtomicU8]>,
    /// A bit for each order of magnitude.
    seen: Vec<u8>,
    edges: usize,
}

impl Coverage {
    pub(crate) fn new() -> Self {
        let regions = REGIONS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let total = regions.iter().map(|region| region.len()).sum();
        Self { regions, seen: vec![0; total], edges: 0 }
    }

    pub(crate) fn total(&self) -> usize {
        self.seen.len()
    }

    /// Edges taken by any input.
    pub(crate) fn edges(&self) -> usize {
        self.edges
    }

    /// Takes what was counted since the last call, children included; true if any of it is new.
    pub(crate) fn take(&mut self) -> bool {
        let mut news = false;
        let counters = self.regions.iter().copied().flatten();
        for (counter, seen) in counters.zip(&mut self.seen) {
            let count = counter.load(Ordering::Relaxed);
            if count != 0 {
                counter.store(0, Ordering::Relaxed);
                news |= note(seen, count, &mut self.edges);
            }
        }
        if !self.seen.is_empty()
            && let Ok(counts) = std::fs::read(left_by_children(std::process::id()))
        {
            let _ = std::fs::remove_file(left_by_children(std::process::id()));
            for (seen, count) in self.seen.iter_mut().zip(counts).filter(|(_, count)| *count != 0) {
                news |= note(seen, count, &mut self.edges);
            }
        }
        news
    }
}

fn note(seen: &mut u8, count: u8, edges: &mut usize) -> bool {
    let order = 1 << (7 - count.leading_zeros());
    if *seen & order != 0 {
        return false;
    }
    *edges += usize::from(*seen == 0);
    *seen |= order;
    true
}

/// A child's last act: leaves its counters to its parent.
pub(crate) fn leave_to_parent() {
    let regions = REGIONS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let counts: Vec<u8> = regions.iter().copied().flatten().map(|counter| counter.load(Ordering::Relaxed)).collect();
    if !counts.is_empty() {
        // A child under its limits may not be able to; then its inputs guide less.
        let _ = std::fs::write(left_by_children(std::os::unix::process::parent_id()), counts);
    }
}

fn left_by_children(parent: u32) -> PathBuf {
    std::env::temp_dir().join(format!("mayfly-fuzz-{parent}"))
}
