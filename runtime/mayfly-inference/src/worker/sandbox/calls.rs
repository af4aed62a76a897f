//! Seccomp: which system calls a worker can make. Those not in the list fail with `EPERM`; the process goes on, as
//! libraries try much that they can do without.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use crate::Device;

/// Memory, threads, time, reading what is open, waiting, ending.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_futex,
    libc::SYS_get_mempolicy,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The same, as older processors' C libraries call them.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Calls of a GPU's driver that are answered as if there were nothing of that name.
#[cfg(target_arch = "x86_64")]
const ABSENT_ON_GPU: &[libc::c_long] = &[libc::SYS_connect, libc::SYS_unlink, libc::SYS_unlinkat];
#[cfg(not(target_arch = "x86_64"))]
const ABSENT_ON_GPU: &[libc::c_long] = &[libc::SYS_connect, libc::SYS_unlinkat];

/// A GPU's driver talks to its devices, in ways that are its own.
const ALLOWED_ON_GPU: &[libc::c_long] = &[
    libc::SYS_bind,
    libc::SYS_flock,
    libc::SYS_ftruncate,
    libc::SYS_ioctl,
    libc::SYS_listen,
    libc::SYS_memfd_create,
    // Devices are opened to be written; which files can be is Landlock's.
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_setscheduler,
];

/// Of a socket's type what is not a flag.
const SOCKET_TYPES: u64 = 0xf;

/// Whether this kernel has filters, and we one for this processor.
pub(super) fn are_offered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    architecture().is_some() && status.lines().any(|line| line.starts_with("Seccomp:"))
}

fn architecture() -> Option<TargetArch> {
    std::env::consts::ARCH.try_into().ok()
}

/// From here on all threads of this process can make no other calls.
pub(super) fn only(device: Device) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("system calls could not be closed off: {error}");
    for filter in filters(device).map_err(|error| failed(&error))? {
        apply_filter_all_threads(&filter).map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn filters(device: Device) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let refuse = |number: i32| SeccompAction::Errno(number.unsigned_abs());
    let architecture = || {
        let name = std::env::consts::ARCH.to_owned();
        architecture().ok_or(seccompiler::BackendError::InvalidTargetArch(name))
    };
    let answered = |call: libc::c_long, number: i32| {
        let call = BTreeMap::from([(call, Vec::new())]);
        SeccompFilter::new(call, SeccompAction::Allow, refuse(number), architecture()?)?.try_into()
    };
    let allowed = SeccompFilter::new(rules(device)?, refuse(libc::EPERM), SeccompAction::Allow, architecture()?)?;
    // The C library then takes the call whose arguments can be looked at.
    let mut filters = vec![answered(libc::SYS_clone3, libc::ENOSYS)?];
    if device == Device::Cuda {
        // What the driver hears where nothing shares GPUs among processes, and of a name that was never given: it takes
        // no other answer when it makes room for its socket.
        for call in ABSENT_ON_GPU {
            filters.push(answered(*call, libc::ENOENT)?);
        }
    }
    // The last: it lets no more be added.
    filters.push(allowed.try_into()?);
    Ok(filters)
}

fn rules(device: Device) -> Result<BTreeMap<libc::c_long, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<_, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|&call| (call, Vec::new())).collect();
    // Left to a filter of its own.
    rules.insert(libc::SYS_clone3, Vec::new());
    // Threads, never processes.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    rules.insert(libc::SYS_clone, vec![one(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // Only this process: an abort.
    let this = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![one(0, SeccompCmpOp::Eq, this)?]);
    // Limits can be read.
    rules.insert(
        libc::SYS_prlimit64,
        vec![SeccompRule::new(vec![
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0)?,
            SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?,
        ])?],
    );
    // Threads have names; nothing else of a process's settings changes.
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME];
    let names = names.iter().map(|&option| one(0, SeccompCmpOp::Eq, u64::from(option.unsigned_abs())));
    rules.insert(libc::SYS_prctl, names.collect::<Result<_, _>>()?);
    // Descriptors can be asked about and marked, not turned into anything else.
    let plain = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC];
    let plain = plain.iter().map(|&command| one(1, SeccompCmpOp::Eq, u64::from(command.unsigned_abs())));
    rules.insert(libc::SYS_fcntl, plain.collect::<Result<_, _>>()?);
    // Files are read.
    let written = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
    let written = SeccompCmpOp::MaskedEq(u64::from(written.unsigned_abs()));
    rules.insert(libc::SYS_openat, vec![one(2, written.clone(), 0)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![one(1, written, 0)?]);
    if device == Device::Cuda {
        // The absent ones are left to filters of their own.
        rules.extend(ALLOWED_ON_GPU.iter().chain(ABSENT_ON_GPU).map(|&call| (call, Vec::new())));
        rules.extend(on_gpu()?);
    }
    Ok(rules)
}

/// The driver listens on a socket for processes that share memory with this one, and cannot do without; where `connect`
/// and `accept` are refused it reaches nobody and nobody is served. Landlock leaves it no name among the files.
fn on_gpu() -> Result<[(libc::c_long, Vec<SeccompRule>); 3], seccompiler::BackendError> {
    let plain = |argument, value: i32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value.unsigned_abs()))
    };
    let packets = SeccompCmpOp::MaskedEq(SOCKET_TYPES);
    let packets =
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, packets, u64::from(libc::SOCK_SEQPACKET.unsigned_abs()))?;
    let local = SeccompRule::new(vec![plain(0, libc::AF_UNIX)?, packets])?;
    let credentials = SeccompRule::new(vec![plain(1, libc::SOL_SOCKET)?, plain(2, libc::SO_PASSCRED)?])?;
    // It does not wait for its pipes.
    let status = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    let status =
        status.into_iter().map(|command| SeccompRule::new(vec![plain(1, command)?])).collect::<Result<_, _>>()?;
    Ok([(libc::SYS_socket, vec![local]), (libc::SYS_setsockopt, vec![credentials]), (libc::SYS_fcntl, status)])
}

fn one(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
}
