//! `builtin:embeddings`: OpenAI's `POST /v1/embeddings` for any encoder with a tokenizer.
//!
//! Texts become token ids at the host, ids become batches here, the model runs at the host, and its output is pooled
//! and normalised here, as the model's own configuration says. Tokens are counted by the host; the `usage` in the
//! answer is the same number told to the caller.

mod answer;
mod encoder;
mod input;
mod pool;

use mayfly_sdk::{Error, Model, Request, Response, json};

use crate::answer::Answer;
use crate::encoder::Encoder;
use crate::input::Wanted;

#[mayfly_sdk::handler]
fn handle(request: Request) -> Result<Response, Error> {
    match (request.method(), request.path()) {
        ("POST", "/" | "/embeddings" | "/v1/embeddings") => embeddings(&request),
        ("GET" | "HEAD", "/") => about(),
        (_, "/" | "/embeddings" | "/v1/embeddings") => {
            Err(Error::method_not_allowed("send POST with a JSON body such as {\"input\": \"text\"}"))
        }
        (_, path) => Err(Error::not_found(format!("there is nothing at {path}; send POST to /v1/embeddings"))),
    }
}

fn embeddings(request: &Request) -> Result<Response, Error> {
    let wanted = Wanted::parse(&request.bytes()?)?;
    let model = Model::only()?;
    let encoder = Encoder::new(&model)?;
    let (vectors, tokens) = encoder.embed(wanted.inputs, wanted.dimensions)?;
    let name = match wanted.model {
        Some(name) => name,
        None => model.info()?.name.clone(),
    };
    Answer { vectors, model: name, tokens, format: wanted.format }.into_response()
}

/// What this endpoint is, for people who open it in a browser.
fn about() -> Result<Response, Error> {
    let model = Model::only()?;
    let info = model.info()?;
    Response::json(&json!({
        "handler": "embeddings",
        "model": info.name,
        "dimensions": info.number::<u64>("dimensions")?,
        "max_tokens": info.number::<u64>("max_tokens")?,
        "routes": ["POST /v1/embeddings", "POST /embeddings", "POST /"],
        "example": { "input": ["how do I reset my password", "the weather in Oslo"] },
    }))
}
