//! The generated side of `wasi:keyvalue`: traits to implement and types to answer with.

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "
            package mayfly:host-keyvalue;
            world key-values {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
            }
        ",
        imports: {
            "wasi:keyvalue/store.open": trappable,
            "wasi:keyvalue/store.[drop]bucket": trappable,
            default: async | trappable,
        },
        with: {
            "wasi:keyvalue/store.bucket": crate::keyvalue::store::Bucket,
        },
    });
}

pub(super) use generated::KeyValues;
pub(super) use generated::wasi::keyvalue::{atomics, batch, store};
