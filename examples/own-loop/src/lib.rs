//! Text from a language model, by a decode loop of the handler's own.
//!
//! The host has generation built in, which batches callers and samples; here is what to start from if you want another
//! way to choose tokens: every step is one plain `wasi:nn` run.

mod decoder;

use mayfly_sdk::{Error, Model, Request, Response, config, json};
use serde::Deserialize;

use crate::decoder::Decoder;

/// Tokens of the prompt in one run; bounds the memory of a run.
const PREFILL_TOKENS: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    prompt: String,
    #[serde(default = "max_tokens")]
    max_tokens: usize,
}

fn max_tokens() -> usize {
    64
}

#[mayfly_sdk::handler]
fn handle(request: Request) -> Result<Response, Error> {
    match (request.method(), request.path()) {
        ("POST", "/") => generate(request.json()?),
        (_, "/") => Err(Error::method_not_allowed("send POST with {\"prompt\": \"The capital of France is\"}")),
        (_, path) => Err(Error::not_found(format!("there is nothing at {path}; send POST to /"))),
    }
}

fn generate(asked: Asked) -> Result<Response, Error> {
    let model = Model::only()?;
    let prompt = encode(&model, &asked)?;
    let ends = ends(&model)?;
    let mut decoder = Decoder::new(&model)?;
    let mut tokens = Vec::new();
    let mut fed = prompt.as_slice();
    while tokens.len() < asked.max_tokens {
        let mut outputs = None;
        for piece in fed.chunks(PREFILL_TOKENS) {
            outputs = Some(decoder.run(piece)?);
        }
        let outputs = outputs.ok_or_else(|| Error::internal("there is nothing to run"))?;
        // Where to do something else than the likeliest: sample, mask, search.
        let scores = decoder.scores(&outputs)?;
        tokens.push(likeliest(&scores)?);
        fed = &tokens[tokens.len() - 1..];
        if ends.contains(&fed[0]) {
            break;
        }
    }
    let text = model.tokenizer().decode(&tokens, true)?;
    Response::json(&json!({ "text": text, "tokens": tokens }))
}

/// The prompt's tokens, if they and the answer fit into the model's context.
fn encode(model: &Model, asked: &Asked) -> Result<Vec<u32>, Error> {
    if asked.max_tokens == 0 {
        return Err(Error::invalid("`max_tokens` is 0; ask for at least one").with_param("max_tokens"));
    }
    let row = model.tokenizer().encode(std::slice::from_ref(&asked.prompt), None)?.pop();
    let row = row.filter(|row| !row.ids.is_empty());
    let row = row.ok_or_else(|| Error::invalid("`prompt` has no tokens").with_param("prompt"))?;
    let context = model.info()?.number("max_tokens")?.unwrap_or(usize::MAX);
    if row.truncated || row.ids.len().saturating_add(asked.max_tokens) > context {
        let asked = format!("prompt and `max_tokens` ({}) together are more", asked.max_tokens);
        return Err(Error::invalid(format!("the model's context length is {context} tokens; {asked}"))
            .with_param("prompt")
            .with_code("context_length_exceeded"));
    }
    Ok(row.ids)
}

/// The tokens that end an answer; the deployment names them.
fn ends(model: &Model) -> Result<Vec<u32>, Error> {
    let names: Vec<String> = config::get("ends")?.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let rows = model.tokenizer().encode_plain(&names, None)?;
    let one = |(name, ids): (&String, Vec<u32>)| match ids[..] {
        [id] => Ok(id),
        _ => Err(Error::internal(format!("`{name}` in `ends` is no token of this model"))),
    };
    names.iter().zip(rows.into_iter().map(|row| row.ids)).map(one).collect()
}

/// The first of the highest.
fn likeliest(scores: &[f32]) -> Result<u32, Error> {
    let best = scores.iter().enumerate().rev().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.and_then(|(at, _)| u32::try_from(at).ok()).ok_or_else(|| Error::internal("the model gave no scores"))
}
