//! Reads texts line by line and streams one line back for each: its number and how far its vector reaches. Slow on
//! purpose (`?ms=200` between lines), so that a caller can leave, or the server be killed, half way.

use std::io::Write as _;

use mayfly_sdk::bindings::wasi::clocks::monotonic_clock;
use mayfly_sdk::{Error, Model, Request, Response, TokenModel};

#[mayfly_sdk::handler]
fn handle(request: Request) -> Result<Response, Error> {
    let pause = request.query_value("ms").and_then(|ms| ms.parse::<u64>().ok()).unwrap_or(0).min(2_000);
    let texts: Vec<String> = request.text()?.lines().map(str::to_owned).collect();
    let model = Model::only()?;
    Ok(Response::stream(move |body| {
        let tokens = TokenModel::new(&model)?;
        for (number, text) in texts.into_iter().enumerate() {
            let rows = tokens.encode(&[text])?;
            let members: Vec<_> = rows.iter().collect();
            let (outputs, _) = tokens.run(&members)?;
            let reach = outputs.iter().next().map_or(0, |(_, tensor)| tensor.dimensions().len());
            writeln!(body, "line {number}: {} tokens, an output of {reach} dimensions", rows[0].ids.len())
                .and_then(|()| body.flush())
                .map_err(Error::from)?;
            monotonic_clock::subscribe_duration(pause * 1_000_000).block();
        }
        Ok(())
    })
    .header("content-type", "text/plain"))
}
