//! The smallest useful handler: JSON in, JSON out, a stream, the deployment's configuration. It needs no model.

use std::io::Write;

use mayfly_sdk::{Error, Request, Response, config, json};
use serde::Deserialize;

#[derive(Deserialize)]
struct Guest {
    name: String,
}

#[mayfly_sdk::handler]
fn handle(request: Request) -> Result<Response, Error> {
    match (request.method(), request.path()) {
        ("GET" | "HEAD", "/") => Ok(Response::text(format!("{} from Mayfly\n", greeting()?))),
        ("POST", "/") => greet(request.json()?),
        ("GET", "/count") => Ok(count()),
        (method, path) => {
            Err(Error::not_found(format!("there is no {method} {path}; try GET /, POST / or GET /count")))
        }
    }
}

fn greeting() -> Result<String, Error> {
    Ok(config::get("greeting")?.unwrap_or_else(|| "hello".to_owned()))
}

fn greet(guest: Guest) -> Result<Response, Error> {
    if guest.name.is_empty() {
        return Err(Error::invalid("`name` is empty").with_param("name"));
    }
    eprintln!("greeting {}", guest.name); // `mayfly logs hello` shows it
    Response::json(&json!({ "message": format!("{}, {}", greeting()?, guest.name) }))
}

/// Server-sent events, each on its way as soon as it is flushed.
fn count() -> Response {
    let body = Response::stream(|body| {
        for n in 1..=3 {
            write!(body, "data: {n}\n\n")?;
            body.flush()?;
        }
        Ok(())
    });
    body.header("content-type", "text/event-stream")
}
