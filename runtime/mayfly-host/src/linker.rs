//! What a component may import, as one linker: the same for the server and for the check in the compiling child.

use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::state::GuestState;
use crate::{answer, keyvalue, leftovers, nn};

/// Everything that is linked, for every guest alike; what a guest may reach through it is decided by its state.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    // Replaced: the constructors and getters of tensors, by ones that copy once, how an answer is written, and what
    // becomes of resources that outlive their request.
    linker.allow_shadowing(true);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    answer::add_to_linker(&mut linker)?;
    leftovers::add_to_linker(&mut linker)?;
    nn::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    Ok(linker)
}
