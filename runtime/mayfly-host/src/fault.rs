//! From a wasmtime error to the fault it stands for: the guest's, or the host being full.

use mayfly_types::GuestLimits;
use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::FieldMapError;

use crate::cpu::CpuExceeded;
use crate::limiter::Exceeded;
use crate::{GuestFault, HostError};

/// Characters of a fault's text.
const TEXT_MAX: usize = 500;
/// Function names of a trap's stack that are shown.
const FRAMES_MAX: usize = 4;

/// What `error`, out of a guest's call or instantiation, means. `instances_max` is the pool's size.
pub(crate) fn classify(error: &wasmtime::Error, limits: &GuestLimits, instances_max: u32) -> HostError {
    if error.is::<PoolConcurrencyLimitError>() {
        return HostError::Busy { limit: instances_max };
    }
    if let Some(exceeded) = error.downcast_ref::<Exceeded>() {
        return match *exceeded {
            Exceeded::Memory(limit_bytes) => GuestFault::MemoryLimit { limit_bytes },
            Exceeded::Table(limit) => {
                GuestFault::Limit(format!("the handler needed more than table_elements_max = {limit} table elements"))
            }
        }
        .into();
    }
    if let Some(CpuExceeded { limit_ms }) = error.downcast_ref::<CpuExceeded>() {
        return GuestFault::CpuLimit { limit_ms: *limit_ms }.into();
    }
    if error.is::<I32Exit>() {
        return GuestFault::Exit.into();
    }
    let root = error.root_cause().to_string();
    // wasmtime has no type for its own handle limit, only this text; the tests hold it.
    let handles_full = matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full))
        || root.contains("store handle limit exceeded");
    if handles_full {
        return GuestFault::Limit(format!("the handler held more than handles_max = {} handles", limits.handles_max))
            .into();
    }
    if let Some(FieldMapError::TotalSizeTooBig | FieldMapError::TooManyFields) = error.downcast_ref() {
        return GuestFault::Limit(headers_text(limits)).into();
    }
    GuestFault::Trap(describe(error, &root)).into()
}

/// Headers beyond `header_bytes_max`.
pub(crate) fn headers_text(limits: &GuestLimits) -> String {
    format!("the handler's headers are larger than header_bytes_max = {} bytes", limits.header_bytes_max)
}

/// The cause and the innermost functions, for the handler's developer.
fn describe(error: &wasmtime::Error, root: &str) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
        None => root.to_owned(),
    };
    let names: Vec<String> = error
        .downcast_ref::<WasmBacktrace>()
        .map(|trace| {
            trace
                .frames()
                .iter()
                .filter_map(|frame| frame.func_name())
                .take(FRAMES_MAX)
                .map(|name| format!("{:#}", rustc_demangle::demangle(name)))
                .collect()
        })
        .unwrap_or_default();
    if !names.is_empty() {
        text.push_str(" (in ");
        text.push_str(&names.join(", called by "));
        text.push(')');
    }
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}
