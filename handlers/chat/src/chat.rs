//! `POST /v1/chat/completions`.

mod answer;
mod grammar;
mod request;
mod tool_calls;
mod tools;

use mayfly_sdk::{Error, Model, Response};

use self::answer::{Chunks, Shape};
use self::request::Wanted;
use crate::head::Head;
use crate::source::Generations;
use crate::sse;

/// Answers the request with this body.
pub(crate) fn complete(body: &[u8]) -> Result<Response, Error> {
    let wanted = Wanted::parse(body)?;
    let model = Model::only()?;
    if wanted.tools.is_some() {
        knows_tools(&model)?;
    }
    let shape = Shape {
        choices: wanted.options.choices,
        logprobs: wanted.options.logprobs.is_some(),
        tools: wanted.tools.map(|tools| tools.names()),
        include_usage: wanted.include_usage,
    };
    let head = Head::new("chatcmpl-", crate::name(wanted.model, &model)?);
    let mut source = Generations::start(model.alias(), &[wanted.prompt], &wanted.options)?;
    if wanted.stream {
        return Ok(sse::response(source, Chunks::new(head, &shape)));
    }
    let answer = answer::whole(&mut source, &head, &shape)?;
    Ok(Response::bytes(answer).header("content-type", "application/json"))
}

/// A model whose template shows no tools would never call one.
fn knows_tools(model: &Model) -> Result<(), Error> {
    let info = model.info()?;
    if info.property("tools") == Some("true") {
        return Ok(());
    }
    let message = format!("the model `{}` has no tools in its chat template; leave `tools` out", info.name);
    Err(Error::invalid(message).with_param("tools").with_code("unsupported_parameter"))
}
