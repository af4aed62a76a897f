//! The generated side of `mayfly:inference/generation`.

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "
            package mayfly:host-generation;
            world generates {
                import mayfly:inference/generation@0.1.0;
            }
        ",
        imports: {
            "mayfly:inference/generation.start": async | trappable,
            "mayfly:inference/generation.count": async | trappable,
            "mayfly:inference/generation.[method]stream.next": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:io/poll": wasmtime_wasi_io::bindings::wasi::io::poll,
            "mayfly:inference/generation.stream": crate::nn::generation::stream::HostStream,
        },
    });
}

pub(super) use generated::mayfly::inference::generation::{
    Chunk, Constraint, Error, FinishReason, Host, HostStream as HostStreamMethods, Limited, Options, Overflow, Prompt,
    Token, TopToken, Usage, add_to_linker,
};
