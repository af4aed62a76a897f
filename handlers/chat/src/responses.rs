//! `POST /v1/responses` for text. Nothing is stored: the whole conversation comes with each request.

mod answer;
mod request;

use mayfly_sdk::{Error, Model, Response};

use self::answer::{Answer, Events};
use self::request::Wanted;
use crate::head::Head;
use crate::source::Generations;
use crate::sse;

/// Answers the request with this body.
pub(crate) fn respond(body: &[u8]) -> Result<Response, Error> {
    let wanted = Wanted::parse(body)?;
    let model = Model::only()?;
    let head = Head::new("resp_", crate::name(wanted.model, &model)?);
    let mut source = Generations::start(model.alias(), &[wanted.prompt], &wanted.options)?;
    let answer = Answer::new(head, wanted.told);
    match wanted.stream {
        true => Ok(sse::response(source, Events::new(answer))),
        false => Response::json(&answer.whole(&mut source)?),
    }
}
