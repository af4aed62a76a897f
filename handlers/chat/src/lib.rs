//! `builtin:chat`: OpenAI's chat completions, completions and responses for any decoder the host can generate with.
//!
//! The host makes the prompt from the model's own template, samples, and counts tokens; this handler reads OpenAI's
//! requests and writes OpenAI's answers. README.md lists every parameter.

mod chat;
mod completions;
mod constraint;
mod fields;
mod head;
mod logprobs;
mod messages;
mod options;
mod responses;
mod source;
mod sse;

use mayfly_sdk::{Error, Model, Request, Response, json};

/// Read as JSON in memory, where a byte of a hostile body becomes up to 16.
const BODY_BYTES_MAX: u64 = 4 << 20;

/// All of them also without `/v1`.
const ROUTES: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/v1/responses"];

#[mayfly_sdk::handler]
fn handle(request: Request) -> Result<Response, Error> {
    let request = request.body_limit(BODY_BYTES_MAX);
    let path = request.path();
    let answer: fn(&[u8]) -> Result<Response, Error> = match path.strip_prefix("/v1").unwrap_or(path) {
        "/chat/completions" => chat::complete,
        "/completions" => completions::complete,
        "/responses" => responses::respond,
        _ if path == "/" && matches!(request.method(), "GET" | "HEAD") => return about(),
        _ => {
            let message = format!("there is nothing at {path}; send POST to one of {}", ROUTES.join(", "));
            return Err(Error::not_found(message));
        }
    };
    match request.method() {
        "POST" => answer(&request.bytes()?),
        _ => Err(Error::method_not_allowed(format!("send POST with a JSON body to {path}"))),
    }
}

/// The model's name in the answer: as the caller gave it, else as it is registered.
fn name(asked: Option<String>, model: &Model) -> Result<String, Error> {
    match asked {
        Some(name) => Ok(name),
        None => Ok(model.info()?.name.clone()),
    }
}

/// What this endpoint is, for people who open it in a browser.
fn about() -> Result<Response, Error> {
    let model = Model::only()?;
    let info = model.info()?;
    Response::json(&json!({
        "handler": "chat",
        "model": info.name,
        "chat": info.property("chat") == Some("true"),
        "tools": info.property("tools") == Some("true"),
        "routes": ROUTES,
        "example": { "messages": [{ "role": "user", "content": "What is the capital of Norway?" }], "stream": true },
    }))
}
