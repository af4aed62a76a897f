//! `POST /v1/completions`.

mod answer;
mod request;

use mayfly_sdk::generation::Prompt;
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
    let shape = Shape {
        echoes: match wanted.echo {
            true => wanted.prompts.iter().map(|prompt| text(prompt, &model)).collect::<Result<_, _>>()?,
            false => vec![String::new(); wanted.prompts.len()],
        },
        choices: wanted.options.choices,
        logprobs: wanted.options.logprobs.is_some(),
        include_usage: wanted.include_usage,
    };
    let head = Head::new("cmpl-", crate::name(wanted.model, &model)?);
    let mut source = Generations::start(model.alias(), &wanted.prompts, &wanted.options)?;
    if wanted.stream {
        return Ok(sse::response(source, Chunks::new(head, shape)));
    }
    let answer = answer::whole(&mut source, &head, &shape)?;
    Ok(Response::bytes(answer).header("content-type", "application/json"))
}

/// The prompt as `echo` gives it back.
fn text(prompt: &Prompt, model: &Model) -> Result<String, Error> {
    match prompt {
        Prompt::Text(text) | Prompt::Chat(text) => Ok(text.clone()),
        Prompt::Tokens(ids) => model.tokenizer().decode(ids, false),
    }
}
