//! What runs around a handler's function.

use crate::bindings::wasi::http::types::{IncomingRequest, ResponseOutparam};
use crate::{Error, Request, Response};

/// Calls `handle` for one request and sends what it returns.
pub fn serve(incoming: IncomingRequest, answer: ResponseOutparam, handle: fn(Request) -> Result<Response, Error>) {
    let request = Request::new(incoming);
    let with_body = request.method() != "HEAD";
    let response = handle(request).unwrap_or_else(|error| {
        if error.status() >= 500 {
            eprintln!("{error}");
        }
        error.into_response()
    });
    response.send(answer, with_body);
}
