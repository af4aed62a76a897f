//! Which memory of the process is in large pages: what models run in, and nothing else.
//!
//! A run that streams through megabytes spends a fifth of its time on looking up small pages: 32 tensors of 1 MiB, negated, take
//! 1.9 ms in large ones and 2.5 in small ones. Memory of instances and calls is many small pieces far apart, and most of a
//! large page there would be unused.
//!
//! ONNX Runtime's memory comes from the C library, which asks the system for large pages if it is told to when it starts.
//!
//! What a load takes, it takes in small ones: somebody waits for it, and a virtual machine that has lent its free memory to
//! others gets each large page back as a whole, some sixty of 2 ms each for a language model of 310 MB. What stays of it is
//! made large later, in the background, by the system.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The environment that glibc reads its settings from, and nobody else.
const TUNABLES: &str = "GLIBC_TUNABLES";
/// The setting: 1 asks for large pages for what is allocated (glibc 2.35; earlier ones ignore it).
const SETTING: &str = "glibc.malloc.hugetlb";
/// Says that the program was started again: once is enough, also where the setting is kept from it (from a program with
/// capabilities of its own, glibc takes it away).
const AGAIN: &str = "_MAYFLY_STARTED_AGAIN";

/// When the system gives large pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LargePages {
    /// To all memory that is large enough.
    Unasked,
    /// To memory that they are asked for.
    Asked,
    /// Never, or it does not know them.
    Never,
}

impl LargePages {
    /// As this system does.
    pub fn of_system() -> Self {
        Self::of(&std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default())
    }

    fn of(enabled: &str) -> Self {
        match enabled.split_whitespace().find(|word| word.starts_with('[')) {
            Some("[always]") => Self::Unasked,
            Some("[madvise]") => Self::Asked,
            _ => Self::Never,
        }
    }
}

impl fmt::Display for LargePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unasked => "given unasked",
            Self::Asked => "given where they are asked for",
            Self::Never => "never given",
        })
    }
}

/// Gives instances and calls small pages and, if `wanted`, models large ones. **Call before any thread.**
///
/// Where the C library has to be told, this does not return: the program begins again in the same process, with the same
/// arguments and one more setting in its environment. It returns at once if it has been told, whatever that was (so whoever
/// starts the server decides, if they like), and where the system never gives large pages.
///
/// # Errors
/// Why pages are not as they were to be, for the log.
pub fn settle_pages(wanted: bool) -> Result<(), String> {
    let system = LargePages::of_system();
    let asked_only = system != LargePages::Unasked || only_where_asked()?;
    let set = std::env::var_os(TUNABLES);
    if !wanted || !asked_only || system == LargePages::Never || set.as_deref().is_some_and(is_told) {
        return Ok(());
    }
    if std::env::var_os(AGAIN).is_some() {
        return Err(format!("the C library was not told {SETTING}=1, though its environment was to say so"));
    }
    // By its own path if it is still there: the system names a process after what was executed.
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    let mut args = std::env::args_os();
    let mut again = Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()));
    again.arg0(args.next().unwrap_or_default()).args(args).env(TUNABLES, told(set)).env(AGAIN, "1");
    Err(format!("the program could not be started again with {SETTING}=1: {}", again.exec()))
}

/// The environment of a process for models, which begins with none: as this process was told.
pub(crate) fn environment() -> Option<(&'static str, String)> {
    let set = std::env::var_os(TUNABLES)?;
    let ours = set.to_str()?.split(':').find(|setting| is_told(OsStr::new(setting)))?.to_owned();
    Some((TUNABLES, ours))
}

fn is_told(tunables: &OsStr) -> bool {
    tunables.to_string_lossy().contains(SETTING)
}

/// The setting beside those there are.
fn told(set: Option<OsString>) -> OsString {
    let mut tunables = set.filter(|set| !set.is_empty()).unwrap_or_default();
    if !tunables.is_empty() {
        tunables.push(":");
    }
    tunables.push(format!("{SETTING}=1"));
    tunables
}

/// While it is there, this process gets small pages only.
#[derive(Debug)]
pub(crate) struct SmallPages(());

/// How many there are, and how it was before the first.
static SMALL: Mutex<(u32, libc::c_int)> = Mutex::new((0, 0));

fn small() -> MutexGuard<'static, (u32, libc::c_int)> {
    SMALL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SmallPages {
    /// None where the C library asks for no large ones. Where this process may not say how it wants its pages (a worker),
    /// nothing changes.
    pub(crate) fn hold() -> Option<Self> {
        std::env::var_os(TUNABLES).filter(|set| is_told(set))?;
        let mut small = small();
        if small.0 == 0 {
            small.1 = disabled(libc::PR_GET_THP_DISABLE, 0, 0);
            disabled(libc::PR_SET_THP_DISABLE, 1, 0);
        }
        small.0 += 1;
        Some(Self(()))
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        let mut small = small();
        small.0 = small.0.saturating_sub(1);
        // One bit says that they are disabled, the others where not.
        if small.0 == 0
            && let Ok(before) = libc::c_ulong::try_from(small.1)
        {
            disabled(libc::PR_SET_THP_DISABLE, before & 1, before & !1);
        }
    }
}

/// Asks or says where this process has no large pages; negative if it may not.
fn disabled(call: libc::c_int, disable: libc::c_ulong, except: libc::c_ulong) -> libc::c_int {
    const NONE: libc::c_ulong = 0;
    // SAFETY: reads or sets flags of this process; no memory is passed.
    #[expect(unsafe_code, reason = "nobody has a safe form of it with these flags")]
    unsafe {
        libc::prctl(call, disable, except, NONE, NONE)
    }
}

/// From now on this process has large pages only where it asks for them; where the system cannot do that (before Linux 6.18) it
/// has none. Tells whether asking is of use.
fn only_where_asked() -> Result<bool, String> {
    const EXCEPT_ADVISED: libc::c_ulong = 1 << 1;
    if disabled(libc::PR_SET_THP_DISABLE, 1, EXCEPT_ADVISED) == 0 {
        return Ok(true);
    }
    let none = rustix::thread::disable_transparent_huge_pages(true);
    none.map(|()| false).map_err(|error| format!("large pages stay as the system has them: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_when_it_gives_them() {
        assert_eq!(LargePages::of("[always] madvise never\n"), LargePages::Unasked);
        assert_eq!(LargePages::of("always [madvise] never\n"), LargePages::Asked);
        assert_eq!(LargePages::of("always madvise [never]\n"), LargePages::Never);
        assert_eq!(LargePages::of(""), LargePages::Never);
    }

    #[test]
    fn settings_of_others_stay() {
        let one = "glibc.malloc.hugetlb=1";
        assert_eq!(told(None), one);
        assert_eq!(told(Some(OsString::new())), one);
        let both = told(Some("glibc.malloc.check=3".into()));
        assert_eq!(both, "glibc.malloc.check=3:glibc.malloc.hugetlb=1");
        assert!(is_told(&both) && is_told(OsStr::new("glibc.malloc.hugetlb=0")));
        assert!(!is_told(OsStr::new("glibc.malloc.check=3")));
    }
}
