//! How long the system lets a thread run before another one's turn.
//!
//! A thread that asks for a short time at a stretch is let in as soon as it wakes, before one that asked for a longer
//! one; neither gets more of the processor by it. Linux 6.12 and later know this; earlier ones take no notice.

use std::io;
use std::time::Duration;

/// For threads that others wait for: a request takes some hundred microseconds.
const SHORT: Duration = Duration::from_micros(100);
/// For threads that compute for long.
const LONG: Duration = Duration::from_millis(20);

/// The calling thread serves connections: it wakes often, works shortly, and somebody waits for it. For the async
/// threads of whoever runs a [`crate::Host`].
pub fn serves_connections() {
    if let Err(error) = set(own_niceness(), SHORT) {
        tracing::debug!(%error, "the async threads have the system's usual turns");
    }
}

/// The calling thread computes, and gives way to others where cores are short: `niceness` more than it had.
pub(crate) fn gives_way(niceness: i32) -> io::Result<()> {
    set(own_niceness().saturating_add(niceness).min(19), LONG)
}

fn own_niceness() -> i32 {
    rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap_or(0)
}

fn set(niceness: i32, slice: Duration) -> io::Result<()> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).map_err(io::Error::other)?;
    let attributes = libc::sched_attr {
        size,
        sched_policy: libc::SCHED_OTHER.cast_unsigned(),
        sched_flags: 0,
        sched_nice: niceness,
        sched_priority: 0,
        // Of an ordinary thread it is the slice.
        sched_runtime: u64::try_from(slice.as_nanos()).map_err(io::Error::other)?,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the system reads `size` bytes of a live value, and changes nothing but how this thread is scheduled.
    #[expect(unsafe_code, reason = "no safe crate has this call")]
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_gives_way_is_nicer_and_no_other_is() {
        let before = own_niceness();
        let within = std::thread::spawn(|| {
            gives_way(3).expect("a thread may always give way");
            own_niceness()
        });
        assert_eq!(within.join().expect("it ends"), (before + 3).min(19));
        assert_eq!(own_niceness(), before);
        serves_connections();
        assert_eq!(own_niceness(), before, "turns are not priority");
    }
}
