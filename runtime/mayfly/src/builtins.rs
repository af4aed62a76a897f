//! The handlers in the binary. `runtime/setup.sh` builds them before the binary is built.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Name (without `builtin:`), what it is for, and the component.
const BUILTINS: [(&str, &str, &[u8]); 3] = [
    (
        "chat",
        "chat with a decoder, as OpenAI's /v1/chat/completions and /v1/responses",
        include_bytes!(concat!(env!("MAYFLY_HANDLERS"), "/chat.wasm")),
    ),
    (
        "classify",
        "bytes or text to labels with scores",
        include_bytes!(concat!(env!("MAYFLY_HANDLERS"), "/classify.wasm")),
    ),
    (
        "embeddings",
        "text to vectors, as OpenAI's /v1/embeddings",
        include_bytes!(concat!(env!("MAYFLY_HANDLERS"), "/embeddings.wasm")),
    ),
];

/// The components by name.
pub fn components() -> BTreeMap<String, Bytes> {
    BUILTINS.iter().map(|&(name, _, wasm)| (name.to_owned(), Bytes::from_static(wasm))).collect()
}

/// Name and purpose of each.
pub fn list() -> impl Iterator<Item = (&'static str, &'static str)> {
    BUILTINS.iter().map(|&(name, purpose, _)| (name, purpose))
}
