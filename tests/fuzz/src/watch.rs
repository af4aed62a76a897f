//! What breaks a rule from outside an input's own check: a panic on any thread, a turn that does not end, memory that
//! grows.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Memory of this process, over what it had when its target was ready.
const GROWTH_BYTES_MAX: u64 = 2 << 30;
const LOOK_EVERY: Duration = Duration::from_millis(200);

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From here on panics are remembered, also those that somebody catches.
pub(crate) fn hear_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        let ours: Vec<&str> = trace.lines().filter(|line| line.contains("mayfly")).map(str::trim).take(12).collect();
        panics().push(format!("{panic}\n  {}", ours.join("\n  ")));
    }));
}

fn panics() -> std::sync::MutexGuard<'static, Vec<String>> {
    PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The panics since the last call.
pub(crate) fn take_panics() -> Vec<String> {
    std::mem::take(&mut *panics())
}

/// Ends the process, its input already on disk, when a turn takes too long or memory grows too far.
#[derive(Debug)]
pub(crate) struct Watch {
    begin: Instant,
    /// Milliseconds since `begin`, and one; 0 while no input is running.
    turn: Arc<AtomicU64>,
}

impl Watch {
    pub(crate) fn start(turn_max: Duration, current: PathBuf) -> Self {
        let watch = Self { begin: Instant::now(), turn: Arc::default() };
        let (begin, turn) = (watch.begin, Arc::clone(&watch.turn));
        let most = resident_bytes().saturating_add(GROWTH_BYTES_MAX);
        std::thread::spawn(move || {
            let end = |why: &str| -> ! {
                eprintln!("[fuzz] FOUND {why}: {}", current.display());
                std::process::exit(2);
            };
            loop {
                std::thread::sleep(LOOK_EVERY);
                let since = turn.load(Ordering::Relaxed);
                if since != 0 && u128::from(millis(begin).saturating_sub(since)) > turn_max.as_millis() {
                    end(&format!("an input that takes longer than {} s", turn_max.as_secs()));
                }
                if resident_bytes() > most {
                    end(&format!("memory that grew by {} MiB", GROWTH_BYTES_MAX >> 20));
                }
            }
        });
        watch
    }

    pub(crate) fn turn(&self, running: bool) {
        self.turn.store(if running { millis(self.begin).saturating_add(1) } else { 0 }, Ordering::Relaxed);
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Memory of this process.
pub(crate) fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default();
    pages.saturating_mul(4096)
}

/// Open descriptors of this process.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
