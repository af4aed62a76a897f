//! Write Mayfly handlers in Rust.
//!
//! A handler is one function from a request to a response, compiled to a WebAssembly component that runs in a sandbox
//! next to the models its deployment was granted:
//!
//! ```no_run
//! use mayfly_sdk::{Error, Model, Request, Response, Tensor, json};
//!
//! #[mayfly_sdk::handler]
//! fn handle(request: Request) -> Result<Response, Error> {
//!     let numbers: Vec<f32> = request.json()?;
//!     let model = Model::only()?;
//!     let input = Tensor::from_slice(&numbers, &[1, numbers.len()])?;
//!     let outputs = model.run([("x", input)])?;
//!     Response::json(&json!({ "y": outputs.get("y")?.to_vec::<f32>()? }))
//! }
//! ```
//!
//! Build it with `cargo build --release --target wasm32-wasip2` in a crate with `crate-type = ["cdylib"]`.
//!
//! - [`Request`] and [`Response`]: headers, JSON, bytes and streams both ways.
//! - [`Model`] and [`Tensor`]: what was granted, and running it. [`Tokenizer`]: text to ids and back, done by the host.
//! - [`TokenModel`]: many texts through a model that takes token ids, padded and batched.
//! - [`generation`]: text from a language model, as it comes.
//! - [`config`]: the deployment's own settings. Logs are lines on standard error: `eprintln!`.
//! - [`Error`]: becomes an HTTP answer in OpenAI's shape, so `?` is enough in most places.
//!
//! The host counts tokens and time where models are called; a handler never does. What it knows is in `wit/` only: any
//! host that offers those interfaces can run the component.

#[doc(hidden)]
pub mod bindings;
pub mod config;
mod error;
pub mod generation;
mod model;
pub mod models;
mod request;
mod response;
mod serve;
mod tensor;
mod token_model;
mod tokenizer;

pub use error::Error;
pub use half;
pub use mayfly_sdk_macros::handler;
pub use model::{Dimension, Model, ModelInfo, Outputs, Role, TensorInfo};
pub use request::{Body, Request};
pub use response::{BodyWriter, Response};
pub use serde_json::{self, json};
pub use tensor::{Element, ElementType, Tensor, TensorData};
pub use token_model::TokenModel;
pub use tokenizer::{Encoding, Tokenizer};

/// What the attribute macro needs. Not for handlers, may change at any time.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::__export_handler as export;
    pub use crate::bindings::exports::wasi::http::incoming_handler::Guest;
    pub use crate::bindings::wasi::http::types::{IncomingRequest, ResponseOutparam};
    pub use crate::serve::serve;
}
