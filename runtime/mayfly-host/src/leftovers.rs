//! What a guest still holds of a request that is over, in an instance that is kept for the next one.
//!
//! Every resource dies with its request, whatever the guest keeps a handle of. The place of each such resource in the
//! table is taken by a marker, so that the handle can never mean a later request's resource: using it traps, dropping it
//! is fine (languages with a garbage collector drop late). Only standard input, output and error live as long as the
//! instance: guests open them once.

use std::collections::BTreeSet;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable, ResourceTableError, ResourceType};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p2::bindings::cli::{stderr, stdin, stdout};
use wasmtime_wasi_http::p2::bindings::http::types as http;
use wasmtime_wasi_http::p2::body::{HostFutureTrailers, HostIncomingBody, HostOutgoingBody};
use wasmtime_wasi_http::p2::types::{
    HostFutureIncomingResponse, HostIncomingRequest, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
    HostResponseOutparam,
};
use wasmtime_wasi_http::{FieldMap, RequestOptions, WasiHttpView as _};
use wasmtime_wasi_io::bindings::wasi::io::{error, poll, streams};
use wasmtime_wasi_io::poll::DynPollable;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, Error as StreamFailure};

use crate::state::GuestState;

/// Handles that an instance may hold of earlier requests, all of them together. With more it is not kept.
const LEFTOVERS_MAX: usize = 64;

/// Takes the place of a resource whose request is over.
#[derive(Debug)]
struct Gone;

/// An instance that cannot be kept: it holds too much of its request, or left its answer unfinished.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotKept(pub(crate) &'static str);

/// Ends every resource in `table` but those in `lasting`. Says how many places handles of ended ones take.
///
/// # Errors
/// [`NotKept`]; the instance must go.
pub(crate) fn end_all(table: &mut ResourceTable, lasting: &BTreeSet<u32>) -> Result<usize, NotKept> {
    let occupied = table.iter_mut().count();
    let (mut open, mut gone, mut seen) = (Vec::new(), 0_usize, 0_usize);
    let mut index = 0_u32;
    while seen < occupied {
        if let Ok(resource) = table.get_any_mut(index) {
            seen += 1;
            if resource.is::<HostOutgoingBody>() || resource.is::<HostResponseOutparam>() {
                return Err(NotKept("it left an answer unfinished"));
            }
            if resource.is::<Gone>() {
                gone += 1;
            } else if !lasting.contains(&index) {
                open.push(index);
            }
        }
        index = index.checked_add(1).ok_or(NotKept("its table is full"))?;
    }
    let count = gone + open.len();
    if count > LEFTOVERS_MAX {
        return Err(NotKept("it holds too many handles of earlier requests"));
    }
    // Children before their parents.
    while !open.is_empty() {
        let before = open.len();
        let mut moved = false;
        open.retain(|&index| match table.delete(Resource::<Gone>::new_own(index)) {
            Err(ResourceTableError::HasChildren) => true,
            // Of another type, as it has to be: it has been taken out all the same, and its place is the next one given.
            _ => {
                moved |= table.push(Gone).map_or(true, |place| place.rep() != index);
                false
            }
        });
        if moved || open.len() == before {
            return Err(NotKept("its resources cannot be ended"));
        }
    }
    Ok(count)
}

/// Takes out a resource that its guest drops. One that is gone already leaves its place only.
pub(crate) fn discard<T: 'static>(table: &mut ResourceTable, resource: Resource<T>) -> wasmtime::Result<()> {
    if !was_gone(table, resource.rep()) {
        table.delete(resource)?;
    }
    Ok(())
}

/// Frees the place of a resource that is gone; false if it is not one.
fn was_gone(table: &mut ResourceTable, index: u32) -> bool {
    table.get::<Gone>(&Resource::new_borrow(index)).is_ok() && table.delete(Resource::<Gone>::new_own(index)).is_ok()
}

/// Replaces the destructors of foreign resources, which would trap on one that is gone, and the functions that open
/// standard input, output and error.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    macro_rules! http_types {
        ($($resource:ty, $name:literal, $host:ident;)*) => {$(
            on_drop::<$resource>(linker, "wasi:http/types@0.2.12", $name, |state, it| {
                http::$host::drop(&mut state.http(), it)
            })?;
        )*};
    }
    http_types! {
        FieldMap, "fields", HostFields;
        HostIncomingRequest, "incoming-request", HostIncomingRequest;
        HostOutgoingRequest, "outgoing-request", HostOutgoingRequest;
        RequestOptions, "request-options", HostRequestOptions;
        HostResponseOutparam, "response-outparam", HostResponseOutparam;
        HostIncomingResponse, "incoming-response", HostIncomingResponse;
        HostIncomingBody, "incoming-body", HostIncomingBody;
        HostFutureTrailers, "future-trailers", HostFutureTrailers;
        HostOutgoingResponse, "outgoing-response", HostOutgoingResponse;
        HostOutgoingBody, "outgoing-body", HostOutgoingBody;
        HostFutureIncomingResponse, "future-incoming-response", HostFutureIncomingResponse;
    }
    on_drop::<DynPollable>(linker, "wasi:io/poll@0.2.12", "pollable", |state, it| {
        poll::HostPollable::drop(&mut state.table, it)
    })?;
    on_drop::<StreamFailure>(linker, "wasi:io/error@0.2.12", "error", |state, it| {
        error::HostError::drop(&mut state.table, it)
    })?;
    streams_on_drop(linker)?;

    type Store<'a> = StoreContextMut<'a, GuestState>;
    linker.instance("wasi:cli/stdin@0.2.12")?.func_wrap("get-stdin", |mut store: Store<'_>, (): ()| {
        let state = store.data_mut();
        let stream = stdin::Host::get_stdin(&mut wasmtime_wasi::cli::WasiCliView::cli(state))?;
        state.lasting.insert(stream.rep());
        Ok((stream,))
    })?;
    linker.instance("wasi:cli/stdout@0.2.12")?.func_wrap("get-stdout", |mut store: Store<'_>, (): ()| {
        let state = store.data_mut();
        let stream = stdout::Host::get_stdout(&mut wasmtime_wasi::cli::WasiCliView::cli(state))?;
        state.lasting.insert(stream.rep());
        Ok((stream,))
    })?;
    linker.instance("wasi:cli/stderr@0.2.12")?.func_wrap("get-stderr", |mut store: Store<'_>, (): ()| {
        let state = store.data_mut();
        let stream = stderr::Host::get_stderr(&mut wasmtime_wasi::cli::WasiCliView::cli(state))?;
        state.lasting.insert(stream.rep());
        Ok((stream,))
    })
}

fn on_drop<T: 'static>(
    linker: &mut Linker<GuestState>,
    interface: &str,
    name: &str,
    drop: fn(&mut GuestState, Resource<T>) -> wasmtime::Result<()>,
) -> wasmtime::Result<()> {
    linker.instance(interface)?.resource(name, ResourceType::host::<T>(), move |mut store, index| {
        let state = store.data_mut();
        if was_gone(&mut state.table, index) { Ok(()) } else { drop(state, Resource::new_own(index)) }
    })
}

/// Those that end with a wait.
fn streams_on_drop(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut instance = linker.instance("wasi:io/streams@0.2.12")?;
    let ty = ResourceType::host::<DynInputStream>();
    instance.resource_async("input-stream", ty, |mut store, index| {
        Box::new(async move {
            let state = store.data_mut();
            state.lasting.remove(&index);
            if was_gone(&mut state.table, index) {
                return Ok(());
            }
            streams::HostInputStream::drop(state.ctx().table, Resource::new_own(index)).await
        })
    })?;
    let ty = ResourceType::host::<DynOutputStream>();
    instance.resource_async("output-stream", ty, |mut store, index| {
        Box::new(async move {
            let state = store.data_mut();
            state.lasting.remove(&index);
            if was_gone(&mut state.table, index) {
                return Ok(());
            }
            streams::HostOutputStream::drop(state.ctx().table, Resource::new_own(index)).await
        })
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn none() -> BTreeSet<u32> {
        BTreeSet::new()
    }

    #[test]
    fn a_handle_of_before_never_means_what_came_later() {
        let mut table = ResourceTable::new();
        let kept: Vec<_> = (0..5).map(|number| table.push(format!("secret {number}")).unwrap()).collect();
        let dropped = table.push(0_u8).unwrap();
        table.delete(dropped).unwrap();
        assert_eq!(end_all(&mut table, &none()), Ok(5));
        let new: Vec<_> = (0..20).map(|number| table.push(format!("new {number}")).unwrap()).collect();
        for old in &kept {
            assert!(new.iter().all(|new| new.rep() != old.rep()), "{} was given again", old.rep());
            assert!(matches!(table.get(old), Err(ResourceTableError::WrongType)));
        }
        // Dropping one frees its place; nobody has the handle any more.
        for old in kept {
            discard(&mut table, old).unwrap();
        }
        assert_eq!(end_all(&mut table, &none()), Ok(20));
    }

    #[test]
    fn children_go_before_their_parents() {
        let mut table = ResourceTable::new();
        let parent = table.push("parent").unwrap();
        let child = table.push_child("child", &parent).unwrap();
        let _grandchild = table.push_child("grandchild", &child).unwrap();
        assert_eq!(end_all(&mut table, &none()), Ok(3));
        assert_eq!(end_all(&mut table, &none()), Ok(3), "they stay gone");
    }

    #[test]
    fn what_lasts_stays() {
        let mut table = ResourceTable::new();
        let stream = table.push("stdout").unwrap();
        let _waiting = table.push_child("a pollable of it", &stream).unwrap();
        assert_eq!(end_all(&mut table, &[stream.rep()].into()), Ok(1));
        assert_eq!(*table.get(&stream).unwrap(), "stdout");
    }

    #[test]
    fn who_hoards_is_not_kept() {
        let mut table = ResourceTable::new();
        for _ in 0..LEFTOVERS_MAX {
            table.push(()).unwrap();
            end_all(&mut table, &none()).unwrap();
        }
        table.push(()).unwrap();
        assert!(end_all(&mut table, &none()).is_err());
    }
}
