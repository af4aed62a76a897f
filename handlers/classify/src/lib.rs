//! `builtin:classify`: bytes or texts to labels with scores.
//!
//! Which of the two follows from the model: one with the property `task = "bytes-classification"` gets the bytes, cut
//! as its properties say; one with a tokenizer gets token ids. README.md lists the properties.

mod answer;
mod bytes;
mod input;
mod labels;
mod text;

use mayfly_sdk::{Error, Model, Request, Response, json};

use crate::input::Inputs;

/// Labels in an answer unless the caller says otherwise.
const TOP: usize = 5;

#[mayfly_sdk::handler]
fn handle(request: Request) -> Result<Response, Error> {
    match (request.method(), request.path()) {
        ("POST" | "PUT", "/" | "/classify" | "/v1/classify") => classify(&request),
        ("GET" | "HEAD", "/") => about(),
        (_, "/" | "/classify" | "/v1/classify") => {
            Err(Error::method_not_allowed("send POST with the bytes to classify, or with {\"input\": \"text\"}"))
        }
        (_, path) => Err(Error::not_found(format!("there is nothing at {path}; send POST to /v1/classify"))),
    }
}

fn classify(request: &Request) -> Result<Response, Error> {
    let top = match request.query_value("top") {
        None => TOP,
        Some(text) => match text.parse() {
            Ok(top) if top > 0 => top,
            _ => return Err(Error::invalid(format!("`top` is `{text}`, not a number from 1 on")).with_param("top")),
        },
    };
    let is_json = request.header("content-type").is_some_and(input::is_json);
    let inputs = Inputs::parse(request.bytes()?, is_json)?;
    let model = Model::only()?;
    let answer = match model.info()?.property("task") {
        Some("bytes-classification") => bytes::classify(&model, inputs, top)?,
        _ if model.info()?.has_tokenizer => text::classify(&model, inputs, top)?,
        _ => {
            return Err(labels::unfit(model.info()?, "it has neither task = \"bytes-classification\" nor a tokenizer"));
        }
    };
    Response::json(&answer)
}

/// What this endpoint is, for people who open it in a browser.
fn about() -> Result<Response, Error> {
    let model = Model::only()?;
    let info = model.info()?;
    let takes = match info.property("task") {
        Some("bytes-classification") => "bytes",
        _ => "text",
    };
    Response::json(&json!({
        "handler": "classify",
        "model": info.name,
        "takes": takes,
        "labels": labels::Labels::of(info)?.names().len(),
        "routes": ["POST /v1/classify?top=5", "POST /classify", "POST /"],
    }))
}
