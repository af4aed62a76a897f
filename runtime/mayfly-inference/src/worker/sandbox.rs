//! What a worker gives up before it reads a byte of a model.
//!
//! In this order: every inherited file but its socket, its rights, memory and descriptors beyond limits, every file but
//! ONNX Runtime and its tenant's packages (`files`, before there is a second thread), and, once the library is open, all
//! system calls but those that running a model needs (`calls`). What cannot be had is an error: whether that is
//! acceptable was decided before the worker was started ([`missing_from_sandbox`]).

mod calls;
mod files;
mod limits;

use std::path::Path;

use super::config::SandboxPolicy;
use crate::Device;

/// What a process is to be locked into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<'a> {
    /// The folder with its packages.
    pub(super) room: &'a Path,
    pub(super) ort_dylib: &'a Path,
    pub(super) device: Device,
    pub(super) memory_bytes_max: u64,
    pub(super) shared_bytes_max: u64,
}

/// Closes what was inherited beyond the first three descriptors, and ends this process with its parent. **Call first in
/// the process**, before it has a descriptor of its own.
///
/// # Errors
/// As [`enter`].
pub(super) fn alone() -> Result<(), String> {
    limits::alone()
}

/// The part that comes before any other thread and before the library.
///
/// # Errors
/// What could not be done; the process must not go on.
pub(super) fn enter(bounds: &Bounds<'_>) -> Result<(), String> {
    limits::without_rights()?;
    limits::bounded(bounds)?;
    if files::are_offered() { files::only(bounds) } else { Ok(()) }
}

/// The part that comes once the library is open and its threads are there; it holds for all of them.
///
/// # Errors
/// As [`enter`].
pub(super) fn close(device: Device) -> Result<(), String> {
    if calls::are_offered() { calls::only(device) } else { Ok(()) }
}

/// What this system cannot give of a worker's sandbox, each as a sentence for the operator; nothing on a current Linux.
pub fn missing_from_sandbox() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !files::are_offered() {
        missing.push(
            "the kernel has no Landlock (Linux 5.13 or later, with `landlock` among its security modules): a worker \
             could read files of the server's user",
        );
    }
    if !calls::are_offered() {
        missing.push(
            "the kernel has no seccomp filters for this processor: a worker could use the network and start programs",
        );
    }
    missing
}

/// Whether workers may be started here at all, under `policy`.
///
/// # Errors
/// What the operator reads.
pub(super) fn accepted(policy: SandboxPolicy) -> Result<(), String> {
    let missing = missing_from_sandbox();
    if missing.is_empty() {
        return Ok(());
    }
    let text = missing.join("; ");
    match policy {
        SandboxPolicy::Required => Err(format!(
            "workers.sandbox is \"required\", and {text} (\"best-effort\" runs tenants' models without it)"
        )),
        SandboxPolicy::BestEffort => {
            tracing::warn!(missing = text, "processes for tenants' models are not locked in as far as they could be");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
