//! A handler: one function from a request to a response. The host gives it a URL, a sandbox and the models it was granted.

use mayfly_sdk::{Error, Request, Response, handler, models};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Greet {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    message: String,
    /// The models this deployment was granted in `mayfly.toml`.
    models: Vec<String>,
}

#[handler]
fn handle(request: Request) -> Result<Response, Error> {
    match (request.method(), request.path()) {
        ("GET", "/") => Response::json(&greet("world")),
        ("POST", "/") => {
            let greet_whom: Greet = request.json()?;
            Response::json(&greet(&greet_whom.name))
        }
        _ => Err(Error::not_found("try GET / or POST / with {\"name\": \"Ada\"}")),
    }
}

fn greet(name: &str) -> Greeting {
    // Standard error is the deployment's log: `mayfly logs NAME`.
    eprintln!("greeting {name}");
    Greeting { message: format!("hello, {name}"), models: models::granted() }
}
